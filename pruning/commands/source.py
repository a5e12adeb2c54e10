"""What `resume=` names where it is only looked at: a run by its id or directory, or any file."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from pruning.checkpoints import MODEL
from pruning.errors import UserError
from pruning.runs import Run, find
from pruning.settings import path_of


def source_of(resume: Any, runs: Path) -> tuple[Run | None, Path]:
    """Return the run, None for a file of no run, and the file; UserError if a run is not done."""
    if type(resume) not in (str, int) or not str(resume).strip():
        raise UserError(f"resume must be a path or the id of a run, got {resume!r}")
    path = path_of("resume", str(resume))
    run = find(runs, str(resume))
    if run is None:
        folder = path.parent if path.name == MODEL else path
        with suppress(OSError):  # such as a name that is too long: whoever reads the file says so
            run = Run(folder) if (folder / "config.json").is_file() else None
    if run is None:
        return None, path
    if not run.finished():
        raise UserError(f"resume={resume}: that run is not done yet; run its command again first ({run.path})")
    return run, run.model
