import shutil
from dataclasses import replace
from pathlib import Path

from pruning.runs import Run, results
from pruning.runs.chain import chain_settings, own_settings
from tests.runs.steps import DENSE, PRUNED, STEPS, TUNED, place, step

ABOVE = {"dataset": "digits", "arch": "resnet20", "seed": 0}
TRAIN = {"train.epochs": 2, "train.lr": 0.1, "train.precision": "fp32"}
FINETUNE = {"finetune.epochs": 1, "finetune.lr": 0.01, "finetune.precision": "fp32"}


def test_own_settings_have_the_names_of_the_command_line() -> None:
    assert own_settings(DENSE) == ABOVE | TRAIN
    file = f"sha256:{'0' * 64}"
    other = replace(
        PRUNED, parent=file, places={file: "/m.pth.tar"}, dataset={"name": "x", "pad": 4, "fingerprint": "0"}
    )
    expected = {"dataset": "x", "dataset.pad": 4, "resume": "/m.pth.tar", "prune.percent": 0.8}
    assert own_settings(other) == ABOVE | expected


def test_a_chain_has_the_settings_of_all_its_steps_and_the_last_of_two_levels(tmp_path: Path) -> None:
    again = step("prune", TUNED, percent=0.9)
    for one in (*STEPS, again):
        place(tmp_path, one).write_config(one, {})
    assert chain_settings(TUNED, tmp_path) == ABOVE | TRAIN | {"prune.percent": 0.8} | FINETUNE
    assert chain_settings(again, tmp_path) == ABOVE | TRAIN | {"prune.percent": 0.9} | FINETUNE
    (Run.for_step(DENSE, tmp_path).path / "config.json").write_text("{")
    assert chain_settings(TUNED, tmp_path) == ABOVE | {"prune.percent": 0.8} | FINETUNE
    shutil.rmtree(Run.for_step(PRUNED, tmp_path).path)
    assert chain_settings(TUNED, tmp_path) == ABOVE | FINETUNE


def test_rows_have_them_beside_the_figures(tmp_path: Path) -> None:
    place(tmp_path, TUNED, result={"settings": ABOVE | FINETUNE, "test_top1": 9.0}).write_config(TUNED, {})
    (row,) = results(tmp_path)
    assert (row["finetune.lr"], row["arch"], row["test_top1"]) == (0.01, "resnet20", 9.0)
    assert "settings" not in row
