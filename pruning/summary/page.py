"""The report as one page, without server or network: the answer, curves and tables to look through, every run.

`page.html` is the page without data. What users named may hold anything, so it goes into the page as JSON only, and the
script there shows it as text. The policy in its head allows this one script and style sheet, and no requests.
"""

import base64
import hashlib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pruning.summary.cells import SAME, Cell, Entry, differing, filled, plain
from pruning.summary.choose import defaults
from pruning.summary.curves import AXES, LAYERS, at_end, right_after
from pruning.summary.numbers import SHORT
from pruning.summary.statistics import mean, t_interval

PAGE = "report.html"
TEMPLATE = Path(__file__).with_name("page.html")


@dataclass(frozen=True)
class Content:
    """What a page is about."""

    title: str
    words: str  # of `answer`
    problems: Sequence[str]
    cells: Sequence[Cell]
    rows: Sequence[Mapping[str, Any]]  # a row of numbers for each cell
    known: Mapping[str, Entry]  # ancestors by id
    pictures: Sequence[Path] = ()  # PNG files


def page(content: Content, runs: Path, out: Path) -> str:
    """Return the page; its links lead from `out` to `runs`."""
    columns = [*content.rows[0]] if content.rows else []
    data = {
        "title": content.title,
        "answer": _answer(content),
        "problems": list(content.problems),
        "axes": [[title, logarithmic] for title, _, logarithmic in AXES.values()],
        **_curves(content.cells),
        "layers": [
            [path.stem.removesuffix(LAYERS), _image(path)] for path in content.pictures if path.stem.endswith(LAYERS)
        ],
        "columns": columns,
        "short": SHORT,
        "rows": [[row[column] for column in columns] for row in content.rows],
        "base": "./" + quote(os.fsencode(os.path.relpath(runs.resolve(), out.resolve()))),
        **_runs(content),
    }
    return filled_in(TEMPLATE.read_text(encoding="utf-8"), data)


def filled_in(template: str, data: Any) -> str:
    """Return the template with the data, and with the digests of its script and style in its policy."""
    for tag in ("script", "style"):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", template, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        template = template.replace(f"{{{{{tag}}}}}", f"'sha256-{digest}'")
    packed = json.dumps(_short(data), separators=(",", ":"), allow_nan=False)
    for sign in "<>&":  # nothing in it can end the element that holds it, or begin another
        packed = packed.replace(sign, f"\\u{ord(sign):04x}")
    return template.replace("{{data}}", packed)


def _short(value: Any) -> Any:
    """Return the value with numbers of six digits; None for what is no number."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _short(each) for key, each in value.items()}
    return [_short(each) for each in value] if isinstance(value, (list, tuple)) else value


def _image(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def _answer(content: Content) -> list[dict[str, Any]]:
    """Return the paragraphs of the answer: what it is about, what is said, notes with their command, warnings."""
    names = {f"{arch} on {dataset}, {method or 'pruned'}" for dataset, arch, method in (c.curve for c in content.cells)}
    found = []
    for paragraph in content.words.split("\n\n"):
        first, *lines = paragraph.splitlines() or [""]
        about = max((name for name in names if first.startswith(f"{name}: ")), key=len, default="")
        notes: list[list[str]] = []
        for line in lines:
            if line.startswith("    ") and notes:
                notes[-1][1] = line.strip()
            else:
                notes.append([line.strip(), ""])
        warnings = [text.removeprefix("warning: ") for text, _ in notes if text.startswith("warning: ")]
        notes = [note for note in notes if not note[0].startswith("warning: ")]
        said = first[len(about) + 2 :] if about else first
        found.append({"about": about, "said": said, "notes": notes, "warnings": warnings})
    return found


def _curves(cells: Sequence[Cell]) -> dict[str, Any]:
    """Return the networks with their dense accuracy, and a point for each cell with its place on each axis."""
    places = {pair: place for place, pair in enumerate(dict.fromkeys(cell.curve[:2] for cell in cells))}
    dense: dict[tuple[str, str], dict[int, float]] = {pair: {} for pair in places}
    points = []
    for cell in cells:
        dense[cell.curve[:2]] |= cell.dense
        about = {"network": places[cell.curve[:2]], "method": cell.method or "pruned", "sparsity": cell.percent}
        about |= {"path": cell.first.settings.get("path", ""), "x": [place(cell) for _, place, _ in AXES.values()]}
        points.append(about | {"y": [_estimate(right_after(cell)), _estimate(at_end(cell))]})
    networks = [{"name": f"{arch} on {data}", "dense": _estimate(dense[data, arch])} for data, arch in places]
    return {"networks": networks, "points": points}


def _estimate(values: Mapping[int, float]) -> list[Any] | None:
    """Return mean, both ends of its interval, and the value of each seed."""
    if not values:
        return None
    low, high = t_interval([*values.values()]) or (None, None)
    return [mean([*values.values()]), low, high, sorted(values.items())]


def _runs(content: Content) -> dict[str, Any]:
    """Return the runs of the cells and their ancestors; a setting with its value is stored once, and has a number."""
    entries: dict[str, Entry] = {}
    for at in (entry for cell in content.cells for entry in cell.entries):
        chain: Entry | None = at
        while chain and chain.result["id"] not in entries:
            entries[chain.result["id"]] = chain
            chain = content.known.get(chain.result["parent"] or "")
    ordered = sorted(entries.values(), key=lambda entry: entry.run.path.name)
    neutral = defaults()
    wholes = [filled(entry, neutral) for entry in ordered]
    telling = [key for key in differing(wholes) if (key not in SAME or key == "path") and not key.endswith(".percent")]
    numbers: dict[tuple[str, str], int] = {}
    mine = []
    for whole in wholes:
        pairs = [(key, plain(value)) for key, value in whole.items() if key not in ("stage", "level")]
        mine.append({numbers.setdefault(pair, len(numbers)) for pair in pairs})
    common = set.intersection(*mine) if mine else set()
    places = {entry.result["id"]: place for place, entry in enumerate(ordered)}
    rows = [_row(entry, places, sorted(own - common)) for entry, own in zip(ordered, mine, strict=True)]
    members = [[entry.result["id"] for entry in cell.entries] for cell in content.cells]
    return {"members": members, "telling": sorted(telling), "pairs": [*numbers], "common": sorted(common), "runs": rows}


def _row(entry: Entry, places: Mapping[str, int], settings: Sequence[int]) -> list[Any]:
    result, parent = entry.result, entry.result["parent"]
    before = result["before"]["test_top1"] if result["before"] else None
    figures = [result["sparsity"], before, result["test_top1"], result["seconds"]]
    about = [entry.run.path.name, result["id"], result["stage"], result["seed"]]
    picture = int((entry.run.path / "picture.png").exists())
    return [*about, *figures, places.get(parent or "", parent), picture, settings]
