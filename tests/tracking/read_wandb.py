"""Read the .wandb file that an offline run has written: records in LevelDB's log format."""

import json
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

BLOCK, HEADER = 32768, 7


def records(path: Path) -> Iterator[Any]:
    """Yield the records; a torn one at the end, of a run that was killed, is left out."""
    from wandb.proto import wandb_internal_pb2 as protocol

    data, position, parts = path.read_bytes(), HEADER, b""
    assert data[:4] == b":W&B", "not a .wandb file"
    while position + HEADER <= len(data):
        if (rest := BLOCK - position % BLOCK) < HEADER:
            position += rest
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)  # kinds: 1 whole, 2 first, 3 middle, 4 last
        part = data[position + HEADER : position + HEADER + length]
        position += HEADER + length
        if kind == 0 or len(part) < length:
            return
        parts = part if kind in (1, 2) else parts + part
        if kind in (1, 4):
            yield protocol.Record.FromString(parts)  # type: ignore[attr-defined]


def history(path: Path) -> list[dict[str, Any]]:
    return [values(record.history.item) for record in records(path) if record.HasField("history")]


def summary(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for record in records(path):
        if record.HasField("summary"):
            found |= values(record.summary.update)
    return found


def values(items: Iterable[Any]) -> dict[str, Any]:
    return {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


def epochs(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows that are epochs (the others hold the table and the picture), less what W&B adds."""
    rows = [row for row in history if "train_loss" in row]
    return [{key: value for key, value in row.items() if not key.startswith("_")} for row in rows]
