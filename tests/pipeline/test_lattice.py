"""Each combination of criterion, scope, levels and source that makes sense is planned and made, with exact counts.

The steps are those of the real plan for digits; they are made in memory, each once, on a few images with a small
network.
"""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruning import archs, masks
from pruning.checkpoints import Checkpoint
from pruning.data import Data
from pruning.env import Env
from pruning.errors import UserError
from pruning.masks import CRITERIA, SCOPES
from pruning.pipeline import plan
from pruning.runs import Step
from pruning.stages import STAGES, Context, Inputs
from pruning.training import TrainingHooks
from tests.helpers import equal, quick
from tests.pipeline.made import composed

LEVELS = {"one_shot": ["levels=one_shot"], "iterative": ["levels.at=[0.4,0.6]"]}
AFTER = ("finetune", "lr_rewind", "rewind", "scratch_e", "scratch_b", "distill")  # a dense network is trained first
UNTRAINED = ("at_init", "rigl", "set", "gradual")
CONTROLS = ("none", "shuffled", "inverted")
SHORT = ["train.epochs=2", "train.batch_size=15", "finetune.epochs=1", "finetune.batch_size=15", "rewind.epoch=1"]
SHORT += ["rigl.interval=2", "gradual.interval=2", "arch=vgg16", "train.precision=fp32", "distill.temperature=2"]


class Small(nn.Module):
    """What stands in for the network that is planned: the stages see it by its name."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 8, 3, bias=False)
        self.fc = nn.Linear(8, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv2(self.bn1(self.conv1(x)).relu()).relu().mean((2, 3)))


class Keeper(TrainingHooks):
    """Keeps the network of each epoch."""

    def __init__(self) -> None:
        self.kept: dict[int, dict[str, Tensor]] = {}

    def after(self, epoch: int, model: nn.Module) -> None:
        self.kept[epoch] = {name: value.clone() for name, value in model.state_dict().items()}


class Maker:
    """Makes steps, each once; checkpoints by reference."""

    def __init__(self, data: Data) -> None:
        self.data, self.made = data, {}

    made: dict[str, Checkpoint]

    def __call__(self, steps: list[Step]) -> list[Checkpoint]:
        return [self.make(step) for step in steps]

    def make(self, step: Step) -> Checkpoint:
        if step.id not in self.made:
            stage, keeper = STAGES[step.stage], Keeper()
            readers = {role: lambda ref=ref: self.made[ref] for role, ref in step.inputs.items()}
            context = Context(
                arch=step.arch["name"],
                num_classes=10,
                data=self.data,
                seed=step.seed,
                precision="fp32",
                parent=None if step.parent is None else self.made[step.parent],
                inputs=Inputs(readers),
                hooks=keeper,
                purpose=step.purpose,
            )
            done = stage.run(context, stage.recipe.read(step.recipe, step.stage))
            self.made[step.id] = done
            self.made |= {step.at(epoch): replace(done, weights=kept) for epoch, kept in keeper.kept.items()}
        return self.made[step.id]


@pytest.fixture
def maker(tiny: Data, monkeypatch: pytest.MonkeyPatch) -> Maker:
    monkeypatch.setitem(archs.ARCHS, "vgg16", Small)
    return one_maker(tiny)


@lru_cache
def one_maker(data: Data) -> Maker:
    return Maker(data)


def steps(runs: Path, *overrides: str) -> list[Step]:
    return plan.chain(composed(*SHORT, *overrides), Env(runs=runs, device="cpu"), lambda wanted: "fp32")


def check(made: list[Step], found: dict[str, Checkpoint]) -> None:
    """Exact totals, zeros where the mask says so, and nothing comes back."""
    for step in made:
        checkpoint = found[step.id]
        if step.sparsity is None:
            assert not checkpoint.mask
            continue
        sizes = {name: keep.numel() for name, keep in checkpoint.mask.items()}
        total, kept = masks.counts(checkpoint.mask, sizes, sizes)
        assert total - kept == round(step.sparsity * total)
        masks.check(checkpoint.mask, checkpoint.weights)
        assert all(value.isfinite().all() for value in checkpoint.weights.values())
        before = found[step.parent or ""].mask
        if before and step.stage in ("rigl", "set"):
            assert all(int(before[n].sum()) == int(keep.sum()) for n, keep in checkpoint.mask.items())
        elif before and not STAGES[step.stage].prunes:
            assert equal(checkpoint.mask, before)
        elif before:
            assert not any((keep & ~before[n]).any() for n, keep in checkpoint.mask.items())


@pytest.mark.parametrize("scope", quick("global", of=SCOPES))
@pytest.mark.parametrize("criterion", quick("magnitude", "snip", of=CRITERIA))
def test_each_combination(maker: Maker, tmp_path: Path, criterion: str, scope: str) -> None:
    pruned = [f"prune={criterion}", f"prune.scope={scope}", "prune.percent=0.7", "prune.layers=conv"]
    masks_found: dict[str, Any] = {}
    for name, levels in LEVELS.items():
        for stage in AFTER:
            made = steps(tmp_path, f"stage={stage}", *pruned, *levels)
            assert [step.stage for step in made].count("prune") == (3 if name == "iterative" else 1)
            maker(made)
            check(made, maker.made)
            masks_found[f"{name} {stage}"] = maker.made[made[-1].id]
    for stage in UNTRAINED:
        made = steps(tmp_path, f"stage={stage}", *pruned)
        assert "train" not in [step.stage for step in made]
        maker(made)
        check(made, maker.made)
        with pytest.raises(UserError, match="give levels=one_shot"):
            steps(tmp_path, f"stage={stage}", *pruned, *LEVELS["iterative"])
    one_shot = {stage: masks_found[f"one_shot {stage}"] for stage in AFTER}
    assert all(equal(one_shot["finetune"].mask, found.mask) for found in one_shot.values())  # one mask for all sources
    assert not equal(one_shot["scratch_e"].weights, one_shot["rewind"].weights)


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("scope", quick("layer", of=SCOPES))
def test_controls_at_each_scope_and_level(maker: Maker, tmp_path: Path, control: str, scope: str) -> None:
    for levels in LEVELS.values():
        common = (f"prune.scope={scope}", "prune.percent=0.7", *levels)
        made = steps(tmp_path, *common, f"prune.control={control}")
        maker(made)
        check(made, maker.made)
    plain = maker(steps(tmp_path, "stage=prune", f"prune.scope={scope}", "prune.percent=0.7"))[-1].mask
    found = maker(steps(tmp_path, "stage=prune", *common[:2], f"prune.control={control}"))[-1].mask
    counts = [{name: int(keep.sum()) for name, keep in mask.items()} for mask in (plain, found)]
    assert counts[0] == counts[1] or control == "inverted"
    assert equal(plain, found) == (control == "none")
    with pytest.raises(UserError, match="stage=gradual finds its mask while it trains") as refused:
        steps(tmp_path, "stage=gradual", *common[:2], "prune.control=shuffled")
    assert "\n" not in str(refused.value)


def test_a_rewound_network_starts_with_the_kept_weights_of_its_initialisation(maker: Maker, tmp_path: Path) -> None:
    still = ["stage=rewind", "rewind.epoch=0", "rewind.epochs=0", "prune.percent=0.7"]
    made = steps(tmp_path, *still)
    start = maker(steps(tmp_path, "stage=train", "train.epochs=0", "rewind.epoch=0"))[-1]
    rewound = maker(made)[-1]
    kept = masks.masked(start.weights, rewound.mask)
    assert list(rewound.mask) == ["conv1.weight", "conv2.weight"]
    assert all(torch.equal(rewound.weights[name], value) for name, value in kept.items())


def test_gradual_pruning_goes_on_from_a_file_and_needs_an_epoch(maker: Maker, tmp_path: Path, tiny: Data) -> None:
    half = maker(steps(tmp_path, "stage=prune", "prune.percent=0.5"))[-1]
    half.save(tmp_path / "half.safetensors")
    (step,) = steps(tmp_path, "stage=gradual", "prune.percent=0.7", f"resume={tmp_path / 'half.safetensors'}")
    maker.made[step.parent or ""] = half
    check([step], maker.made | {step.id: maker.make(step)})
    assert not any((keep & ~half.mask[n]).any() for n, keep in maker.make(step).mask.items())
    with pytest.raises(UserError, match=r"^gradual\.epochs must be >= 1"):
        steps(tmp_path, "stage=gradual", "gradual.epochs=0")
    steps(tmp_path, "stage=train", "gradual.epochs=0")  # where it is not needed it may be anything


def test_a_mask_from_another_run_is_taken_or_only_its_counts(maker: Maker, tmp_path: Path) -> None:
    foreign = maker(steps(tmp_path, "stage=prune", "seed=1", "prune.percent=0.7"))[-1]
    foreign.save(tmp_path / "foreign.safetensors")
    given = ("prune=from_run", f"prune.mask_from={tmp_path / 'foreign.safetensors'}")
    for control in ("none", "shuffled"):
        made = steps(tmp_path, *given, f"prune.control={control}")
        assert [step.stage for step in made] == ["train", "prune", "finetune"]
        assert made[1].method.startswith("mask_from")
        maker.made[made[1].inputs["mask"]] = foreign
        maker(made)
        check(made, maker.made)
        mask = maker.made[made[1].id].mask
        assert {n: int(keep.sum()) for n, keep in mask.items()} == {n: int(k.sum()) for n, k in foreign.mask.items()}
        assert equal(mask, foreign.mask) == (control == "none")
    assert (
        len({steps(tmp_path, "stage=prune", *given, f"prune.criterion={name}")[-1].id for name in ("random", "lamp")})
        == 1
    )
    for stage in ("at_init", "rigl", "scratch_e", "rewind"):
        made = steps(tmp_path, f"stage={stage}", *given)
        maker(made)
        check(made, maker.made)


def test_a_mask_from_elsewhere_that_cannot_be_used_is_refused_before_any_work(maker: Maker, tmp_path: Path) -> None:
    dense, pruned = (tmp_path / f"{name}.safetensors" for name in ("dense", "pruned"))
    made = steps(tmp_path, "stage=prune", "prune.percent=0.7")
    for path, checkpoint in zip((dense, pruned), maker(made), strict=True):
        checkpoint.save(path)
    for overrides, text in (
        ((f"prune.mask_from={dense}",), "is not pruned, so it has no mask to give"),
        ((f"prune.mask_from={pruned}",), "^prune.percent=0.8: the mask of prune.mask_from=.* prunes 0.7.*percent=null"),
        ((f"prune.mask_from={tmp_path / 'none.pt'}",), "^prune.mask_from=.*none.pt"),
        (("prune.mask_from=''",), "^prune.mask_from must be a path or the id of a run, got ''; null: find the mask"),
        (("prune=from_run",), "^prune.percent is not set: give .*, or prune.mask_from=ID_OR_PATH$"),
        ((f"prune.mask_from={pruned}", "prune.percent=0.7", "levels.count=2"), "levels=one_shot"),
        ((f"prune.mask_from={pruned}", "prune.percent=null", "levels.count=2", "stage=rigl"), "levels=one_shot"),
        ((f"prune.mask_from={pruned}", "prune.percent=0.7", "prune.control=inverted"), "none is asked"),
        ((f"prune.mask_from={pruned}", "prune.percent=0.7", f"resume={pruned}"), "needs a dense one"),
        ((f"prune.mask_from={pruned}", "prune.percent=0.7", "stage=gradual"), "finds its mask while it trains"),
    ):
        with pytest.raises(UserError, match=text) as refused:
            steps(tmp_path, *overrides)
        assert "\n" not in str(refused.value)
