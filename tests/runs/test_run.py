from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from pruning.files import write_json
from pruning.runs import Run, Step, every, find, lineage, results
from tests.runs.steps import DENSE, PRUNED, STEPS, TUNED, figures, old, place

PLACES = {one.id: one.name for one in (DENSE, PRUNED)}


def leave(runs: Path, step: Step, **files: Any) -> Run:
    run = place(runs, step, **files)
    run.write_config(step, {})
    return run


def test_runs_are_found_by_id(tmp_path: Path) -> None:
    run = leave(tmp_path, DENSE)
    assert find(tmp_path, DENSE.id) == run
    for wrong in (None, "", "r", "r0", DENSE.id[:-1], DENSE.id[1:], "r*", "runs/x", str(run.path)):
        assert find(tmp_path, wrong) is None
    assert find(tmp_path / "nowhere", DENSE.id) is None


def test_lineage_is_the_oldest_first_and_every_run_is_seen(tmp_path: Path) -> None:
    runs = [leave(tmp_path, step, result={}) for step in (DENSE, PRUNED)]
    runs.append(leave(tmp_path, TUNED))
    assert lineage(runs[2]) == runs
    assert lineage(runs[0]) == runs[:1]
    (tmp_path / "notes").mkdir()
    assert list(every(tmp_path)) == sorted(runs, key=lambda run: run.path)
    assert list(every(tmp_path / "nowhere")) == []
    assert [(run.done, run.result()) for run in runs[1:]] == [(True, figures(PRUNED)), (False, None)]


def test_a_run_knows_its_step_and_that_a_file_is_no_run(tmp_path: Path) -> None:
    for step in (*STEPS, replace(TUNED, inputs={"teacher": DENSE.id}, root="/x", places=PLACES)):
        run = leave(tmp_path, step)
        config = run.config()
        assert config is not None
        assert (run.step(), config["id"], config["spec"], config["machine"]) == (step, step.id, step.spec, {})
        assert set(config["unhashed"]) == {f.name for f in fields(Step) if "unhashed" in f.metadata}
    file = f"sha256:{'0' * 64}"
    assert leave(tmp_path, replace(PRUNED, parent=file, places={file: "/m.pth.tar"})).parent() is None
    nothing = Run(tmp_path / "nowhere")
    assert (nothing.step(), nothing.parent()) == (None, None)


def test_the_runs_of_0_1_are_read(tmp_path: Path) -> None:
    runs = [leave(tmp_path, step) for step in STEPS]
    for run, step in zip(runs, STEPS, strict=True):
        config = {"id": step.id, "spec": step.spec, "aside": old(step)["aside"], "machine": {}}
        write_json(run.path / "config.json", config)
        assert run.step() == step
    assert lineage(runs[2]) == runs


def test_results_are_flat_rows_of_what_is_done(tmp_path: Path) -> None:
    leave(tmp_path, DENSE, result={"test_top1": 91.0})
    leave(
        tmp_path, TUNED, result={"test_top1": 90.0, "before": {"test_top1": 50.0, "test_top5": 90.0, "test_loss": 2.0}}
    )
    leave(tmp_path, PRUNED)
    tuned, dense = results(tmp_path)
    flat = figures(DENSE) | {"test_top1": 91.0, "run": str(tmp_path / DENSE.name)}
    del flat["before"]
    assert dense == flat
    before = {"before_test_top1": 50.0, "before_test_top5": 90.0, "before_test_loss": 2.0}
    flat = figures(TUNED) | {"test_top1": 90.0, "run": str(tmp_path / TUNED.name)} | before
    del flat["before"]
    assert tuned == flat
    assert results(str(tmp_path)) == [tuned, dense]
    assert results(tmp_path / "nowhere") == []


def test_a_torn_line_of_metrics_is_left_out(tmp_path: Path) -> None:
    run = place(tmp_path, DENSE)
    assert run.rows() == []
    for torn in ("", '{"epoch": 3, "trai', "{", '{"epoch": 3, "train_loss": 1.5'):
        (run.path / "metrics.jsonl").write_text('{"epoch": 1}\n{"epoch": 2}\n' + torn)
        assert run.rows() == [{"epoch": 1}, {"epoch": 2}]
