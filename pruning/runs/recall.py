"""What a finished command has said: said again while nothing has changed that it depends on, and without torch.

A command is known by all its settings, this program's files, the machine, and how wide its terminal is. That its steps
are done is known from the size and time of the files which they have left. What depends on other files (a checkpoint,
an image folder, code from elsewhere) is not remembered: whether those have changed is found out with torch.
"""

import hashlib
import json
import os
import platform
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pruning.errors import UserError
from pruning.files import write_json
from pruning.program import MAIN
from pruning.runs.provenance import PACKAGE
from pruning.runs.run import Run
from pruning.runs.step import Step, is_file
from pruning.tracking import under_agent

FOLDER = ".finished"  # in env.runs


def said(cells: Sequence[Mapping[str, Any]], *settings: Any) -> str | None:
    """Return what the command with these composed configs says, if it was finished and that still holds."""
    path = _place(cells, settings)
    if path is None or under_agent():  # who waits for an answer, not for a text
        return None
    try:
        found = json.loads(path.read_text())
        same = all(_stamp(Path(name)) == stamp for name, stamp in found["files"].items())
        if same and all(Path(name).exists() for name in found["shown"]):
            return str(found["text"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # not there, or not what was written
        pass
    return None


def keep(
    texts: Iterable[str],
    steps: Sequence[Step],
    shown: Iterable[Path],
    cells: Sequence[Mapping[str, Any]],
    *settings: Any,
) -> None:
    """Remember what the command says, whose steps are done.

    It holds as long as the steps' files stay as they are, and those that are `shown` stay there.
    """
    path = _place(cells, settings)
    if path is None or any(cell.get("redo") is not None for cell in cells) or not all(map(_closed, steps)):
        return
    runs = path.parents[1].resolve()
    files = [file for step in steps for file in (Run.for_step(step, runs).model, runs / step.name / "result.json")]
    with suppress(OSError, UserError):  # it only saves time
        stamps, there = {str(file): _stamp(file) for file in files}, [str(file) for file in shown if file.exists()]
        write_json(path, {"text": "\n".join(texts), "files": stamps, "shown": there})


def _closed(step: Step) -> bool:
    """Whether nothing decides about the step but its settings and this program."""
    return not step.code and "fingerprint" not in step.dataset and not any(map(is_file, step.references))


def _place(cells: Sequence[Mapping[str, Any]], settings: Sequence[Any]) -> Path | None:
    try:
        runs = Path(cells[0]["env"]["runs"]).expanduser()
        text = json.dumps([_program(), str(runs.resolve()), _width(), [*cells], [*settings]], sort_keys=True)
    except (OSError, RuntimeError, TypeError, ValueError, LookupError):  # whoever reads these says what is wrong
        return None
    return runs / FOLDER / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"


def _width() -> int | None:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


@cache
def _program() -> list[Any]:
    """Return what tells this program, on this machine, from others."""
    files = [*PACKAGE.rglob("*.py"), *(MAIN.parent / "hydra_plugins").rglob("*.py"), MAIN]
    torch = find_spec("torch")
    origins = [Path(torch.origin)] if torch and torch.origin else []
    stamps = {str(file): _stamp(file) for file in [*files, *origins, Path(sys.executable)]}
    gpus = sorted(str(path) for path in Path("/dev").glob("nvidia*"))
    return [sys.version, platform.node(), os.environ.get("CUDA_VISIBLE_DEVICES"), gpus, stamps]


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]
