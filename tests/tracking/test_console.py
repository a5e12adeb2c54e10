import io
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
