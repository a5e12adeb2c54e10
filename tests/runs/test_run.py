import json
from dataclasses import replace
from pathlib import Path

import pytest

from pruning.files import write_json
from pruning.runs import Env, Run, Step, every, find, lineage

DENSE = Step("train", {"epochs": 2, "lr": 0.1}, {"name": "digits"}, {"name": "resnet20"}, 0, "fp32", None)
PRUNED = replace(
    DENSE, stage="prune", recipe={"percent": 0.8}, parent=DENSE.id, aside={"percent": 0.8, "parent": DENSE.name}
)
TUNED = replace(PRUNED, stage="finetune", recipe={"epochs": 1, "lr": 0.01}, parent=PRUNED.id)
TUNED = replace(TUNED, aside={"percent": 0.8, "parent": PRUNED.name})


def leave(step: Step, runs: Path, result: bool = True) -> Run:
    run = Run.of(step, runs)
    run.path.mkdir(parents=True)
    run.write_config(step, {})
    if result:
        write_json(run.path / "result.json", {"id": step.id})
    return run


def test_ids_are_pinned() -> None:
    """If this fails, every run that anybody has made would be made again: leave neutral values out of the hash."""
    assert [step.id for step in (DENSE, PRUNED, TUNED)] == ["r18edc34053c9", "r77f531e820b4", "rb1f193b73257"]


def test_names_are_readable_and_end_in_the_id() -> None:
    assert DENSE.name == f"train-digits-resnet20-s0-{DENSE.id}"
    assert PRUNED.name == f"prune-digits-resnet20-p0.8-s0-{PRUNED.id}"
    assert Run.of(TUNED, Path("x")).id == TUNED.id


@pytest.mark.parametrize(
    "change",
    [
        {"stage": "prune"},
        {"recipe": {"epochs": 2, "lr": 0.2}},
        {"dataset": {"name": "digits", "pad": 4}},
        {"arch": {"name": "resnet32"}},
        {"seed": 1},
        {"precision": "bf16"},
        {"parent": "r0"},
    ],
)
def test_all_that_decides_a_result_decides_the_id(change: dict) -> None:
    assert replace(DENSE, **change).id != DENSE.id


def test_what_lies_aside_and_the_order_of_keys_do_not(tmp_path: Path) -> None:
    assert replace(DENSE, aside={"root": "elsewhere", "num_classes": 10}).id == DENSE.id
    assert replace(DENSE, recipe={"lr": 0.1, "epochs": 2}).id == DENSE.id


def test_runs_are_found_by_id(tmp_path: Path) -> None:
    run = leave(DENSE, tmp_path)
    assert find(tmp_path, DENSE.id) == run
    for wrong in (None, "", "r", "r0", DENSE.id[:-1], DENSE.id[1:], "r*", "runs/x", str(run.path)):
        assert find(tmp_path, wrong) is None
    assert find(tmp_path / "nowhere", DENSE.id) is None


def test_lineage_is_the_oldest_first_and_every_run_is_seen(tmp_path: Path) -> None:
    runs = [leave(step, tmp_path, result=step is not TUNED) for step in (DENSE, PRUNED, TUNED)]
    assert lineage(runs[2]) == runs
    assert lineage(runs[0]) == runs[:1]
    (tmp_path / "notes").mkdir()
    assert list(every(tmp_path)) == sorted(runs, key=lambda run: run.path)
    assert list(every(tmp_path / "nowhere")) == []
    assert runs[2].result() is None and runs[1].result() == {"id": PRUNED.id}


def test_a_torn_line_of_metrics_is_left_out(tmp_path: Path) -> None:
    run = leave(DENSE, tmp_path)
    assert run.rows() == []
    whole = [json.dumps({"epoch": epoch, "train_loss": 1.5}) for epoch in (1, 2)]
    for torn in ("", '{"epoch": 3, "trai', "{", '{"epoch": 3, "train_loss": 1.5'):
        (run.path / "metrics.jsonl").write_text("\n".join([*whole, torn]))
        assert [row["epoch"] for row in run.rows()] == [1, 2]


def test_env_goes_to_plain_values_and_back(tmp_path: Path) -> None:
    env = Env(tmp_path / "a", tmp_path / "b", "cpu", 2, {"mode": "offline"})
    assert Env.of(json.loads(json.dumps(env.plain()))) == env
    assert Env.of(Env().plain() | {"runs": "~/x"}).runs == Path("~/x").expanduser()
