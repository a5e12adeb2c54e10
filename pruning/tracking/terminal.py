"""The terminal never stops a run: what cannot be printed is not printed.

A closed or broken stdout, a full disk behind it, an encoding without the character: none of them is an error of the
work that is being reported. So every process of this program writes through streams that forgive; what else it runs
(a library in C, a subprocess) finds its three descriptors open.
"""

import contextlib
import io
import os
import select
import sys
from typing import Any, TextIO


class ForgivingFile(io.RawIOBase):
    """A file descriptor whose first failing write is the last that is tried."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor, self.broken = descriptor, False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.descriptor

    def isatty(self) -> bool:
        return os.isatty(self.descriptor)

    def write(self, content: Any, /) -> int:
        rest = memoryview(content).cast("B")
        size = len(rest)
        while rest and not self.broken:
            try:
                rest = rest[os.write(self.descriptor, rest) :]
            except BlockingIOError:  # somebody has made it non-blocking; a reader that is slow is not broken
                select.select([], [self.descriptor], [])
            except OSError:
                self.broken = True
        return size


def forgive() -> None:
    """Put forgiving streams in place of this process's stdout and stderr."""
    keep_open()
    sys.stdout, sys.stderr = stream(1, sys.stdout), stream(2, sys.stderr)


def keep_open() -> None:
    """Open /dev/null where stdin, stdout or stderr are closed: else the next file would take their number."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            with contextlib.suppress(OSError):
                opened = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
                os.set_inheritable(opened, True)


def stream(descriptor: int, like: TextIO | None) -> TextIO:
    """Return a stream to `descriptor` in the encoding of `like`; what that cannot say becomes an escape."""
    if like:
        with contextlib.suppress(OSError, ValueError):
            like.flush()
    encoding = getattr(like, "encoding", None) or "utf-8"
    buffered = io.BufferedWriter(ForgivingFile(descriptor))
    lines = descriptor == 2 or os.isatty(descriptor)
    return io.TextIOWrapper(buffered, encoding=encoding, errors="backslashreplace", line_buffering=lines)
