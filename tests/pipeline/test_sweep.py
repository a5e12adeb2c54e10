import random
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pruning.env import Env
from pruning.errors import UserError
from pruning.pipeline.sweep import Sweep, differences, flatten
from pruning.runs import Step
from pruning.runs.records import recorded_sweeps
from tests.pipeline.made import STAGES, Cell, chain, composed, step, sweep_of


def names(tasks: Iterable[Iterable[Step]]) -> list[str]:
    return [" ".join(one.stage[0] + (f"{one.sparsity:g}" if one.sparsity else "") for one in task) for task in tasks]


def check(sweep: Sweep) -> None:
    """Hold the tasks of `sweep` to what a launcher relies on."""
    wanted, children = {one.id for one in sweep.wanted}, sweep.children
    done: set[str] = set()
    for task in sweep.tasks:
        for i, one in enumerate(task):
            assert one.id not in done, "made twice"
            assert one.parent is None or one.parent in done, "made before its parent"
            if i:
                assert one.parent == task[i - 1].id
                assert len(children[task[i - 1].id]) == 1
                assert task[i - 1].id not in wanted
            done.add(one.id)
        # a task of its own only where somebody else waits for the parent
        parent = task[0].parent
        assert parent is None or len(children[parent]) > 1 or parent in wanted
    assert done == {one.id for chain in sweep.chains for one in chain} == {one.id for one in sweep.steps}


cells = st.tuples(st.sampled_from([0.1, 0.3, 0.5, 0.9]), st.integers(0, 2), st.sampled_from(STAGES))


@given(st.lists(cells, min_size=1, max_size=30), st.randoms())
@example([(0.3, 0, "prune"), (0.3, 0, "finetune")], random.Random(0))
@example([(0.3, 0, "finetune"), (0.3, 0, "train")], random.Random(0))
def test_each_step_is_made_once_after_its_parent(wished: list[Cell], chance: random.Random) -> None:
    sweep = sweep_of(wished)
    check(sweep)
    assert [one.id for one in sweep.wanted] == list(dict.fromkeys(chain(*cell)[-1].id for cell in wished))
    stages = {stage: STAGES[: i + 1] for i, stage in enumerate(STAGES)}
    assert len(sweep.steps) == len({(s != "train" and p, seed, s) for p, seed, t in wished for s in stages[t]})
    found = differences(sweep.steps)
    assert len({(one.stage, found[one.id]) for one in sweep.steps}) == len(sweep.steps)
    shuffled = wished * 2  # the id is that of the set of wishes
    chance.shuffle(shuffled)
    assert sweep_of(shuffled).id == sweep.id != sweep_of([*wished, (0.7, 7, "prune")]).id
    titles = sweep.title, sweep_of(wished, name="night").title
    assert (len(sweep.id), *titles) == (9, f"sweep-{sweep.id}", f"night-{sweep.id}")


@given(st.lists(st.integers(-1, 12), min_size=1, max_size=13), st.sets(st.integers(0, 12)))
def test_tasks_of_any_forest(parents: list[int], wishes: set[int]) -> None:
    chains: list[tuple[Step, ...]] = []
    for i, parent in enumerate(parents):
        before = chains[parent] if 0 <= parent < i else ()
        chains.append((*before, step("prune", before[-1] if before else None, percent=0.01 * (i + 1))))
    chosen = [chains[i] for i in sorted(wishes) if i < len(chains)] or chains
    check(Sweep(tuple(chosen), Env()))


@pytest.mark.parametrize(
    ("cells", "tasks"),
    [
        ([(0.3, 0, "finetune"), (0.5, 0, "finetune")], ["t", "p0.3 f0.3", "p0.5 f0.5"]),
        ([(0.3, 0, "finetune")], ["t p0.3 f0.3"]),
        ([(0.3, 0, "finetune"), (0.3, 1, "finetune")], ["t p0.3 f0.3", "t p0.3 f0.3"]),
        ([(0.3, 0, "prune"), (0.3, 0, "finetune")], ["t p0.3", "f0.3"]),
        ([(0.3, 0, "train"), (0.3, 0, "finetune")], ["t", "p0.3 f0.3"]),
    ],
)
def test_a_step_that_others_wait_for_or_that_is_wanted_ends_a_task(cells: list[Cell], tasks: list[str]) -> None:
    assert names(sweep_of(cells).tasks) == tasks


def test_a_sweep_is_made_of_composed_configs() -> None:
    asked: list[tuple[str, str]] = []

    def precision(wanted: str, env: Env) -> str:
        asked.append((wanted, env.device))
        return "bf16"

    configs = [composed(f"seed={s}", f"prune.percent={p}", "env.device=cuda") for p in (0.3, 0.5) for s in (0, 1)]
    sweep = Sweep.from_cells(configs, precision)
    assert set(asked) == {("auto", "cuda")}
    assert [len(sweep.chains), len(sweep.steps), len(sweep.wanted)] == [4, 10, 4]
    assert {one.precision for one in sweep.steps} == {"bf16"}
    assert (sweep.env.device, sweep.env.wandb.group) == ("cuda", sweep.title)
    named = Sweep.from_cells([{**config, "sweep": {"name": "night"}} for config in configs], precision)
    assert named.env.wandb.group == named.title == f"night-{sweep.id}"
    configs[0]["env"]["wandb"]["group"] = "mine"
    assert Sweep.from_cells(configs[:1], precision).env.wandb.group == "mine"


def test_cells_in_different_places_are_refused() -> None:
    configs = [composed("env.device=cpu"), composed("env.device=cpu", "env.runs=elsewhere", "seed=1")]
    with pytest.raises(UserError, match=r"^env.runs must be the same in all cells of a sweep, got runs and elsewhere$"):
        Sweep.from_cells(configs, lambda *_: "fp32")


def test_cells_share_the_levels_that_they_have_in_common() -> None:
    sweep = Sweep.from_cells(
        [composed("levels.at=[0.3,0.5,0.7]", f"prune.percent={p}", "env.device=cpu") for p in (0.5, 0.7, 0.9)],
        lambda *_: "fp32",
    )
    assert ([len(chain) for chain in sweep.chains], len(sweep.steps)) == ([5, 7, 9], 9)
    assert names(sweep.tasks) == ["t p0.3 f0.3 p0.5 f0.5", "p0.7 f0.7", "p0.9 f0.9"]
    found = differences(sweep.steps)
    assert [found[one.id] for one in sweep.steps[1:5]] == [f"prune.percent={p}" for p in (0.3, 0.3, 0.5, 0.5)]
    one_shot = Sweep.from_cells([composed("prune.percent=0.3", "env.device=cpu")], lambda *_: "fp32")
    assert one_shot.steps == sweep.steps[:3]


def test_a_sweep_is_recorded_under_its_title(tmp_path: Path) -> None:
    sweep = sweep_of([(0.3, 0, "finetune"), (0.5, 0, "prune")], tmp_path, "night")
    assert sweep.record() == tmp_path / ".sweeps" / f"{sweep.title}.json"
    found, damaged = recorded_sweeps(tmp_path)
    assert [(one.name, [*one.steps]) for one in found] == [(sweep.title, sweep.steps)]
    assert damaged == []


# differences

DENSE, PRUNED, TUNED = chain(0.3, 0, "finetune")
OTHER = chain(0.5, 0, "prune")[1]


def test_what_differs_within_a_stage_comes_with_what_the_step_started_from() -> None:
    sweep = sweep_of([(p, s, "finetune") for p in (0.3, 0.5) for s in (0, 1)])
    found = differences(sweep.steps)
    pruned = {f"seed={s} prune.percent={p}" for p in (0.3, 0.5) for s in (0, 1)}
    expected = {"train": {"seed=0", "seed=1"}, "prune": pruned, "finetune": pruned}
    assert {stage: {found[one.id] for one in sweep.steps if one.stage == stage} for stage in STAGES} == expected
    # the only step of its stage has all its settings
    assert list(differences([DENSE, PRUNED, OTHER]).values()) == [
        "dataset=digits arch=resnet20 seed=0 train.epochs=8 train.precision=fp32",
        "prune.percent=0.3",
        "prune.percent=0.5",
    ]


def test_a_setting_that_only_some_steps_have_tells_them_apart() -> None:
    tuned = [step("finetune", PRUNED, epochs=5), step("finetune", PRUNED, epochs=5, label_smoothing=0.1)]
    assert list(differences(tuned).values()) == ["", "finetune.label_smoothing=0.1"]
    lists = [step("train", milestones=[0.3, 0.6]), step("train", milestones=[0.5], optimizer="adam")]
    expected = ["train.milestones=[0.3, 0.6]", "train.milestones=[0.5] train.optimizer=adam"]
    assert list(differences(lists).values()) == expected


def test_the_settings_of_a_chain_are_those_of_its_last_level() -> None:
    further = step("prune", TUNED, percent=0.5)
    common = {"dataset": "digits", "arch": "resnet20", "seed": "0", "train.epochs": "8", "train.precision": "fp32"}
    later = {"prune.percent": "0.5", "finetune.epochs": "5", "finetune.precision": "fp32"}
    assert flatten([DENSE, PRUNED, TUNED, further])[further.id] == common | later


def test_what_is_no_setting_of_a_stage_tells_steps_apart_too() -> None:
    whole = step("train", epochs=1)
    cropped, mirrored = (replace(whole, dataset={"name": "digits", **more}) for more in ({"pad": 2}, {"flip": True}))
    assert list(differences([whole, cropped, mirrored]).values()) == ["", "dataset.pad=2", "dataset.flip=true"]
    precisions = differences([whole, replace(whole, precision="bf16")])
    assert list(precisions.values()) == ["train.precision=fp32", "train.precision=bf16"]
    files = [replace(PRUNED, parent=f"sha256:{i}", places={f"sha256:{i}": f"/{i}.pth"}) for i in range(2)]
    assert list(differences(files).values()) == ["resume=/0.pth", "resume=/1.pth"]
