"""What holds on a GPU: exact zeros, the same bits after each interruption, under recorded steps too."""

import copy
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruning import archs, masks, rng
from pruning.checkpoints import MODEL, load
from pruning.data import Data, DatasetSettings, Split, load_data, train_batches
from pruning.env import Env
from pruning.errors import Interrupted, UserError
from pruning.training import TrainingHooks, TrainRecipe, evaluate, fit
from pruning.training.evaluation import autocast
from pruning.training.graphs import warned
from pruning.training.loop import TrainingLoop
from tests.commands import ROOT
from tests.training.test_loop import CYCLED, RECIPES, Memory

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DEVICE = torch.device("cuda")


@pytest.fixture(autouse=True, scope="module")
def prepared() -> None:
    Env().prepare()


@pytest.fixture(scope="module")
def images() -> Data:
    """104 images in batches of 10 and 9."""
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (104, 16, 16, 3), generator=draw, dtype=torch.uint8)
    split = Split(pixels, torch.arange(104) % 10).to(DEVICE)
    return Data(split, None, split, tuple("0123456789"), (0.5, 0.5, 0.5), (0.3, 0.3, 0.3), pad=2, flip=True)


def network(arch: str = "resnet20", drop: bool = True) -> nn.Module:
    """The same one each time; its last layer drops half of what it reads."""
    model = archs.build(arch, 10)
    archs.initialise(model, rng.generator(0, "init"))
    if drop:
        model.fc = nn.Sequential(nn.Dropout(0.5), model.get_submodule("fc"))
    return model


def mask_of(model: nn.Module) -> masks.Mask:
    weights = dict(model.named_parameters())
    return masks.keep_top({name: weights[name].detach().abs() for name in masks.prunable(model)}, 0.8)


def trained(data: Data, recipe: TrainRecipe, hooks: TrainingHooks | None = None, **options: Any) -> dict[str, Tensor]:
    model = network()
    fit(model, data, recipe, mask=mask_of(model), hooks=hooks, **options)
    return copy.deepcopy(model.state_dict())


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_recorded_step_gives_the_bits_of_the_usual_one_and_again(
    images: Data, recipe: TrainRecipe, precision: str
) -> None:
    usual, again, recorded = (
        trained(images, recipe, precision=precision, cuda_graph=graph) for graph in (False, False, True)
    )
    assert same(usual, again)
    assert same(usual, recorded)
    model = network()
    for name, keep in mask_of(model).items():
        assert not recorded[name].cpu()[~keep].view(torch.int32).count_nonzero()


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("recipe", [*RECIPES.values(), *CYCLED.values()], ids=[*RECIPES, *CYCLED])
def test_an_interrupted_training_comes_to_the_same_bits(images: Data, recipe: TrainRecipe, graph: bool) -> None:
    whole, saved = trained(images, recipe, precision="bf16", cuda_graph=graph), None
    for stop in (3, 1, 7, 6, None):
        model, hooks = network(), Memory(stop, saved)
        try:
            fit(model, images, recipe, mask=mask_of(model), hooks=hooks, precision="bf16", cuda_graph=graph)
        except Interrupted:
            assert stop
        saved = hooks.saved
    assert same(whole, model.state_dict())


@pytest.mark.parametrize("arch", ["resnet20", "preresnet110", "vgg16", "wrn_16_8"])
def test_each_kind_of_network_comes_to_the_same_bits_again(arch: str) -> None:
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (1280, 32, 32, 3), generator=draw, dtype=torch.uint8)
    split = Split(pixels, torch.arange(1280) % 10).to(DEVICE)
    data = Data(split, None, split, tuple("0123456789"), (0.5, 0.5, 0.5), (0.3, 0.3, 0.3), pad=4, flip=True)
    recipe = TrainRecipe(epochs=1, batch_size=128, lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    found = []
    for graph in (False, True, False):
        model = network(arch, drop=False)
        fit(model, data, recipe, mask=mask_of(model), precision="bf16", cuda_graph=graph)
        found.append(copy.deepcopy(model.state_dict()))
    assert same(found[0], found[2])
    assert same(found[0], found[1])


def test_float32_is_float32_and_tf32_is_not(images: Data) -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(64, 64, 16, 16, generator=draw, dtype=torch.float64)
    w = torch.randn(64, 64, 3, 3, generator=draw, dtype=torch.float64)
    exact = torch.nn.functional.conv2d(x, w, padding=1)
    off = {}
    for precision in ("tf32", "fp32"):
        with autocast(DEVICE, precision):
            found = torch.nn.functional.conv2d(x.float().cuda(), w.float().cuda(), padding=1).cpu().double()
        off[precision] = float((found - exact).norm() / exact.norm())
    assert off["fp32"] < 2e-6 < 1e-4 < off["tf32"], off


class Waits(nn.Module):
    """Asks the device something in each forward pass, and drops."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.drop, self.fc = nn.Conv2d(3, 4, 3), nn.Dropout(0.5), nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        scale = float(x.abs().max())
        return self.fc(self.drop(self.conv(x / scale)).mean((2, 3)))


def test_a_network_that_waits_for_the_device_is_trained_as_usual(images: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pruning.training.loop.PAYS", 1)
    notes: list[str] = []
    hooks = TrainingHooks()
    monkeypatch.setattr(hooks, "note", notes.append)
    torch.manual_seed(0)
    model = Waits()
    start, found = copy.deepcopy(model.state_dict()), []
    for graph in (False, None):
        model.load_state_dict(start)
        fit(model, images, RECIPES["nesterov"], hooks=hooks, cuda_graph=graph)
        found.append(copy.deepcopy(model.state_dict()))
    assert same(*found)
    assert len(notes) == 1
    assert notes[0].startswith("each step waits for the device, so it is not recorded")
    with pytest.raises(UserError, match=r"try env\.cuda_graph=false"):
        fit(model, images, RECIPES["nesterov"], cuda_graph=True)
    fit(network(), images, RECIPES["adam"], cuda_graph=True)  # the device is none the worse for it


def test_nothing_waits_for_the_device_between_the_first_and_the_last_step(images: Data) -> None:
    model = network()
    loop = TrainingLoop(model, mask_of(model), images, RECIPES["nesterov"], (0, "training"), "bf16", TrainingHooks())
    loop.record(True)
    model.train()
    batches = list(train_batches(images, batch_size=10, seed=0, epoch=0))
    for batch in batches * 2:
        loop.step(*batch)
    with warned() as said:
        for batch in batches:
            loop.step(*batch)
    assert "called a synchronizing CUDA operation" not in said


def test_images_on_the_host_give_the_same_bits(images: Data) -> None:
    host = replace(images.train.to("cpu"), rows=None)
    there = Split(host.images, host.labels.to(DEVICE), torch.arange(len(host)))
    model = network()
    fit(model, replace(images, train=there), RECIPES["adam"], mask=mask_of(model), cuda_graph=True)
    assert same(trained(images, RECIPES["adam"], cuda_graph=True), model.state_dict())


def command(folder: Path, *arguments: str) -> list[str]:
    where = [f"env.runs={folder}", "env.wandb.mode=disabled", "env.device=cuda"]
    return [sys.executable, str(ROOT / "main.py"), *where, *arguments]


def results(folder: Path) -> dict[str, Any]:
    found = [json.loads(path.read_text()) for path in folder.glob("*/result.json")]
    return {result["id"]: result["test_loss"] for result in found}


SMALL = ("train.epochs=2", "finetune.epochs=2", "prune.percent=0.5,0.8", "seed=0,1")


def test_several_workers_on_one_gpu_and_any_kill_come_to_the_same_bits(tmp_path: Path) -> None:
    one = subprocess.run(command(tmp_path / "a", "-m", *SMALL), capture_output=True, text=True, check=False)
    assert one.returncode == 0, one.stdout + one.stderr
    shared = command(tmp_path / "b", "-m", "hydra.launcher.per_device=3", *SMALL)
    process = subprocess.Popen(shared, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list((tmp_path / "b").glob("*/result.json")) and process.poll() is None:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    two = subprocess.run(shared, capture_output=True, text=True, check=False)
    assert two.returncode == 0, two.stdout + two.stderr
    assert len(results(tmp_path / "a")) == 10
    assert results(tmp_path / "a") == results(tmp_path / "b")


def test_what_was_trained_there_is_loaded_here(tmp_path: Path) -> None:
    done = subprocess.run(
        command(tmp_path, "train.epochs=3", "finetune.epochs=1"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = tmp_path.glob("*finetune*")
    saved = load(run / MODEL)
    data = load_data(DatasetSettings(name="digits", pad=4))
    here = evaluate(saved.network(), data)["top1"]
    assert here == pytest.approx(json.loads((run / "result.json").read_text())["test_top1"], abs=1.0)
