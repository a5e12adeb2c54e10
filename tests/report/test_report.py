import itertools
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from pruning import report
from pruning.checkpoints import Checkpoint
from pruning.errors import UserError
from pruning.report.picture import draw_epochs
from pruning.runs import Result, Run
from tests.pipeline.made import chain, place


def result(**figures: Any) -> Result:
    dense = {"stage": "train", "sparsity": 0.0, "test_top1": 93.456, "before": None, "seconds": 12.34}
    counts = {"params": 1_000_000, "params_nonzero": 1_000_000, "macs": 2_000, "macs_nonzero": 2_000}
    return cast("Result", dense | counts | figures)


FIGURES = {"sparsity": 0.8, "test_top1": 9.0, "before": {"test_top1": 1.0}, "seconds": 1234.5}
PRUNED = result(stage="finetune", params_nonzero=200_001, macs_nonzero=500, **FIGURES)


WEIGHTS = {"b.weight": torch.ones(4, 2), "a.weight": torch.ones(2, 2), "c.bias": torch.ones(2)}
MASK = {"a.weight": torch.tensor([[True, False], [False, False]]), "b.weight": torch.ones(4, 2, dtype=torch.bool)}
MASKED = Checkpoint(WEIGHTS, MASK, "x", 2, {})


def test_the_table_has_a_row_per_result_and_a_column_per_function(monkeypatch: pytest.MonkeyPatch) -> None:
    results = [(result(), Path("runs/one")), (PRUNED, Path("runs/two"))]
    dense, pruned = report.table(results)
    assert dense == ("train", "0.0000", "", "93.46", "1,000,000 (100.0%)", "2,000 (100.0%)", "12.3", "runs/one")
    assert pruned == ("finetune", "0.8000", "1.00", "9.00", "200,001 (20.0%)", "500 (25.0%)", "1234.5", "runs/two")
    monkeypatch.setitem(report.COLUMNS, "density", lambda row: f"{1 - row['sparsity']:.1f}")
    assert [row[-1] for row in report.table(results)] == ["1.0", "0.2"]


def test_the_text_is_aligned_numbers_to_the_right() -> None:
    rows = [("train", "1.50", "", "here"), ("finetune", "123.25", "7", "there")]
    columns = ("step", "value", "more", "place")
    assert report.text(rows, columns).splitlines() == [
        "step       value  more  place",
        "-----------------------------",
        "train       1.50        here",
        "finetune  123.25     7  there",
    ]
    assert report.text([], columns).splitlines() == ["step  value  more  place", "-" * 24]


@pytest.mark.parametrize("room", [60, 80, 100, 120, 160])
def test_on_a_terminal_no_line_is_wider_and_what_matters_stays(room: int) -> None:
    done = [(PRUNED, Path("/a/long/way/to/runs") / f"finetune-digits-resnet20-p{p}-s0-r123456789a{p}") for p in (1, 2)]
    rows = report.table([(cast("Result", {**PRUNED, "test_top1": 98.5}), path) for _, path in done])
    shown = report.text(rows, tuple(report.COLUMNS), room).splitlines()
    assert max(map(len, shown)) <= room
    assert all(title in shown[0] for title in ("step", "sparsity", "top-1", "run"))
    assert [line.rsplit("r", 1)[1] for line in shown[2:]] == ["123456789a1", "123456789a2"]
    assert ("/a/long" in shown[2]) == (room == 160)
    assert report.text(rows, tuple(report.COLUMNS)) == report.text(rows, tuple(report.COLUMNS), 10**6)  # no terminal


def test_layers_are_in_the_order_of_the_network() -> None:
    found = [tuple(layer.items()) for layer in report.layers(MASKED)]
    values = ("b.weight", 8, 8, 0.0), ("a.weight", 4, 1, 0.75)
    assert found == [tuple(zip(("layer", "weights", "kept", "sparsity"), row, strict=True)) for row in values]


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    """A dense run of two epochs, what was pruned from it, and an epoch of finetuning."""
    made = []
    for step, epochs in zip(chain(0.3, 0, "finetune"), (2, 0, 1), strict=True):
        run = place(tmp_path, step, result={"test_top1": 50.0})
        run.write_config(step, {})
        lines = [f'{{"epoch": {e + 1}, "test_top1": {50 + e}, "train_top1": {60 + e}}}\n' for e in range(epochs)]
        (run.path / "metrics.jsonl").write_text("".join(lines))
        made.append(run)
    return made


def test_the_picture_is_drawn_and_the_same_each_time(runs: list[Run]) -> None:
    for run, checkpoint in itertools.product(runs, (MASKED, Checkpoint({}, {}, "x", 2, {}))):
        drawn = set()
        for _ in range(2):
            assert report.picture(run, checkpoint) == run.path / "picture.png"
            drawn.add((run.path / "picture.png").read_bytes())
        with Image.open(run.path / "picture.png") as image:
            assert image.size == (1232, 484)
            assert len(np.unique(np.asarray(image.convert("L")))) > 20
        assert len(drawn) == 1


def test_the_picture_shows_the_curves_of_the_ancestors(runs: list[Run]) -> None:
    axis = Figure().subplots()
    draw_epochs(axis, runs[-1])
    curves = {"train: test": [1, 2], "train: train": [1, 2], "right after prune 0.3": [2]}
    curves |= {"finetune 0.3: test": [3], "finetune 0.3: train": [3]}
    legend = axis.get_legend()
    assert legend
    assert [text.get_text() for text in legend.get_texts()] == list(curves)
    assert [list(np.asarray(line.get_xdata())) for line in axis.get_lines()] == list(curves.values())


def test_a_picture_that_cannot_be_written_is_a_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"^cannot write .*picture.png"):
        report.picture(Run(tmp_path / "file"), MASKED)
