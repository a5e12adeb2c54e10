import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from pruning import archs, execute
from pruning.checkpoints import Checkpoint
from tests.commands import ROOT, Command


@pytest.fixture
def refused(command: Command) -> Callable[..., str]:
    """`refused("prune.percent=30")` returns the one line that such a command ends with."""

    def run(*overrides: str, cold: bool = False, runs: Path | None = None, **environ: str) -> str:
        ended = command("train.epochs=0", "finetune.epochs=0", *overrides, cold=cold, runs=runs, **environ)
        lines = ended.stderr.splitlines()
        assert (ended.returncode, len(lines)) == (1, 1), f"{ended.returncode}\n{ended.stdout}\n{ended.stderr}"
        assert lines[0].startswith("error: ")
        assert "starts" not in ended.stdout
        assert not list(command.home.rglob("result.json"))
        return lines[0].removeprefix("error: ")

    return run


VALUES = [
    ("prune.percent=30", r"prune.percent must be in \[0, 1\), got 30; did you mean 0.3\?"),
    ("prune.percent=-0.1", r"prune.percent must be in \[0, 1\), got -0.1"),
    ("prune.percent=nan", r"prune.percent must be in \[0, 1\), got nan"),
    ("prune.percent=1.0", r"prune.percent must be in \[0, 1\), got 1"),
    ("prune.percent=abc", r"prune.percent must be a number, got 'abc'"),
    ("prune.percent=null", r"prune.percent is not set: give prune.percent=\.\.\."),
    ("prune.criterion=magnitud", r"prune.criterion must be one of .*, got 'magnitud'; did you mean magnitude\?"),
    ("prune.scope=globl", r"prune.scope must be one of global, layer, got 'globl'; did you mean global\?"),
    ("seed=null", r"seed must be a whole number, got None"),
    ("seed=-1", r"seed must be a whole number >= 0, got -1"),
    ("seed=one", r"seed must be a whole number, got 'one'"),
    ("train.epochs=two", r"train.epochs must be a whole number, got 'two'"),
    ("train.epochs=1.5", r"train.epochs must be a whole number, got 1.5"),
    ("train.batch_size=0", r"train.batch_size must be >= 1, got 0"),
    ("finetune.lr=0", r"finetune.lr must be > 0, got 0"),
    ("train.nesterov=maybe", r"train.nesterov must be true or false, got 'maybe'"),
    ("train.precision=fp16", r"train.precision must be one of auto, bf16, fp32, got 'fp16'"),
    ("train.optimizer=adan", r"train.optimizer must be one of .*, got 'adan'; did you mean adam\?"),
    ("dataset.val_fraction=20", r"dataset.val_fraction must be in \[0, 1\), got 20"),
    ("dataset.pad=-1", r"dataset.pad must be .*, got -1"),
    ("env.device=gpu", r"env.device must be auto, cpu, cuda or cuda:N, got 'gpu'"),
    ("env.device=cuda:99", r"env.device=cuda:99: this machine has \d+ CUDA devices; try env.device=auto"),
    ("env.threads=0", r"env.threads must be .*, got 0"),
    ("env.threads=x", r"env.threads must be .*, got 'x'"),
    ("env.wandb.mode=onlin", r"env.wandb.mode must be .*, got 'onlin'; did you mean online\?"),
    ("arch=resnet21", r"arch=resnet21: there is no such option; arch must be one of .*resnet20.*; did you mean resnet"),
    ("dataset=cifar11", r"dataset=cifar11: there is no such option; .*; did you mean cifar10\?"),
    ("stage=finetun", r"stage=finetun: there is no such option; .*; did you mean finetune\?"),
    ("recipe=quik", r"recipe=quik: there is no such option; recipe must be one of .*; did you mean quick\?"),
    ("prune=magnitud", r"prune=magnitud: there is no such option; .*; did you mean magnitude\?"),
    ("prune.pecent=0.3", r"prune.pecent: there is no such key; allowed are .*; did you mean percent\?"),
    ("+prune.pecent=0.3", r"a setting of prune must be one of .*, got 'pecent'; did you mean percent\?"),
    ("train.epoch=3", r"train.epoch: there is no such key; allowed are .*; did you mean epochs\?"),
    ("sead=1", r"sead: there is no such key; allowed are .*; did you mean seed\?"),
    ("+sead=1", r"a key of the config must be one of .*, got 'sead'; did you mean seed\?"),
    ("env.run=x", r"env.run: there is no such key; allowed are .*; did you mean runs\?"),
    ("+env.thread=1", r"a setting of env must be one of .*, got 'thread'; did you mean threads\?"),
    ("prune.percent=0.3,0.5", r".*prune.percent=0.3,0.5.*(-m|--multirun).*"),
    ("prune.percent=", r"prune.percent .*"),
    ("prune.percent", r".*prune.percent.*"),
    ("resume=r0123456789ab", r"resume=.*r0123456789ab: no such file, and no run has that id"),
    ("dataset=image_folder", r"dataset.root must be given for image_folder: .*"),
]


@pytest.mark.parametrize(("override", "message"), VALUES, ids=[override for override, _ in VALUES])
def test_a_wrong_value_is_refused_in_one_line(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, override: str, message: str
) -> None:
    """In this process, because there are many; nothing may start, whatever is accepted by mistake."""
    places = [f"env.runs={tmp_path / 'runs'}", f"env.data={tmp_path}", "env.device=cpu", "env.threads=1"]
    monkeypatch.setattr(sys, "argv", [str(ROOT / "main.py"), *places, override])
    # Hydra reads its plugins twice, the second time with HYDRA_FULL_ERROR=1
    monkeypatch.delitem(sys.modules, "hydra_plugins.pruning_hydra.messages", raising=False)
    monkeypatch.setattr(execute, "make", lambda *_: pytest.fail("was accepted"))
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(sys.argv[0], run_name="__main__")
    (line,) = capfd.readouterr().err.splitlines()
    assert ended.value.code == 1 and not (tmp_path / "runs").exists()
    assert re.fullmatch(f"error: {message}.*", line), line
    assert "HYDRA_FULL_ERROR" not in line  # that is for what nobody has thought of


def test_a_cold_process_refuses_alike(refused: Callable[..., str]) -> None:
    assert refused("prune.percent=30", cold=True) == "prune.percent must be in [0, 1), got 30; did you mean 0.3?"


def test_a_process_of_each_kind_of_mistake(refused: Callable[..., str]) -> None:
    assert refused("seed=-1") == "seed must be a whole number >= 0, got -1"
    assert refused("sead=1").endswith("did you mean seed?")
    assert refused("arch=resnet21").startswith("arch=resnet21: there is no such option; ")


def checkpoint(path: Path, arch: str = "resnet20", classes: int = 10) -> Path:
    weights = {name: tensor.clone() for name, tensor in archs.build(arch, classes).state_dict().items()}
    Checkpoint(weights, {}, arch, classes, {}).save(path)
    return path


def test_a_wrong_checkpoint_is_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    whole = checkpoint(tmp_path / "whole.safetensors").read_bytes()
    places = {name: tmp_path / name for name in ("torn", "foreign", "text", "empty", "zip.pth.tar", "notes.pth.tar")}
    places["torn"].write_bytes(whole[: len(whole) // 2])
    places["text"].write_text("not a checkpoint")
    places["empty"].touch()
    torch.save({"state_dict": {"conv1.weight": torch.zeros(2, 2)}}, places["zip.pth.tar"])
    torch.save({"notes": [1, 2]}, places["notes.pth.tar"])
    from safetensors.torch import save_file

    save_file({"conv1.weight": torch.zeros(2, 2)}, places["foreign"])
    expected = {
        "torn": "cannot be read as a checkpoint: .*; is it truncated",
        "text": "cannot be read as a checkpoint: .*; is it truncated or foreign",
        "empty": "cannot be read as a checkpoint: .*; is it truncated or foreign",
        "foreign": "was not written by this program: its metadata do not say the architecture",
        "zip.pth.tar": r"does not fit arch=resnet20 with 10 classes: conv1.weight is \[2, 2\], not \[16, 3, 3, 3\]; .*"
        r" and \d+ more",
        "notes.pth.tar": "is not a checkpoint of weights: expected a dict with an entry state_dict",
    }
    for name, message in expected.items():
        line = refused(f"resume={places[name]}")
        assert str(places[name]) in line and re.search(message, line), line


def test_a_checkpoint_of_another_network_is_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "a.safetensors", classes=7)
    assert "holds resnet20 for 7 classes, not resnet20 for 10" in refused(f"resume={path}")
    path = checkpoint(tmp_path / "b.safetensors", arch="resnet32")
    assert "give arch=resnet32 and its dataset" in refused(f"resume={path}")
    assert "so stage=train has nothing to do" in refused(f"resume={path}", "arch=resnet32", "stage=train")
    assert str(tmp_path) in refused(f"resume={tmp_path}")


@pytest.fixture
def damaged(folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(folder, tmp_path / "damaged")
    return tmp_path / "damaged"


def test_a_wrong_image_folder_is_refused(refused: Callable[..., str], damaged: Path) -> None:
    def line() -> str:
        return refused("dataset=image_folder", f"dataset.root={damaged}", "recipe=quick")

    victim = next((damaged / "train" / "a").iterdir())
    Image.new("RGB", (9, 5)).save(victim)
    assert re.search(r"all images must have one size: .* is \d+x\d+, but .* is \d+x\d+", line())
    victim.write_bytes(b"not an image")
    assert line() == f"{victim} is not a readable image: unknown format"
    victim.unlink()
    (damaged / "train" / "d").mkdir()
    assert line().endswith("'d' is missing")
    (damaged / "test" / "d").mkdir()
    assert line() == f"{damaged / 'train' / 'd'} has no images; put some there or remove the class"
    shutil.rmtree(damaged)
    assert line().endswith(f"{damaged} is not a directory")


def test_without_a_network_the_line_says_where_to_put_the_archive(refused: Callable[..., str], tmp_path: Path) -> None:
    proxy = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")}
    line = refused("dataset=cifar10", "recipe=quick", no_proxy="", NO_PROXY="", **proxy)
    assert re.match(r"CIFAR-10 is not in .* and could not be downloaded \(.*\); put the CIFAR-10 python archive", line)
    assert str(tmp_path / "data" / "cifar-10-python.tar.gz") in line


def test_a_place_that_cannot_be_written_is_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        line = refused(runs=place)
        assert line.startswith(f"cannot write {place}") and line.endswith("choose another place with env.runs=DIR")


def test_the_traceback_is_for_those_who_ask(command: Command) -> None:
    ended = command("prune.percent=30", HYDRA_FULL_ERROR="1")
    assert ended.returncode == 1
    assert "Traceback" in ended.stderr and "UserError: prune.percent must be in [0, 1), got 30" in ended.stderr


def test_help_names_the_choices_and_imports_nothing_slow() -> None:
    code = (
        "import runpy, sys; sys.argv = ['main.py', '--help']\n"
        "try: runpy.run_path('main.py', run_name='__main__')\n"
        "finally: print(sorted({'torch', 'wandb', 'matplotlib', 'sklearn', 'pandas'} & set(sys.modules)))"
    )
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environ, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    for word in ("resnet20", "image_folder", "finetune", "magnitude", "rethinking", "percent"):
        assert word in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
