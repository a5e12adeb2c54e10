from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pruning import report
from pruning.checkpoints import Checkpoint
from pruning.errors import UserError
from pruning.files import write_json
from pruning.runs import Run

RESULT: dict[str, Any] = {
    "id": "r1",
    "stage": "train",
    "sparsity": 0.0,
    "test_top1": 93.456,
    "before": None,
    "seconds": 12.34,
    "params": 1_000_000,
    "params_nonzero": 1_000_000,
    "macs": 2_000,
    "macs_nonzero": 2_000,
}
PRUNED = RESULT | {
    "id": "r2",
    "stage": "finetune",
    "sparsity": 0.8,
    "test_top1": 9.0,
    "before": {"test_top1": 1.0},
    "params_nonzero": 200_001,
    "macs_nonzero": 500,
    "seconds": 1234.5,
}


def checkpoint() -> Checkpoint:
    weights = {"b.weight": torch.ones(4, 2), "a.weight": torch.ones(2, 2), "c.bias": torch.ones(2)}
    mask = {"a.weight": torch.tensor([[True, False], [False, False]]), "b.weight": torch.ones(4, 2, dtype=torch.bool)}
    return Checkpoint(weights, mask, "x", 2, {})


def test_the_table_has_a_row_a_result() -> None:
    first, second = report.table([RESULT, PRUNED], {"r1": "runs/one", "r2": "runs/two"})
    assert first == ("train", "0.0000", "", "93.46", "1,000,000 (100.0%)", "2,000 (100.0%)", "12.3", "runs/one")
    assert second == ("finetune", "0.8000", "1.00", "9.00", "200,001 (20.0%)", "500 (25.0%)", "1234.5", "runs/two")


def test_the_text_is_aligned_numbers_to_the_right() -> None:
    rows = [("train", "1.50", "", "here"), ("finetune", "123.25", "7", "there")]
    assert report.text(rows, ("step", "value", "more", "place")).splitlines() == [
        "step       value  more  place",
        "-----------------------------",
        "train       1.50        here",
        "finetune  123.25     7  there",
    ]


def test_the_headings_alone_are_a_table_too() -> None:
    assert report.text([]).splitlines()[0].split("  ")[0] == "step"


def test_layers_are_in_the_order_of_the_network() -> None:
    assert report.layers(checkpoint()) == [
        {"layer": "b.weight", "weights": 8, "kept": 8, "sparsity": 0.0},
        {"layer": "a.weight", "weights": 4, "kept": 1, "sparsity": 0.75},
    ]


def runs(home: Path) -> list[Run]:
    """A dense run of two epochs, what was pruned from it, and an epoch of finetuning."""
    made, parent = [], None
    for stage, epochs in (("train", 2), ("prune", 0), ("finetune", 1)):
        run = Run(home / f"{stage}-x-r{len(made)}")
        run.path.mkdir()
        write_json(run.path / "config.json", {"spec": {}, "aside": {"parent": parent}})
        write_json(run.path / "result.json", {"test_top1": 50.0})
        lines = [f'{{"epoch": {e + 1}, "test_top1": {50 + e}, "train_top1": {60 + e}}}\n' for e in range(epochs)]
        (run.path / "metrics.jsonl").write_text("".join(lines))
        made, parent = [*made, run], run.path.name
    return made


@pytest.mark.parametrize("masked", [False, True])
def test_the_picture_is_drawn(tmp_path: Path, masked: bool) -> None:
    for run in runs(tmp_path):
        made = checkpoint() if masked else Checkpoint({}, {}, "x", 2, {})
        path = report.picture(run, made)
        assert path == run.path / "picture.png"
        with Image.open(path) as image:
            assert image.size == (1210, 418)
            assert len(np.unique(np.asarray(image.convert("L")))) > 20


def test_the_picture_shows_the_curves_of_the_ancestors(tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    axis = Figure().subplots()
    report.draw_epochs(axis, runs(tmp_path)[-1])
    names, lines = [text.get_text() for text in axis.get_legend().get_texts()], axis.get_lines()
    assert names == ["train: test", "train: train", "right after prune", "finetune: test", "finetune: train"]
    assert [list(line.get_xdata()) for line in lines] == [[1, 2], [1, 2], [2], [3], [3]]


def test_the_same_run_gives_the_same_picture(tmp_path: Path) -> None:
    run = runs(tmp_path)[-1]
    first, second = ((report.picture(run, checkpoint()) or tmp_path).read_bytes() for _ in range(2))
    assert first == second


def test_a_picture_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^cannot write .*picture.png"):
        report.picture(Run(tmp_path / "nowhere"), checkpoint())
