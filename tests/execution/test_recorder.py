"""What the tracker is sent: each row once, when the state that holds it is saved."""

from pathlib import Path
from typing import Any

from pruning import tracking
from pruning.data import Data
from pruning.env import Env, WandbSettings
from pruning.execution.recorder import RunRecorder
from pruning.execution.stop import StopRequest
from pruning.runs import Run, claims
from tests.pipeline.made import chain


class Kept(tracking.Tracker):
    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def row(self, metrics: dict[str, Any]) -> None:
        self.rows.append(metrics)


def test_a_row_is_sent_once_and_only_after_its_state_is_saved(tmp_path: Path) -> None:
    step = chain(0.3, 0, "train")[0]
    run, tracker = Run.for_step(step, tmp_path), Kept()
    claim = claims.take(run.path)
    assert claim
    recorder = RunRecorder(run, step, claim, tracking.Reporter(), StopRequest(), tracker)
    row = {"epoch": 1, "train_loss": 1.0, "train_top1": 2.0, "test_top1": 3.0, "images_per_second": 4.0}
    recorder.begin({})
    recorder.row(row)
    assert (tracker.rows, run.rows()) == ([], [row])
    recorder.save({"epoch": 1})
    recorder.save({"epoch": 1})  # stopped in the middle of the next epoch
    assert tracker.rows == [row]
    recorder.close()
    claim.forget()


class Bar(tracking.Reporter):
    def begin(self, name: str, images: int, done: int) -> None:
        self.begun = (images, done)


def test_what_is_shown_goes_on_where_an_attempt_stopped_in_the_middle_of_an_epoch(tmp_path: Path, tiny: Data) -> None:
    step = chain(0.3, 0, "train")[0]
    run, total = Run.for_step(step, tmp_path), step.epochs * len(tiny.train)
    for before, more in ((0, 7), (7, 5), (12, 1)):
        claim, bar = claims.take(run.path), Bar()
        assert claim
        recorder = RunRecorder(run, step, claim, bar, StopRequest())
        recorder.begin({})
        recorder.watch(tiny, Env(runs=tmp_path, wandb=WandbSettings(mode="disabled")))
        assert bar.begun == (total, before)
        recorder.batch(more)
        recorder.save({"epoch": 0})
        recorder.close()
        claim.forget()
