import io
import re
import sys

import pytest

from pruning.tracking.console import Reporter, RichReporter, reporter

ROW = {"epoch": 1, "train_loss": 1.5, "train_top1": 50.0, "test_top1": 40.0, "images_per_second": 123.4, "seconds": 1.0}


def test_lines_say_each_epoch_and_each_tenth_of_long_work(capsys: pytest.CaptureFixture[str]) -> None:
    lines = reporter()
    assert type(lines) is Reporter  # stdout is no terminal here
    lines.begin("a", 10, 0)
    lines.begin("b", 10, 5)
    lines.batch(5)
    lines.row(ROW, 2)
    for done in range(1, 101):
        lines.work("decode", done, 100)
    lines.end()
    assert capsys.readouterr().out.splitlines() == [
        "a: starts",
        "b: continues at 50%",
        "  epoch 1/2  loss 1.500 train 50.00 % test 40.00 %  123 images/s",
        *(f"  decode: {done}/100" for done in range(10, 101, 10)),
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("columns", "also"), [(80, ""), (120, "loss 1.500 train 50.00 %"), (200, "123 images/s")])
def test_time_left_and_test_accuracy_are_seen_on_any_terminal(
    columns: int, also: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
    bars = reporter()
    bars.begin("finetune-image_folder-preresnet110-p0.95-random-s0-rd50c71ca8444", 2000, 0)
    bars.batch(1000)
    bars.row(ROW | {"epoch": 100}, 160)
    bars.note("drawn")
    bars.end()
    frames = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.getvalue()).replace("\r", "\n").splitlines()
    last = [line.rstrip() for line in frames if "50%" in line][-1]
    assert len(last) <= columns
    assert "finetune" in last
    assert "rd50c71ca844" in last
    assert "test 40.00 %" in last
    assert also in last
    assert re.search(r"(\d+|-):(\d\d|--)(:\d\d|:--)?$", last), last


def test_the_bar_of_a_step_without_epochs_ends_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    bars = reporter()
    bars.begin("prune-x", 0, 0)
    bars.end()
    assert "100%" in terminal.getvalue()


def test_bars_are_drawn_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    bars = reporter()
    assert type(bars) is RichReporter
    bars.work("decode [images]", 5, 10)
    bars.work("decode [images]", 10, 10)
    bars.begin("train-x", 20, 0)
    bars.batch(10)
    bars.row(ROW, 2)
    bars.note("a note with [brackets] and a/path")
    bars.batch(10)
    bars.end()
    bars.end()
    bars.begin("nothing", 0, 0)  # a step of no epochs
    bars.end()
    text = terminal.getvalue()
    for part in ("decode [images]", "train-x", "epoch 1/2", "images/s", "100%", "a note with [brackets] and a/path"):
        assert part in text, part
