import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from pruning import archs, hosts, masks, plan
from pruning.checkpoints import Checkpoint
from pruning.errors import UserError
from pruning.files import write_json
from pruning.runs import Env, Run, Step
from tests.commands import ROOT

Chain = Callable[..., list[Step]]


@pytest.fixture
def env(tmp_path: Path) -> Env:
    return Env(tmp_path / "runs", tmp_path / "data", "cpu")


def composed(*overrides: str) -> dict[str, Any]:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        plain = OmegaConf.to_container(compose("config", list(overrides)), resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


@pytest.fixture
def chain(env: Env) -> Chain:
    def make(*overrides: str, more: dict[str, Any] | None = None) -> list[Step]:
        return plan.chain(composed(*overrides) | (more or {}), env, lambda wanted: "fp32")

    return make


def ids(steps: list[Step]) -> list[str]:
    return [step.id for step in steps]


def save(path: Path, percent: float = 0.0, classes: int = 10) -> Path:
    """Write a resnet20 with random weights, `percent` of them pruned."""
    model = archs.build("resnet20", classes)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    mask = masks.keep_top({name: weights[name].abs() for name in masks.prunable(model)}, percent) if percent else {}
    Checkpoint(masks.applied(mask, weights), mask, "resnet20", classes, {}).save(path)
    return path


PINNED = {
    (): ["rf51ca2d7446d", "r0a028c9bb008", "r158a3ff03848"],
    ("dataset=cifar10", "arch=vgg16", "prune.percent=0.95", "seed=3"): [
        "r034001030f67",
        "rf42bbd1010a1",
        "r63d2bc36a105",
    ],
    ("dataset=cifar100", "arch=wrn_16_8", "recipe=rethinking", "prune=random", "stage=prune"): [
        "rcd60da3432dc",
        "rf101315b65fa",
    ],
}


@pytest.mark.parametrize("overrides", PINNED, ids=["default", "original", "rethinking"])
def test_ids_of_what_people_have_made_are_pinned(chain: Chain, overrides: tuple[str, ...]) -> None:
    """They change when a recipe in conf/ changes its meaning, and never because a setting was added."""
    assert ids(chain(*overrides)) == PINNED[overrides]


def test_a_neutral_setting_changes_no_id(chain: Chain) -> None:
    neutral = ("++train.label_smoothing=0", "++train.milestones=[0.5,0.75]", "dataset.val_fraction=0")
    assert ids(chain(*neutral)) == ids(chain())
    assert ids(chain("++train.label_smoothing=0.1")) != ids(chain())


def test_each_choice_changes_the_steps_from_its_own_on(chain: Chain) -> None:
    dense, pruned, tuned = ids(chain())
    other = ids(chain("prune.percent=0.3"))
    assert other[0] == dense and other[1] != pruned and other[2] != tuned
    other = ids(chain("finetune.lr=0.5"))
    assert other[:2] == [dense, pruned] and other[2] != tuned
    for override in ("train.lr=0.5", "seed=1", "arch=resnet32", "dataset.pad=2", "dataset=cifar10"):
        assert not set(ids(chain(override))) & {dense, pruned, tuned}, override


@pytest.mark.parametrize("override", ["env.runs=x", "env.threads=7", "env.wandb.mode=online", "env.wandb.group=g"])
def test_env_is_in_no_id(chain: Chain, override: str) -> None:
    assert ids(chain(override)) == ids(chain())


def test_the_chain_ends_with_the_wanted_stage_and_names_its_parents(chain: Chain) -> None:
    for stage, expected in plan.CHAINS.items():
        steps = chain(f"stage={stage}")
        assert tuple(step.stage for step in steps) == expected
        assert [step.parent for step in steps] == [None, *ids(steps)[:-1]]
        assert ids(steps) == ids(chain())[: len(steps)]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+prune.pecent=0.3"], "a setting of prune must be one of .*, got 'pecent'; did you mean percent?"),
        (["+train.epoch=3"], "a setting of train must be one of .*, got 'epoch'; did you mean epochs?"),
        (["+sead=1"], "a key of the config must be one of .*, got 'sead'; did you mean seed?"),
        (["+dataset.flips=true"], "a setting of dataset must be one of .*, got 'flips'; did you mean flip?"),
        (["seed=-1"], "seed must be a whole number >= 0, got -1"),
        (["seed=null"], "seed must be a whole number, got None"),
        (["seed=1.5"], "seed must be a whole number, got 1.5"),
        (["dataset.val_fraction=1"], "dataset.val_fraction must be in \\[0, 1\\), got 1"),
        (["dataset.pad=two"], "dataset.pad must be a whole number, got 'two'"),
        (["arch.name=resnet21"], "arch must be one of .*, got 'resnet21'; did you mean resnet"),
    ],
)
def test_what_is_wrong_is_refused_before_any_work(chain: Chain, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}".replace("?", r"\?")):
        chain(*overrides)


@pytest.mark.parametrize(("flags", "expected"), [({"avx2"}, "fp32"), ({"avx2", "avx512_bf16"}, "bf16")])
def test_precision_auto_is_resolved_for_the_device(
    env: Env, monkeypatch: pytest.MonkeyPatch, flags: set[str], expected: str
) -> None:
    monkeypatch.setattr(hosts, "cpu_flags", lambda: flags)
    config = composed()
    assert {step.precision for step in plan.chain(config, env)} == {expected}
    config["train"]["precision"] = "fp32"
    assert [step.precision for step in plan.chain(config, env)] == ["fp32", "fp32", expected]
    assert all("precision" not in step.recipe for step in plan.chain(config, env))


def test_many_chains_become_one_graph_without_repeats_parents_first(chain: Chain, env: Env) -> None:
    chains = [chain(f"prune.percent={percent}", f"seed={seed}") for seed in (0, 1) for percent in (0.3, 0.5)]
    steps = plan.graph(chains)
    assert len(steps) == 2 + 4 + 4 and len(set(ids(steps))) == 10
    assert ids(steps)[:5] == [*ids(chains[0]), *ids(chains[1])[1:]]
    assert all(step.parent is None or step.parent in ids(steps)[:i] for i, step in enumerate(steps))
    assert plan.missing(steps, env.runs) == steps
    Run.of(steps[0], env.runs).path.mkdir(parents=True)
    assert plan.missing(steps, env.runs) == steps
    write_json(Run.of(steps[0], env.runs).path / "result.json", {})
    assert plan.missing(steps, env.runs) == steps[1:]


def test_resume_is_known_by_content_not_by_path(chain: Chain, tmp_path: Path) -> None:
    first = save(tmp_path / "a.safetensors")
    steps = chain(f"resume={first}")
    assert [step.stage for step in steps] == ["prune", "finetune"]
    assert str(steps[0].parent).startswith("sha256:") and steps[0].aside["file"] == str(first)
    shutil.copy(first, tmp_path / "b.safetensors")
    assert ids(chain(f"resume={tmp_path / 'b.safetensors'}")) == ids(steps)
    other = save(tmp_path / "c.safetensors", percent=0.1)
    assert ids(chain(f"resume={other}")) != ids(steps)
    assert ids(chain(f"resume={first}", "train.lr=0.7", "train.epochs=1")) == ids(steps)


def test_resume_by_the_id_of_a_run_is_resume_by_its_file(chain: Chain, env: Env, tmp_path: Path) -> None:
    run = Run.of(chain()[0], env.runs)
    run.path.mkdir(parents=True)
    save(run.model)
    with pytest.raises(UserError, match=f"^resume={run.id}: that run is not done yet; run its command again first"):
        chain(f"resume={run.id}")
    write_json(run.path / "result.json", {"id": run.id})
    assert ids(chain(f"resume={run.id}")) == ids(chain(f"resume={run.model}"))


def test_resume_refuses_what_cannot_be_continued(chain: Chain, tmp_path: Path) -> None:
    pruned = save(tmp_path / "pruned.safetensors", percent=0.8)
    message = r"^prune.percent=0.3 is below the sparsity 0.8000 that .*pruned.safetensors already has; a pruned weight"
    with pytest.raises(UserError, match=message):
        chain(f"resume={pruned}", "prune.percent=0.3")
    assert len(chain(f"resume={pruned}", "prune.percent=0.8")) == 2
    with pytest.raises(UserError, match=r"^resume= stands in place of training, so stage=train has nothing to do"):
        chain(f"resume={pruned}", "stage=train")
    with pytest.raises(UserError, match=r"holds resnet20 for 3 classes, not resnet20 for 10; give arch=resnet20"):
        chain(f"resume={save(tmp_path / 'three.safetensors', classes=3)}")
    with pytest.raises(UserError, match=r"^resume=.*nothing: no such file, and no run has that id$"):
        chain(f"resume={tmp_path / 'nothing'}")
