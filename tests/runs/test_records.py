import time
from dataclasses import replace
from pathlib import Path

import pytest

from pruning.files import read_json, write_json
from pruning.runs import records
from pruning.runs.records import FOLDER, SweepRecord, record_sweep, recorded_sweeps
from tests.runs.steps import DENSE, STEPS, TUNED, old


def test_what_was_recorded_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, clock = {"commit": "c0ffee", "dirty": False}, iter([20.0, 10.0, 30.0])
    monkeypatch.setattr(records, "code_version", lambda: code)
    monkeypatch.setattr(time, "time", lambda: next(clock))
    runs = tmp_path / "deep" / "runs"
    assert recorded_sweeps(runs) == ([], [])
    path = record_sweep(runs, "late-s1", STEPS, [TUNED], {"device": "cpu"})
    assert path == runs / ".sweeps" / "late-s1.json"
    written = read_json(path)
    assert written
    assert (written["wanted"], written["code"], written["env"]) == ([TUNED.id], code, {"device": "cpu"})
    record_sweep(runs, "sweep-s2", STEPS[:1], STEPS[:1], {})
    late, sweep = SweepRecord("late-s1", 20.0, STEPS), SweepRecord("sweep-s2", 10.0, (DENSE,))
    assert recorded_sweeps(runs) == ([sweep, late], [])
    assert recorded_sweeps(runs)[0][0].group is None
    record_sweep(
        runs, "late-s1", STEPS, [TUNED], {"wandb": {"group": "ours"}}
    )  # the same sweep again is the same record
    assert [(found.name, found.when) for found in recorded_sweeps(runs)[0]] == [("sweep-s2", 10.0), ("late-s1", 30.0)]
    assert recorded_sweeps(runs)[0][1].group == "ours"


def test_the_records_of_0_1_are_read(tmp_path: Path) -> None:
    about = {"name": "sweep-s1", "when": 5.0, "code": {"commit": None, "dirty": None}, "env": {"wandb": {}}}
    plain = about | {"steps": [old(step) for step in STEPS], "wanted": [TUNED.id]}
    write_json(tmp_path / FOLDER / "sweep-s1.json", plain)
    before = tuple(replace(step, version=1) for step in STEPS)
    assert recorded_sweeps(tmp_path) == ([SweepRecord("sweep-s1", 5.0, before)], [])
