"""Files that are whole or not there: write beside it, fsync, rename."""

import contextlib
import errno
import json
import os
import uuid
from pathlib import Path
from typing import Any

from pruning.errors import UserError


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write `content` to `path`, making its directory; no crash leaves a part. UserError if the disk refuses."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):  # the first error is the one to show
            temporary.unlink()
        raise cannot_write(path, error) from None


def write_json(path: Path, value: Any) -> None:
    """Write `value` whole or not at all, indented for people."""
    write_whole(path, (json.dumps(value, indent=1) + "\n").encode())


def read_json(path: Path) -> Any:
    """Return the content of `path`, or None if there is no such file."""
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None


class CannotWriteError(UserError):
    """The disk refuses: full, read-only, no permission, or no such place."""


def cannot_write(path: Path, error: OSError) -> CannotWriteError:
    """Return the error to raise in place of `error`: one line with the path, the cause and what to do."""
    advice = "free some space or " if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    return CannotWriteError(f"cannot write {path}: {error.strerror or error}; {advice}choose another place")
