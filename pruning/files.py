"""Files that are whole or not there: write beside it, fsync, rename; and what is read back is what was written."""

import contextlib
import errno
import hashlib
import io
import json
import math
import os
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pruning.errors import UserError

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None  # type: ignore[assignment] # no module, and asked for before it is used

# without waiting, should somebody have put a FIFO there
READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
DEEPEST = 20  # levels of nesting in what is read back
LONGEST = 400  # characters of what is said of it


class CannotWriteError(UserError):
    """The disk refuses: full, read-only, no permission, or no such place."""


class DamagedError(UserError):
    """A file that was written whole is not what was written: torn, garbage, of another shape, or not a file."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} is damaged: {reason if len(reason) <= LONGEST else reason[:LONGEST] + ' ...'}")
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
    if os.name == "nt":  # it knows no such thing
        return
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
    advice = "choose another place"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        advice = f"free some space or {advice}"
    elif error.errno == errno.EISDIR:
        advice = f"delete it or {advice}"
    return CannotWriteError(f"cannot write {path}: {error.strerror or error}; {advice}")


def write_json(path: Path, value: Any, check: Callable[[], None] = lambda: None) -> None:
    """Write `value` as JSON, as `write_whole` does; ValueError for a number that JSON has not, like nan."""
    write_whole(path, to_json(value), check)


def to_json(value: Any) -> bytes:
    """Return `value` as JSON, indented for people; ValueError for a number that JSON has not, like nan."""
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Let one process of this machine at a time into the block; a place that cannot be written needs no lock."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(path.open("w"))
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def opened(path: Path) -> Iterator[io.BufferedReader]:
    """Open a regular file to read; OSError if it is none: a FIFO or a device would be waited for without end."""
    descriptor = os.open(path, READ)
    with os.fdopen(descriptor, "rb") as file:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL, "it is no regular file")
        yield file


def read_bytes(path: Path) -> bytes:
    """Return the content of a regular file; OSError if it is none, or cannot be read."""
    with opened(path) as file:
        return file.read()


def sha256(path: Path) -> str:
    """Return the digest of a file's content, in hex; OSError if it is no regular file, or cannot be read."""
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the mapping in `path`, None if there is no such file; DamagedError if it is anything else."""
    try:
        found = from_json(read_bytes(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DamagedError(path, error.strerror or str(error)) from None
    except (ValueError, RecursionError):
        raise DamagedError(path, "it holds no JSON") from None
    if not isinstance(found, dict):
        raise DamagedError(path, f"it holds a {type(found).__name__}, not a mapping")
    return found


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the mappings of a JSON-lines file; what a crash has torn, or what is none, is left out."""
    try:
        lines = read_bytes(path).split(b"\n")
    except OSError:
        return []
    found = []
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):
            if isinstance(value := from_json(line), dict):
                found.append(value)
    return found


def from_json(content: bytes) -> Any:
    """Return the value of a JSON text that this program may have written; ValueError or RecursionError for any other.

    There are no numbers beyond 64 bits, none that are not finite, and no nesting deeper than DEEPEST.
    """

    def whole(text: str) -> int:
        if len(text) > 20 or not -(2**63) <= (value := int(text)) < 2**64:
            raise ValueError("a number beyond 64 bits")
        return value

    def finite(text: str) -> float:
        if not math.isfinite(value := float(text)):
            raise ValueError(f"{text} is not finite")
        return value

    value = json.loads(content, parse_int=whole, parse_float=finite, parse_constant=finite)
    level = [value]
    for _ in range(DEEPEST):
        parts = [part.values() if isinstance(part, dict) else part for part in level if isinstance(part, (dict, list))]
        if not (level := [inner for part in parts for inner in part]):
            return value
    raise ValueError("nested too deep")
