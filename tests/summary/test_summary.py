"""The report on made-up results: numbers against the files and scipy, words against what was made up."""

import csv
import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from pruning.errors import UserError
from pruning.runs.records import record_sweep
from pruning.summary import ReportSettings, make, make_report, report_after, report_text, statistics
from pruning.summary.cells import gather
from tests.pipeline.made import chain, composed, sweep_of
from tests.runs.steps import place, step

Tops = dict[tuple[float, str], list[float]]
"""Top-1 by sparsity and criterion, by seed."""


def made(runs: Path, tops: Tops, dense: tuple[float, ...] = (90.0, 91.0, 92.0)) -> None:
    for (percent, criterion), values in tops.items():
        for seed, top1 in enumerate(values):
            root = step("train", seed=seed, epochs=8)
            other = {} if criterion == "magnitude" else {"criterion": criterion}
            cut = step("prune", root, seed, percent=percent, **other)
            tuned = step("finetune", cut, seed, epochs=5)
            counts = {
                "prunable": 800,
                "prunable_nonzero": round(800 * (1 - percent)),
                "params": 1000,
                "params_nonzero": round(1000 * (1 - percent)),
                "macs": 5000,
                "macs_nonzero": 500,
            }
            right_after = {"test_top1": top1 / 2, "test_top5": 60.0, "test_loss": 1.0}
            layers = {"conv1.weight": [90, 100], "fc.weight": [round(900 * (0.9 - percent)), 900]}
            pruned = counts | {"sparsity": percent, "before": right_after, "layers": layers}
            place(runs, root, config=about(root), result={"test_top1": dense[seed]} | counts)
            place(runs, cut, config=about(cut), result={"test_top1": top1 / 2} | pruned)
            place(runs, tuned, config=about(tuned), result={"test_top1": top1, "test_top5": 99.0} | pruned)


def about(one: Any) -> dict[str, Any]:
    return {"spec": one.spec, "unhashed": {k: v for k, v in one.to_json().items() if k not in one.spec}}


def rows(runs: Path, *folder: str) -> list[dict[str, str]]:
    return list(csv.DictReader(runs.joinpath("report", *folder, "cells.csv").read_text().splitlines()))


def words(runs: Path, **settings: Any) -> str:
    return make_report(runs, ReportSettings(**settings), neutral).text()


def neutral(dataset: str) -> dict[str, Any]:
    return composed(f"dataset={dataset}")


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make, "draw", lambda *_: [])


@pytest.mark.parametrize("values", [[1.0, 2.0, 4.0], [3.0, 3.5], [-1.0, 0.0, 0.5, 9.0]])
def test_intervals_and_p_are_those_of_scipy(values: list[float]) -> None:
    middle, error = sum(values) / len(values), stats.sem(values)
    assert statistics.t_interval(values) == pytest.approx(stats.t.interval(0.95, len(values) - 1, middle, error))
    assert statistics.upper_bound(values) == pytest.approx(stats.t.interval(0.90, len(values) - 1, middle, error)[1])
    assert statistics.paired_p(values) == pytest.approx(stats.ttest_1samp(values, 0).pvalue)


def test_one_value_has_no_interval_and_equal_ones_have_no_width() -> None:
    functions = (statistics.deviation, statistics.t_interval, statistics.upper_bound, statistics.paired_p)
    assert [function([1.0]) for function in functions] == [None] * 4
    assert statistics.t_interval([0.1, 0.1, 0.1]) == pytest.approx((0.1, 0.1))
    assert statistics.paired_p([0.0, 0.0]) == 1.0
    assert statistics.paired_p([2.0, 2.0]) == 0.0


def test_holm_as_in_its_paper() -> None:
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.9, 0.8]) == [1.0, 1.0]
    assert statistics.holm([]) == []


def test_seeds_needed_is_the_least_number_that_is_enough() -> None:
    losses = [0.1, 0.4, 0.7]
    n = statistics.seeds_needed(losses, 0.5)
    assert n is not None
    assert (statistics.upper_bound(losses, n) or 1) < 0.5 <= (statistics.upper_bound(losses, n - 1) or 0)
    assert statistics.seeds_needed([0.6, 0.7], 0.5) is None
    assert statistics.seeds_needed([0.6], 0.5) == 3


def test_every_number_of_the_table_is_that_of_the_files(tmp_path: Path) -> None:
    made(tmp_path, {(0.5, "magnitude"): [90.1, 90.9, 92.2], (0.5, "random"): [80.0, 85.0, 84.0]})
    words(tmp_path)
    found = {row["method"]: row for row in rows(tmp_path)}
    files = [json.loads(path.read_text()) for path in tmp_path.glob("*/result.json")]
    by_id = {file["id"]: file for file in files}
    for criterion, row in [(name.partition("=")[2], row) for name, row in found.items()]:
        mine = [f for f in files if f["stage"] == "finetune"]
        configs = {f["id"]: json.loads(next(tmp_path.glob(f"*-{f['parent']}/config.json")).read_text()) for f in mine}
        mine = [f for f in mine if configs[f["id"]]["spec"]["recipe"].get("criterion", "magnitude") == criterion]
        tops = [f["test_top1"] for f in mine]
        changes = [f["test_top1"] - by_id[by_id[f["parent"]]["parent"]]["test_top1"] for f in mine]
        low, high = stats.t.interval(0.95, 2, sum(tops) / 3, stats.sem(tops))
        wanted = {"n": 3, "top-1": sum(tops) / 3, "top-1 sd": stats.tstd(tops), "top-1 low": low, "top-1 high": high}
        low, high = stats.t.interval(0.95, 2, sum(changes) / 3, stats.sem(changes))
        wanted |= {"pairs": 3, "change": sum(changes) / 3, "change low": low, "change high": high, "epochs": 13}
        wanted |= {"loss bound": -stats.t.interval(0.9, 2, sum(changes) / 3, stats.sem(changes))[0]}
        wanted |= {"sparsity": 0.5, "sparsity asked": 0.5, "sparsity of all": 0.5, "compression": 2, "top-5": 99}
        wanted |= {"theoretical speed-up": 10, "stored bytes": 2100, "top-1 pruned": sum(tops) / 6, "top-5 pruned": 60}
        assert {key: float(row[key]) for key in wanted} == pytest.approx(wanted)
    differences = [80.0 - 90.1, 85.0 - 90.9, 84.0 - 92.2]
    row = found["prune.criterion=random"]
    assert row["compared with"] == "prune.criterion=magnitude"
    assert float(row["difference"]) == pytest.approx(sum(differences) / 3)
    assert float(row["p (Holm)"]) == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)
    assert len([*(tmp_path / "report").glob("*.png")]) == len([*(tmp_path / "report").glob("*.svg")]) == 6
    assert (tmp_path / "report" / "cells.tex").read_text().count(r"\\") == 3


@pytest.mark.usefixtures("no_pictures")
def test_methods_are_compared_with_the_plain_one_wherever_it_stands_in_the_alphabet(tmp_path: Path) -> None:
    made(tmp_path, {(0.5, "lamp"): [90.0, 91.0], (0.5, "magnitude"): [92.0, 93.5], (0.5, "fisher"): [80.0, 85.0]})
    words(tmp_path)
    found = {row["method"]: row["compared with"] for row in rows(tmp_path)}
    usual = "prune.criterion=magnitude"
    assert found == {usual: "", "prune.criterion=lamp": usual, "prune.criterion=fisher": usual}


@pytest.mark.usefixtures("no_pictures")
def test_words_on_ties_chance_one_seed_and_accuracy_above_dense(tmp_path: Path) -> None:
    made(tmp_path / "ties", {(0.5, "magnitude"): [90.0, 91.0, 92.0], (0.9, "random"): [10.0, 10.0, 10.0]})
    text = words(tmp_path / "ties")
    assert "criterion=magnitude: sparsity 0.5 loses less than 0.5 points" in text
    assert "criterion=random: no sparsity can be said" in text
    assert "to be sure" not in text
    made(tmp_path / "above", {(0.5, "magnitude"): [92.0, 92.8, 94.1]})
    assert "sparsity 0.5 loses less" in words(tmp_path / "above")
    made(tmp_path / "one", {(0.5, "magnitude"): [90.0]})
    text = words(tmp_path / "one")
    assert "no sparsity can be said" in text
    assert "only 1 of 3 seeds" in text
    assert "about 2 more seeds at 0.5:\n    python main.py -m dataset=digits arch=resnet20 stage=finetune" in text
    assert "seed=1,2" in text


@pytest.mark.usefixtures("no_pictures")
def test_a_lower_sparsity_that_fails_is_said(tmp_path: Path) -> None:
    made(tmp_path, {(0.5, "magnitude"): [80.0, 81.0, 82.0], (0.8, "magnitude"): [90.0, 91.1, 92.0]})
    text = words(tmp_path)
    assert "sparsity 0.8 loses less" in text
    assert "not monotone: at the lower 0.5" in text


@pytest.mark.usefixtures("no_pictures")
def test_what_cannot_be_counted_is_named(tmp_path: Path) -> None:
    made(tmp_path, {(0.5, "magnitude"): [90.0, 91.0, 92.0]})
    (tmp_path / "notes").mkdir()
    broken = sorted(tmp_path.glob("finetune-*-s2-*"))[0]
    (broken / "result.json").write_text('{"id": 3}')
    wanted = chain(0.9, 1, "finetune")
    record_sweep(tmp_path, "night", wanted, wanted[-1:], {})
    text = words(tmp_path)
    assert f"not a run, not counted: {tmp_path / 'notes'}" in text
    assert f"damaged, not counted: {broken}" in text
    assert wanted[-1].name in text
    assert [row["n"] for row in rows(tmp_path)] == ["2"]


@pytest.mark.usefixtures("no_pictures")
def test_where_and_by_choose_and_refuse(tmp_path: Path) -> None:
    made(tmp_path, {(0.5, "magnitude"): [90.0, 91.0], (0.5, "random"): [80.0, 81.0]})
    words(tmp_path, where={"prune.criterion": ["magnitude"], "dataset": "digits"}, by="prune.criterion")
    assert [row["method"] for row in rows(tmp_path)] == ["prune.criterion=magnitude"]
    with pytest.raises(UserError, match=r"^report.where must name settings that results have, got colour"):
        words(tmp_path, where={"colour": "red"})
    with pytest.raises(UserError, match=r"^report.by must name all that differs, but prune.criterion differs"):
        words(tmp_path, by="prune.scope")
    for node, message in (({"tolerance": -1}, "report.tolerance must be > 0"), ({"where": 3}, "report.where must be")):
        with pytest.raises(UserError, match=message):
            report_text(node, tmp_path, neutral)


@pytest.mark.usefixtures("no_pictures")
def test_a_sweep_is_reported_by_itself_and_a_report_that_fails_is_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(tmp_path, {(0.5, "magnitude"): [90.0, 91.0], (0.8, "magnitude"): [90.0, 91.0]})
    sweep = sweep_of([(0.8, 0, "finetune"), (0.8, 1, "finetune"), (0.8, 2, "finetune")], tmp_path)
    text, page = report_after(sweep, {"tolerance": 0.7}, neutral)
    assert "less than 0.7 points" in text
    assert "waiting, not counted: finetune" in text
    assert page == tmp_path / "report" / sweep.title / "report.html"
    assert text.splitlines()[-1] == f"report: {page}"
    assert [row["sparsity asked"] for row in rows(tmp_path, sweep.title)] == ["0.8"]
    assert "not a run" not in words(tmp_path)
    monkeypatch.setattr(make, "gather", lambda *_: math.sqrt(-1))
    text, page = report_after(sweep, {}, neutral)
    assert text.startswith("\nno report was made (ValueError: ")
    assert page is None


@pytest.mark.usefixtures("no_pictures")
def test_two_thousand_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is counted once."""
    monkeypatch.setattr(os, "fsync", lambda _: None)  # they need not survive a power loss
    seeds = range(44)
    for i, criterion in enumerate(("magnitude", "random")):
        tops = {(p / 12, criterion): [90 - p * (i + 1) + s % 3 * 0.3 for s in seeds] for p in range(1, 12)}
        made(tmp_path, tops, dense=tuple(90 + s % 5 * 0.2 for s in seeds))
    assert len([*tmp_path.iterdir()]) == 44 + 2 * 2 * 11 * 44
    words(tmp_path)
    assert [(row["n"], row["pairs"]) for row in rows(tmp_path)] == [("44", "44")] * 22


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(
    ("stage", "own"),
    [("at_init", {}), ("rigl", {"fraction": 0.5}), ("gradual", {"percent": 0.5, "criterion": "snip", "interval": 7})],
)
def test_what_was_never_dense_is_compared_with_the_dense_network_that_was_trained_alike(
    tmp_path: Path, stage: str, own: dict[str, Any]
) -> None:
    """An untrained network is no dense one, nor is one that was trained longer."""
    tops = {"test_top1": 88.0, "sparsity": 0.5}
    for seed, epochs in ((0, 8), (1, 9)):
        dense = step("train", seed=seed, epochs=epochs)
        place(tmp_path, dense, config=about(dense), result={"test_top1": 90.0})
        root = step("init", seed=seed)
        cut = step("prune", root, seed, percent=0.5, criterion="snip")
        last = step(stage, root if stage == "gradual" else cut, seed, epochs=8, **own)
        place(tmp_path, root, config=about(root), result={"test_top1": 10.0})
        place(tmp_path, cut, config=about(cut), result=tops | {"test_top1": 10.0})
        place(tmp_path, last, config=about(last), result=tops)
    found = gather(tmp_path).entries
    sparse = [entry for entry in found.values() if entry.settings["stage"] == stage]
    assert {e.result["seed"]: e.dense and e.dense.settings["train.epochs"] for e in sparse} == {0: 8, 1: None}
    assert [entry.epochs for entry in sparse] == [8, 8]
    assert all(entry.dense is None for entry in found.values() if entry.settings["stage"] in ("init", "prune"))


def test_what_came_of_a_file_is_not_compared_with_a_network_that_was_trained_here(tmp_path: Path) -> None:
    dense = step("train", epochs=8)
    cut = replace(step("prune", percent=0.5), parent="sha256:0", places={"sha256:0": "/file"})
    last = step("lr_rewind", cut, epochs=8)
    for one in (dense, cut, last):
        place(tmp_path, one, config=about(one), result={"test_top1": 90.0})
    assert all(entry.dense is None for id, entry in gather(tmp_path).entries.items() if id != dense.id)
