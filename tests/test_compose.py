import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from hydra_plugins.pruning_hydra import compose
from hydra_plugins.pruning_hydra.launchers import PlanLauncher
from hydra_plugins.pruning_hydra.messages import explain
from pruning.pipeline.sweep import Sweep
from tests.commands import ROOT, Command
from tests.helpers import CI, slow, stamps
from tests.pipeline.made import place

Jobs = list[list[str]]


class Hydra:
    """Hydra as a sweeper finds it: a loader, and the config without what the jobs change."""

    def __init__(self, loader: Any) -> None:
        self.context = HydraContext(config_loader=loader, callbacks=None)  # type: ignore[arg-type]
        self.master: DictConfig = loader.load_configuration("config", overrides=[], run_mode=RunMode.MULTIRUN)

    def ours(self, jobs: Jobs) -> list[dict[str, Any]]:
        return compose.configs(self.context, self.master, jobs)

    def its_own(self, job: list[str]) -> Any:
        whole = self.context.config_loader.load_sweep_config(self.master, job)
        with open_dict(whole):
            del whole["hydra"]
        return OmegaConf.to_container(whole, resolve=True)


@pytest.fixture(scope="module")
def hydra() -> Iterator[Hydra]:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield Hydra(GlobalHydra.instance().config_loader())


SWEEPS: dict[str, Jobs] = {
    "values": [
        [],
        ["prune.percent=0.3", "seed=1"],
        ["prune.percent=0.5", "seed=1"],
        ["seed=2"],
        ["prune.percent=3e-1"],
    ],
    "the last of several": [["seed=1", "train.epochs=3", "seed=2"], ["train={epochs: 5}", "train.epochs=6"]],
    "strings": [[f"env.runs={text}"] for text in ("'a b'", '"it\'s, a [b]=c"', "''", "'0'", "a:b/c")],
    "nulls": [["resume=null", "env.wandb.mode=null"], ["env.threads=null"], ["env.threads=3"]],
    "booleans": [["dataset.flip=true"], ["dataset.flip=false", "train.nesterov=False"], ["env.wandb.mode=on"]],
    "lists": [
        ["++finetune.milestones=[0.3,0.6]", "finetune.schedule=steps", "seed=3"],
        ["recipe=original", "train.milestones=[0.3,0.6]", "env.wandb.tags=[a,'b c']"],
        *(["recipe=original", f"train.milestones={points}"] for points in ("[0.1,0.2,0.3]", "[]")),
    ],
    "dictionaries": [["env.wandb={mode: offline, tags: [x]}"], ["prune.percent=0.1", "train={lr: 1, epochs: 2}"]],
    "added": [
        ["+finetune.some=[0.3,0.6]", "finetune.some=[0.7]", "seed=3"],
        ["++train.some=[0.5]", "++train.epochs=1"],
        ["+some.name=night", "+some.of.what='x y'", "seed=1"],
        ["+sweep=smoke", "seed=4"],
    ],
    "deleted": [["~prune.control", "finetune.lr=3"], ["~env.wandb.project"]],
    "groups": [["arch=vgg16"], ["arch=resnet56", "prune=random"], ["levels=iterative", "levels.count=5"]],
    "a dataset brings its recipe": [
        ["dataset=digits"],
        ["train.epochs=2", "dataset=cifar100", "prune.percent=0.9"],
        ["dataset=cifar10", "recipe=rethinking", "finetune.lr=0.5"],
        ["recipe=quick", "dataset=cifar10", "dataset.flip=false"],
        ["dataset=image_folder", "dataset.root='/a b/c'", "arch=wrn_16_8"],
    ],
    "interpolations": [["train.precision=fp32"], ["finetune.precision=bf16"], ["env.wandb.group=${arch.name}-${seed}"]],
}


def test_each_config_is_the_one_that_hydra_composes_and_touches_no_other(hydra: Hydra) -> None:
    for name, jobs in SWEEPS.items():
        assert hydra.ours(jobs) == [hydra.its_own(job) for job in jobs], name
    everything = [job for jobs in SWEEPS.values() for job in jobs]
    alone = [config for jobs in SWEEPS.values() for config in hydra.ours(jobs)]
    found = hydra.ours([*everything, *reversed(everything)])
    assert found == [*alone, *reversed(alone)]
    found[0]["train"]["epochs"] = "changed"
    assert found[-1] == alone[0]


WORDS = (
    *(
        "seed=1",
        "seed=2",
        "++seed=3",
        "train.lr=0.9",
        "++train.lr=0.7",
        "+train.extra=1",
        "++train.extra=2",
        "train.extra=3",
    ),
    *(
        "~train.momentum",
        "train.momentum=0.5",
        "++train.momentum=0.1",
        "arch=vgg16",
        "arch=resnet32",
        "++arch.name=resnet56",
    ),
    *("dataset=cifar10", "dataset.flip=true", "++dataset.pad=2", "~dataset.pad", "recipe=original", "prune=random"),
    *("prune.percent=0.3", "++prune.percent=0.4", "train={epochs: 5}", "++finetune={lr: 2}", "env.wandb.tags=[a,b]"),
    *("finetune.lr=${train.lr}", "+sweep=smoke", "~levels", "++new.key=${seed}", "+finetune.some=[1,2]"),
)


@pytest.mark.parametrize("start", range(4))
def test_overrides_mean_what_hydra_means_in_any_order(hydra: Hydra, start: int) -> None:
    """Also what is an error means an error."""
    chance = random.Random(start)
    for _ in range(60 if CI else 15):
        job = chance.sample(WORDS, chance.randint(1, 6))

        def outcome(compose: Callable[[list[str]], Any], job: list[str] = job) -> Any:
            try:
                return compose(job)
            except Exception:
                return "refused"

        assert outcome(lambda job: hydra.ours([job])[0]) == outcome(hydra.its_own), job


def test_hydra_works_once_for_each_choice_of_groups(hydra: Hydra, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = Counter[str]()

    def counted(name: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: counts.update([name]) or inner(*args, **kwargs)

    for name in ("load_sweep_config", "get_group_options"):
        monkeypatch.setattr(ConfigLoaderImpl, name, counted(name, getattr(ConfigLoaderImpl, name)))
    choices = product(("vgg16", "resnet20"), (0.1, 0.2, 0.3), range(10))
    cells = [[f"arch={arch}", f"prune.percent={percent}", f"seed={seed}"] for arch, percent, seed in choices]
    assert len(hydra.ours(cells)) == 60
    assert counts == {"load_sweep_config": 2, "get_group_options": 3}


def test_an_unknown_key_in_one_cell_is_named(hydra: Hydra) -> None:
    wrong = {
        "sead=1": "sead: there is no such key; allowed are .*; did you mean seed?",
        "env.wandb.mod=x": "env.wandb.mod: there is no such key; allowed are mode, .*; did you mean mode?",
        "dataset.root=x": "dataset.root: there is no such key; allowed are name, .*",
        "arch=vgg17": "arch=vgg17: there is no such option; arch must be one of .*; did you mean vgg1.?",
    }
    for override, message in wrong.items():
        with pytest.raises((HydraException, OmegaConfBaseException)) as caught:
            hydra.ours([["seed=0"], ["seed=1", "prune.percent=0.3"], ["seed=2", override]])
        assert re.fullmatch(message.replace("?", r"\?"), explain(caught.value))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["prune.percent=0.3,0.5,30"], r"prune.percent must be in \[0, 1\), got 30; did you mean 0.3\?"),
        (["hydra/launcher=plan", "+hydra.launcher.workers=2"], "hydra.launcher has no settings, got 'workers'"),
        (["env.threads=1,2", "seed=0,1"], "env.threads must be the same in all cells of a sweep, got 1 and 2"),
    ],
)
def test_what_is_wrong_in_one_cell_is_refused_before_the_first(
    command: Command, overrides: list[str], message: str
) -> None:
    done = command(*overrides, "-m")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(f"error: {message}\n", done.stderr)
    assert not command.runs.exists()


# size

FILES = ("posix", "io", "_io", "nt")  # the modules of what asks the operating system for files


def counted(action: Callable[[], Any]) -> Counter[str]:
    """Return how many functions `action` calls, and how many of them for files."""
    counts: Counter[str] = Counter(calls=0, files=0)

    def look(_frame: Any, event: str, called: Any) -> None:
        counts["calls"] += event in ("call", "c_call")
        counts["files"] += event == "c_call" and called.__module__ in FILES

    before = sys.getprofile()
    sys.setprofile(look)
    action()
    sys.setprofile(before)
    return counts


@slow
def test_the_work_of_planning_grows_with_the_cells_and_writes_nothing(
    hydra: Hydra, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    launcher = PlanLauncher()
    launcher.context, launcher.config = hydra.context, hydra.master
    found: list[Counter[str]] = []
    for percents in (1, 10, 20):  # the first fills caches
        cells = product(range(percents), range(5))
        jobs = [[f"env.runs='{runs}'", "env.device=cpu", f"prune.percent={p / 1000}", f"seed={s}"] for p, s in cells]
        for one in Sweep.from_cells(hydra.ours(jobs)).steps:
            place(runs, one, rows=one.epochs, result={"epochs": one.epochs, "seconds": 1.0}).write_config(one, {})
        before = stamps(tmp_path)
        found.append(counted(lambda jobs=jobs: launcher.launch(jobs, 0)))  # type: ignore[misc]
        assert stamps(tmp_path) == before
        pruned, steps = len(jobs), 5 + 2 * len(jobs)
        counts = f"steps: {steps} (5 train, {pruned} prune, {pruned} finetune); {steps} done"
        assert counts in capsys.readouterr().out
    _, small, large = found
    assert 0 < large["files"] <= 2.1 * small["files"]
    assert large["calls"] <= 2.1 * small["calls"]
