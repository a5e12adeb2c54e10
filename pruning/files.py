"""Files that are whole or not there: write beside it, fsync, rename; and what is read back is what was written."""

import contextlib
import errno
import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pruning.errors import UserError


class CannotWriteError(UserError):
    """The disk refuses: full, read-only, no permission, or no such place."""


class DamagedError(UserError):
    """A file that was written whole is not what was written: torn, garbage, of another shape, or not a file."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} is damaged: {reason}")
        self.path = path


def write_whole(path: Path, content: bytes | memoryview, check: Callable[[], None] = lambda: None) -> None:
    """Write `content` to `path`, making its directory; no crash leaves a part. CannotWriteError if the disk refuses.

    `check` is called when only the rename is left, and may raise.
    """
    with _beside(path, content) as temporary:
        check()
        temporary.replace(path)


def publish(path: Path, content: bytes | memoryview) -> bool:
    """As `write_whole`, but never over a file that is there: return whether it is ours that is there now.

    A hard link is atomic and exclusive on network file systems too. Where the answer to it is lost, the second name of
    our own file tells that it was made.
    """
    with _beside(path, content) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return temporary.samefile(path)
    return True


@contextmanager
def _beside(path: Path, content: bytes | memoryview) -> Iterator[Path]:
    """Give a file beside `path` that holds `content`, on the disk; afterwards it is gone and its directory synced."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
        sync_directory(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from None
    finally:
        with contextlib.suppress(OSError):  # the first error is the one to show
            temporary.unlink(missing_ok=True)


def sync_directory(folder: Path) -> None:
    """Have the names in `folder` survive a power loss, not only the content of its files."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems cannot sync a directory
            raise
    finally:
        os.close(handle)


def cannot_write(path: Path, error: OSError) -> CannotWriteError:
    """Return the error to raise in place of `error`: one line with the path, the cause and what to do."""
    advice = "free some space or " if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    return CannotWriteError(f"cannot write {path}: {error.strerror or error}; {advice}choose another place")


def write_json(path: Path, value: Any) -> None:
    """Write `value` whole or not at all, indented for people; ValueError for a number that JSON has not, like nan."""
    write_whole(path, to_json(value))


def to_json(value: Any) -> bytes:
    """Return `value` as JSON, indented for people; ValueError for a number that JSON has not, like nan."""
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the mapping in `path`, None if there is no such file; DamagedError if it is anything else."""
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DamagedError(path, error.strerror or str(error)) from None
    except (ValueError, RecursionError):
        raise DamagedError(path, "it holds no JSON") from None
    if not isinstance(found, Mapping):
        raise DamagedError(path, f"it holds a {type(found).__name__}, not a mapping")
    return dict(found)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the mappings of a JSON-lines file; what a crash has torn, or what is none, is left out."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError:
        return []
    found = []
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):
            if isinstance(value := json.loads(line), dict):
                found.append(value)
    return found


def sha256(path: Path) -> str:
    """Return the digest of a file's content, in hex; OSError if it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
