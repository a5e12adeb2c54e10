"""The report on a directory of runs: the answer in words, tables, curves, and what could not be counted."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pruning import report
from pruning.errors import UserError
from pruning.files import write_whole
from pruning.pipeline.sweep import Sweep
from pruning.program import COMMAND
from pruning.summary.answer import answer, command_of
from pruning.summary.cells import Cell, gather, pruned
from pruning.summary.choose import grouped, overrides, selected
from pruning.summary.curves import draw
from pruning.summary.group import log_report, reports
from pruning.summary.judge import judged
from pruning.summary.missing import missing
from pruning.summary.numbers import CLASSES, SHORT, as_csv, as_latex, as_markdown, classes, numbers, shown
from pruning.summary.page import PAGE, Content, page
from pruning.summary.settings import ReportSettings
from pruning.tracking import Sync

LISTED = 20  # problems that the terminal shows; report.md has them all
FOLDER = "report"  # in env.runs

Compose = Callable[[str], Mapping[str, Any]]
"""The config that `dataset=NAME` alone gives: what a command need not say."""


@dataclass(frozen=True)
class Report:
    """What a report says; the files lie in `out`."""

    words: str
    table: str
    problems: Sequence[str]
    out: Path

    def text(self, *, table: bool = True) -> str:
        """Return what the terminal shows, the path last."""
        blocks = [self.words, *([self.table] if table and self.table else [])]
        if self.problems:
            more = len(self.problems) - LISTED
            lines = ["not counted:", *(f"  {each}" for each in self.problems[:LISTED])]
            blocks.append("\n".join([*lines, *([f"  ... and {more} more, in report.md"] if more > 0 else [])]))
        return "\n\n".join([*blocks, f"report: {self.out / PAGE}"])


def make_report(runs: Path, settings: ReportSettings, compose: Compose, sweep: Sweep | None = None) -> Report:
    """Write the report on all results in `runs`, or on what `sweep` wants of them, and return what it says."""
    out = settings.out or (runs / FOLDER / sweep.title if sweep else runs / FOLDER)
    gathered = gather(runs, {out, runs / FOLDER})
    wanted = {step.id for step in sweep.wanted} if sweep else gathered.entries.keys()
    chosen = [entry for entry in pruned(gathered) if entry.result["id"] in wanted]
    entries, damaged = judged(selected(chosen, settings.where))
    found = grouped(entries, settings.by)

    def command(cell: Cell, seeds: Sequence[int]) -> str | None:
        if cell.first.level > 1:
            return None  # its levels are not among its settings
        given = overrides(cell, compose(cell.first.result["dataset"])) | {"env.runs": str(runs)}
        return command_of(given, seeds)

    words = answer(found, settings.tolerance, command) or f"nothing that was pruned is done in {runs}"
    problems = [*gathered.problems, *damaged, *missing(runs, sweep, settings.where)]
    rows = numbers(found)
    title = f"Pruning report: {sweep.title}" if sweep else "Pruning report"
    pictures = [path for path in draw(found, out) if path.suffix == ".png"]
    _write(Content(title, words, problems, found, rows, gathered.entries, pictures), runs, out)
    titles = ("dataset", "network", *SHORT)
    shorter = [tuple(shown(row[title], title) for title in titles) for row in rows]
    return Report(words, report.text(shorter, titles) if rows else "", problems, out)


def _write(content: Content, runs: Path, out: Path) -> None:
    """Write the files, each whole."""
    blocks = [
        f"# {content.title}\n\n```\n{content.words}\n```\n",
        "".join(f"![{path.stem}]({quote(path.name)})\n" for path in content.pictures),
        as_markdown(content.rows),
        "## Not counted\n\n" + ("".join(f"- {problem}\n" for problem in content.problems) or "- nothing\n"),
    ]
    files = {
        "cells.csv": as_csv(content.rows),
        "classes.csv": as_csv(classes(content.cells), CLASSES),
        "cells.tex": as_latex(content.rows),
        "report.md": "\n".join(blocks),
        PAGE: page(content, runs, out),
    }
    for name, text in files.items():
        write_whole(out / name, text.encode())


def report_text(node: Any, runs: Path, compose: Compose) -> str:
    """Make the report that the node `report` of a config asks for; return what the terminal shows."""
    return make_report(runs, ReportSettings.read(node, "report"), compose).text()


def sync_reports(server: Sync, runs: Path, note: Callable[[str], None]) -> None:
    """Send to W&B the reports of sweeps that it does not have."""
    for each, group in reports(runs, FOLDER):
        if each.rows:
            note(f"report of {each.title}: " + ("sent" if server.send_report(each, group) else "is there"))


def report_after(sweep: Sweep, node: Any, compose: Compose) -> tuple[str, Path | None]:
    """Make the report at the end of a sweep; return what is said of it, and its page.

    Whatever is wrong with it is a line, and no error of the sweep.
    """
    try:
        made = make_report(sweep.env.runs, ReportSettings.read(node, "report"), compose, sweep)
        said: list[str] = []
        log_report(sweep, made.out, said.append)
        return "\n" + "\n".join([*said, made.text(table=False)]), made.out / PAGE
    except Exception as error:
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        return f"\nno report was made ({reason}); {COMMAND} stage=report tries again", None
