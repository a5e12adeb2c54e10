"""Give each result what is known of it beyond accuracy."""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from pruning.files import DamagedError
from pruning.runs import Outputs
from pruning.summary.cells import Entry
from pruning.summary.quality import quality


def judged(entries: Sequence[Entry]) -> tuple[list[Entry], list[str]]:
    """Return the entries with their quality where their logits are kept, and a sentence on each damaged file."""
    problems: dict[str, None] = {}

    @lru_cache(maxsize=16)  # one dense network has many pruned ones, and these come by name
    def load(folder: Path) -> Outputs | None:
        try:
            return Outputs.load(folder)
        except DamagedError as error:
            problems[f"not judged beyond accuracy: {error}"] = None
            return None

    found = []
    for entry in sorted(entries, key=lambda entry: str(entry.dense.run.path if entry.dense else "")):
        outputs = load(entry.run.path)
        dense = load(entry.dense.run.path) if entry.dense and outputs else None
        found.append(replace(entry, quality=quality(outputs, dense)) if outputs else entry)
    return found, [*problems]
