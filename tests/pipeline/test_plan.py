import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pruning import archs, masks
from pruning.checkpoints import Checkpoint
from pruning.env import Env
from pruning.errors import UserError
from pruning.pipeline import plan, results
from pruning.pipeline.request import Request
from pruning.runs import Step
from tests.pipeline.made import composed, place

Chain = Callable[..., list[Step]]


@pytest.fixture
def env(tmp_path: Path) -> Env:
    return Env(runs=tmp_path / "runs", data=tmp_path / "data", device="cpu")


@pytest.fixture
def chain(env: Env) -> Chain:
    return lambda *overrides: plan.chain(composed(*overrides), env, lambda wanted: "fp32")


def ids(steps: list[Step]) -> list[str]:
    return [step.id for step in steps]


# ids

RETHINKING = ("dataset=cifar100", "arch=wrn_16_8", "recipe=rethinking", "prune=random")
PINNED = {
    (): "r23fc12f1f06d re9fb49accfe5 r60286e6827dc",
    ("dataset=cifar10", "arch=vgg16", "prune.percent=0.95", "seed=3"): "r0473920febf9 r56c676adc27b r275263d158c3",
    RETHINKING: "r34ca17361b21 r7f9c6f18c6fa r156e6b8f0dbd",
}


def test_ids_of_what_people_have_made_are_pinned(chain: Chain) -> None:
    """They change when a recipe in conf/ changes its meaning, and never because a setting was added."""
    assert {overrides: " ".join(ids(chain(*overrides))) for overrides in PINNED} == PINNED


def test_each_choice_changes_the_steps_from_its_own_on(chain: Chain) -> None:
    changes = {
        "train prune finetune": ["arch=resnet32", "seed=1", "dataset=cifar10", "dataset.flip=true", "train.lr=0.04"],
        "prune finetune": ["prune.percent=0.3", "prune=random"],
        "finetune": ["finetune.lr=0.001"],
        "": ["env.runs=elsewhere", "env.threads=7", "env.wandb.mode=online", "env.imports=[pruning.rng]"],
    }
    for changed, overrides in changes.items():
        for override in overrides:
            pairs = zip(chain(), chain(override), strict=True)
            assert " ".join(a.stage for a, b in pairs if a.id != b.id) == changed, override


@pytest.mark.parametrize(
    ("choices", "idle"),
    [
        ([], ["++train.label_smoothing=0", "dataset.val_fraction=0", "++train.milestones=[0.5,0.75]"]),  # neutral
        ([], ["train.betas=[0.5,0.9]", "train.milestones=[0.3]", "finetune.decay=0.5"]),  # of adam, of steps
        (["prune.percent=0"], ["prune.criterion=random", "prune.scope=layer"]),
        ([], ["levels.spacing=linear"]),  # of several levels
        (["prune.percent=0.2"], ["levels.at=[0.2,0.9]"]),
    ],
)
def test_what_decides_nothing_changes_no_id(chain: Chain, choices: list[str], idle: list[str]) -> None:
    assert ids(chain(*choices, *idle)) == ids(chain(*choices))


# chains


def test_the_chain_ends_with_the_wanted_stage_and_names_its_parents(chain: Chain) -> None:
    assert list(results.RESULTS) == [
        "train",
        "prune",
        "finetune",
        "lr_rewind",
        "rewind",
        "scratch_e",
        "scratch_b",
        "distill",
        "at_init",
        "gradual",
        "rigl",
        "set",
    ]
    stages = ["train", "prune", "finetune"]
    for i, stage in enumerate(stages):
        steps = chain(f"stage={stage}")
        assert [step.stage for step in steps] == stages[: i + 1]
        assert [step.parent for step in steps] == [None, *ids(steps)[:-1]]
        assert [(step.level, step.sparsity) for step in steps] == [(0, None), (1, 0.8), (1, 0.8)][: i + 1]
        assert ids(steps) == ids(chain())[: i + 1]


def test_several_levels_prune_and_finetune_in_turn_up_to_the_wanted_sparsity(chain: Chain) -> None:
    steps = chain("levels=iterative", "prune.percent=0.488")
    assert [(step.stage[0], step.level, step.sparsity) for step in steps] == [
        ("t", 0, None),
        *(("p", 1, 0.2), ("f", 1, 0.2)),
        *(("p", 2, 0.36), ("f", 2, 0.36)),
        *(("p", 3, 0.488), ("f", 3, 0.488)),
    ]
    assert [step.parent for step in steps] == [None, *ids(steps)[:-1]]
    assert ids(chain("levels=iterative", "prune.percent=0.488", "stage=prune")) == ids(steps)[:-1]
    assert ids(chain("levels.at=[0.2,0.36,0.488,0.7]", "prune.percent=0.488")) == ids(steps)
    assert ids(chain("prune.percent=0.2")) == ids(steps)[:3]


def test_a_dense_network_keeps_what_any_cell_goes_back_to(chain: Chain, env: Env) -> None:
    def resolve(_wanted: str) -> str:
        return "fp32"

    kept = replace(env, snapshots=(1, 99))
    cells = [plan.chain(composed("stage=rewind", f"rewind.epoch={epoch}"), kept, resolve) for epoch in (0, 3, 5)]
    dense = plan.graph(cells)[0]
    assert (dense.stage, dense.snapshots) == ("train", (1, 3, 5))
    assert len({steps[0].id for steps in cells}) == 1
    assert [steps[-1].inputs for steps in cells] == [{}, {"start": f"{dense.id}@3"}, {"start": f"{dense.id}@5"}]
    assert [steps[-1].epochs for steps in cells] == [8, 5, 3]
    assert ids(cells[0]) == ids(chain("stage=rewind"))
    iterated = chain("stage=rewind", "rewind.epoch=3", "levels=iterative")
    assert [step.inputs for step in iterated if step.stage == "rewind"] == [{"start": f"{dense.id}@3"}] * 3
    assert plan.missing(cells[1], cells[1][-1:], Path("nowhere")) == cells[1]


@pytest.mark.parametrize("epoch", [8, 9, -1])
def test_there_must_be_something_left_to_train_after_rewinding(chain: Chain, epoch: int) -> None:
    with pytest.raises(UserError, match=r"^rewind.epoch must be (below epochs=8|>= 0)"):
        chain("stage=rewind", f"rewind.epoch={epoch}")
    with pytest.raises(UserError, match=r"^rewind.epoch=4: the dense network is trained for train.epochs=2 only"):
        chain("stage=rewind", "rewind.epoch=4", "rewind.epochs=8", "train.epochs=2")


@pytest.mark.parametrize(("most", "expected"), [("null", (16, True)), ("3", (3, False)), ("8", (8, False))])
def test_scratch_b_is_planned_with_the_most_that_it_may_train(
    chain: Chain, most: str, expected: tuple[int, bool]
) -> None:
    last = chain("stage=scratch_b", f"scratch_b.max_epochs={most}")[-1]
    assert (last.epochs, last.may_end_sooner) == expected
    assert Step.from_json(last.to_json()) == last


def test_many_chains_become_one_graph_without_repeats_parents_first(chain: Chain, env: Env) -> None:
    chains = [chain(f"prune.percent={percent}", f"seed={seed}") for seed in (0, 1) for percent in (0.3, 0.5)]
    steps = plan.graph(chains)
    assert len(set(ids(steps))) == len(steps) == 2 + 4 + 4
    assert ids(steps)[:5] == [*ids(chains[0]), *ids(chains[1])[1:]]
    assert all(step.parent is None or step.parent in ids(steps)[:i] for i, step in enumerate(steps))
    place(env.runs, steps[0])
    wanted = [chain[-1] for chain in chains]
    assert plan.missing(steps, wanted, env.runs) == steps
    place(env.runs, steps[0], result={})
    assert plan.missing(steps, wanted, env.runs) == steps[1:]


def test_ancestors_are_not_made_again_when_what_is_wanted_is_there(chain: Chain, env: Env) -> None:
    steps = chain()
    place(env.runs, steps[-1], result={})
    assert plan.missing(steps, steps[-1:], env.runs) == []
    assert plan.missing(steps, steps[1:], env.runs) == steps[:2]  # the prune step itself is wanted too


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+sead=1", "a key of the config must be one of .*, got 'sead'; did you mean seed?"),
        ("seed=-1", "seed must be a whole number >= 0, got -1"),
        ("arch.name=resnet21", "arch must be one of .*, got 'resnet21'; did you mean resnet"),
        ("arch._target_=x.build", "arch._target_=x.build cannot be imported"),
        ("stage.name=finetun", "stage must be one of .*, got 'finetun'; did you mean finetune?"),
        ("~stage", "stage must be a group of settings with a name, got None; give stage=NAME"),
        ("levels.at=[0.5,80]", "levels.at must be in \\[0, 1\\), got 80; did you mean 0.8?"),
    ],
)
def test_what_is_wrong_is_refused_before_any_work(chain: Chain, override: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}".replace("?", r"\?")):
        chain(override)


def test_precision_is_resolved_and_a_stage_that_trains_nothing_has_that_of_its_parent(env: Env) -> None:
    for override, expected in {"auto": ["bf16"] * 3, "fp32": ["fp32", "fp32", "bf16"]}.items():
        config = composed()
        config["train"] |= {"precision": override}
        steps = plan.chain(config, env, {"auto": "bf16", "fp32": "fp32"}.__getitem__)
        assert [step.precision for step in steps] == expected
        assert all("precision" not in step.recipe for step in steps)


# inputs


def test_an_input_is_an_ancestor_or_done_before(env: Env) -> None:
    want, another = (Request.read(composed(f"seed={seed}"), env, lambda wanted: "fp32") for seed in (0, 1))
    other = results.train(another)
    dense = results.train(want)
    pruned = want.step("prune", after=dense)
    plain = want.step("finetune", after=pruned)
    taught = want.step("finetune", after=pruned, inputs={"teacher": dense})
    assert (taught.inputs, taught.places[dense.id], taught.parent) == ({"teacher": dense.id}, dense.name, pruned.id)
    assert taught.id != plain.id
    assert want.step("finetune", after=pruned, inputs={"student": dense}).id != taught.id

    def refused(source: Step | str, message: str) -> None:
        with pytest.raises(UserError, match=f"^{message}$"):
            want.step("finetune", after=pruned, inputs={"teacher": source})

    late = "finetune reads {} as teacher: it does not start from that, and it is not done"
    refused(other, late.format(other.id))
    refused(other.id, f"{other.id}, wanted as teacher: no run in .* has that id")
    place(env.runs, other)
    refused(other.id, late.format(other.id))
    refused(plain, late.format(plain.id))  # planned, but no ancestor
    place(env.runs, other, result={})
    steps = [want.step("finetune", after=pruned, inputs={"teacher": source}) for source in (other, other.id)]
    assert steps[0] == steps[1] == want.steps[steps[0].id]
    assert steps[0].place(other.id, env.runs) == env.runs / other.name / "model.safetensors"


# resume=


def save(path: Path, percent: float = 0.0, classes: int = 10) -> Path:
    """Write a resnet20 with random weights, `percent` of its convolutions pruned."""
    model = archs.build("resnet20", classes)
    mask = masks.prune(model, percent) if percent else {}
    Checkpoint(masks.masked(dict(model.state_dict()), mask), mask, "resnet20", classes, {}).save(path)
    return path


def test_resume_is_known_by_content_not_by_path(chain: Chain, tmp_path: Path) -> None:
    first = save(tmp_path / "a.safetensors")
    steps = chain(f"resume={first}")
    assert [step.stage for step in steps] == ["prune", "finetune"]
    assert (steps[0].parent or "").startswith("sha256:")
    assert steps[0].places == {steps[0].parent: str(first)}
    copy = shutil.copy(first, tmp_path / "b.safetensors")
    assert ids(chain(f"resume={copy}")) == ids(steps)
    assert ids(chain(f"resume={save(tmp_path / 'c.safetensors')}")) != ids(steps)
    assert ids(chain(f"resume={first}", "train.lr=0.7", "train.epochs=1")) == ids(steps)


def test_resume_by_the_id_of_a_run_is_resume_by_its_file(chain: Chain, env: Env) -> None:
    dense = chain()[0]
    save(place(env.runs, dense).model)
    with pytest.raises(UserError, match=f"^resume={dense.id}: that run is not done yet; run its command again first"):
        chain(f"resume={dense.id}")
    run = place(env.runs, dense, result={})
    assert ids(chain(f"resume={dense.id}")) == ids(chain(f"resume={run.model}"))


def test_levels_go_on_above_the_sparsity_of_what_is_resumed(chain: Chain, tmp_path: Path) -> None:
    half = save(tmp_path / "half.safetensors", percent=0.5)

    def sparsities(*overrides: str) -> list[float | None]:
        return [step.sparsity for step in chain(f"resume={half}", *overrides) if step.stage == "prune"]

    assert sparsities("levels.at=[0.3,0.5,0.7]", "prune.percent=0.9") == [0.7, 0.9]
    assert sparsities("levels.count=2", "prune.percent=0.875") == [0.75, 0.875]
    assert sparsities("levels.count=2", "levels.spacing=linear", "prune.percent=0.9") == [0.7, 0.9]
    assert sparsities("levels.count=2", "prune.percent=0.5") == [0.5]


def test_resume_refuses_what_cannot_be_continued(chain: Chain, tmp_path: Path) -> None:
    pruned = save(tmp_path / "pruned.safetensors", percent=0.8)
    assert len(chain(f"resume={pruned}", "prune.percent=0.8")) == 2
    assert len(chain(f"resume={pruned}", "prune.percent=0.3", "prune.layers=linear")) == 2  # of which none is pruned
    three = save(tmp_path / "three.safetensors", classes=3)
    below = r"prune.percent=0.3 is below the sparsity 0.8000 that .*pruned.safetensors already has; a pruned weight"
    for source, override, message in [
        (pruned, "prune.percent=0.3", below),
        (pruned, "stage=train", "resume= stands in place of training, so stage=train has nothing to do"),
        (three, "seed=0", ".*holds resnet20 for 3 classes, not resnet20 for 10; give arch=resnet20"),
        (tmp_path / "nothing", "seed=0", "resume=.*nothing: no such file, and no run has that id$"),
    ]:
        with pytest.raises(UserError, match=f"^{message}"):
            chain(f"resume={source}", override)


def test_the_name_of_a_directory_says_what_is_unusual_of_the_pruning(tmp_path: Path) -> None:
    def names(*words: str) -> list[str]:
        config = composed(f"env.runs={tmp_path}", *words)
        return [step.name.rpartition("-r")[0] for step in plan.chain(config, Env.from_config(config["env"]))]

    assert names()[1:] == ["prune-digits-resnet20-p0.8-s0", "finetune-digits-resnet20-p0.8-s0"]
    random = names("prune=random", "prune.scope=layer", "prune.layers=conv+linear")
    assert random[0] == "train-digits-resnet20-s0"
    assert random[1:] == [
        f"{stage}-digits-resnet20-p0.8-random-layer-conv+linear-s0" for stage in ("prune", "finetune")
    ]
