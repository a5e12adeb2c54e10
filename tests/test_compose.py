import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from hydra_plugins.pruning_hydra import compose
from hydra_plugins.pruning_hydra.messages import explain
from tests.commands import ROOT, Command

Jobs = list[list[str]]


class Hydra:
    """Hydra as a sweeper finds it: a loader, and the config without what the jobs change."""

    def __init__(self, loader: Any) -> None:
        self.context = HydraContext(config_loader=loader, callbacks=None)  # type: ignore[arg-type]
        self.master: DictConfig = loader.load_configuration("config", overrides=[], run_mode=RunMode.MULTIRUN)

    def ours(self, jobs: Jobs) -> list[dict[str, Any]]:
        return compose.configs(self.context, self.master, jobs)

    def its_own(self, jobs: Jobs) -> list[Any]:
        return [self.composed(job) for job in jobs]

    def composed(self, job: list[str]) -> Any:
        whole = self.context.config_loader.load_sweep_config(self.master, job)
        with open_dict(whole):
            del whole["hydra"]
        return OmegaConf.to_container(whole, resolve=True)


@contextmanager
def initialised() -> Iterator[Hydra]:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield Hydra(GlobalHydra.instance().config_loader())


@pytest.fixture(scope="module")
def hydra() -> Iterator[Hydra]:
    with initialised() as hydra:
        yield hydra


SWEEPS: dict[str, Jobs] = {
    "nothing": [[]],
    "values": [["prune.percent=0.3", "seed=1"], ["prune.percent=0.5", "seed=1"], ["seed=2"], ["prune.percent=3e-1"]],
    "the last of several": [["seed=1", "train.epochs=3", "seed=2"], ["train={epochs: 5}", "train.epochs=6"]],
    "strings": [
        ["env.runs='a b'"],
        ['env.runs="it\'s, a [b]=c"'],
        ["env.runs=''"],
        ["env.runs='0'"],
        ["env.runs=a:b/c"],
    ],
    "nulls": [["resume=null", "env.wandb.mode=null"], ["env.threads=null"], ["env.threads=3"]],
    "booleans": [["dataset.flip=true"], ["dataset.flip=false", "train.nesterov=False"], ["env.wandb.mode=on"]],
    "lists": [
        ["++finetune.milestones=[0.3,0.6]", "finetune.schedule=steps", "seed=3"],
        ["recipe=original", "train.milestones=[0.3,0.6]", "env.wandb.tags=[a,'b c']"],
        ["recipe=original", "train.milestones=[0.1,0.2,0.3]"],
        ["recipe=original", "train.milestones=[]"],
    ],
    "dictionaries": [["env.wandb={mode: offline, tags: [x]}"], ["prune.percent=0.1", "train={lr: 1, epochs: 2}"]],
    "added": [
        ["+finetune.some=[0.3,0.6]", "finetune.some=[0.7]", "seed=3"],
        ["++train.some=[0.5]", "++train.epochs=1"],
        ["+some.name=night", "+some.of.what='x y'", "seed=1"],
        ["+sweep=smoke", "seed=4"],
    ],
    "deleted": [["~finetune.momentum", "finetune.lr=3"], ["~env.wandb.project"]],
    "groups": [["arch=vgg16"], ["arch=resnet56", "prune=random"], ["stage=train"], ["stage=prune", "arch=resnet20"]],
    "a dataset brings its recipe": [
        ["dataset=digits"],
        ["dataset=cifar10", "train.epochs=2"],
        ["train.epochs=2", "dataset=cifar100", "prune.percent=0.9"],
        ["dataset=cifar10", "recipe=rethinking", "finetune.lr=0.5"],
        ["recipe=quick", "dataset=cifar10", "dataset.flip=false"],
        ["recipe=original", "dataset=digits"],
        ["dataset=image_folder", "dataset.root='/a b/c'", "arch=wrn_16_8"],
    ],
    "interpolations": [["train.precision=fp32"], ["finetune.precision=bf16"], ["env.wandb.group=${arch.name}-${seed}"]],
}


@pytest.mark.parametrize("name", SWEEPS)
def test_each_config_is_the_one_that_hydra_composes(hydra: Hydra, name: str) -> None:
    assert hydra.ours(SWEEPS[name]) == hydra.its_own(SWEEPS[name])


def test_the_configs_of_a_sweep_do_not_touch_each_other(hydra: Hydra) -> None:
    jobs = [job for sweep in SWEEPS.values() for job in sweep]
    found = hydra.ours([*jobs, *reversed(jobs)])
    alone = [config for sweep in SWEEPS.values() for config in hydra.ours(sweep)]
    assert found == [*alone, *reversed(alone)]
    first, second = hydra.ours([["seed=1"], ["seed=1"]])
    first["train"]["epochs"] = "changed"
    assert second["train"]["epochs"] == 8


def test_hydra_works_once_for_each_choice_of_groups(hydra: Hydra, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = dict.fromkeys(("load_sweep_config", "get_group_options"), 0)

    def counted(name: str) -> Callable[..., Any]:
        inner = getattr(ConfigLoaderImpl, name)

        def outer(*args: Any, **kwargs: Any) -> Any:
            counts[name] += 1
            return inner(*args, **kwargs)

        return outer

    for name in counts:
        monkeypatch.setattr(ConfigLoaderImpl, name, counted(name))
    cells = [
        [f"arch={arch}", f"prune.percent={percent}", f"seed={seed}"]
        for arch in ("vgg16", "resnet20")
        for percent in (0.1, 0.2, 0.3)
        for seed in range(10)
    ]
    assert len(hydra.ours(cells)) == 60
    assert counts == {"load_sweep_config": 2, "get_group_options": 2 + 3 + 10}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("sead=1", "sead: there is no such key; allowed are .*; did you mean seed?"),
        ("prune.pecent=0.3", "prune.pecent: there is no such key; allowed are percent, .*; did you mean percent?"),
        ("env.wandb.mod=x", "env.wandb.mod: there is no such key; allowed are mode, .*; did you mean mode?"),
        ("dataset.root=x", "dataset.root: there is no such key; allowed are name, .*"),
        ("arch=vgg17", "arch=vgg17: there is no such option; arch must be one of .*; did you mean vgg1.?"),
    ],
)
def test_an_unknown_key_in_one_cell_is_named(hydra: Hydra, wrong: str, message: str) -> None:
    with pytest.raises(Exception) as caught:
        hydra.ours([["seed=0"], ["seed=1", "prune.percent=0.3"], ["seed=2", wrong]])
    assert re.fullmatch(message.replace("?", r"\?"), explain(caught.value))


REFUSED = {
    "a wrong value in the last cell": (
        ["prune.percent=0.3,0.5,30"],
        r"prune.percent must be in \[0, 1\), got 30; did you mean 0.3\?",
    ),
    "a wrong type in one cell": (["seed=0,x,2"], "seed must be a whole number, got 'x'"),
    "a key that only one dataset has": (
        ["dataset=image_folder,digits", "dataset.root=."],
        "dataset.root: there is no such key; allowed are name, val_fraction, pad, flip",
    ),
    "an unknown option in one cell": (
        ["prune=magnitude,randm"],
        r"prune=randm: there is no such option; prune must be one of magnitude, random; did you mean random\?",
    ),
    "an unknown key": (["sead=3,4"], r"sead: there is no such key; allowed are .*; did you mean seed\?"),
    "cells in different places": (
        ["env.threads=1,2", "seed=0,1"],
        "env.threads must be the same in all cells of a sweep, got 1 and 2",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_in_one_cell_is_refused_before_the_first(command: Command, name: str) -> None:
    overrides, message = REFUSED[name]
    done = command(*overrides, "-m")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(f"error: {message}\n", done.stderr)
    assert not command.runs.exists()
