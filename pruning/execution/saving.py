"""The state of a training, written by a thread while the training goes on: whole, or not there."""

import io
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pruning.files import write_whole

NAME = "saver"  # of the thread


class Saver:
    """One write at a time; what went wrong in it is raised by the call that follows, where it is awaited."""

    def __init__(self, path: Path, check: Callable[[], None]) -> None:
        self.path, self.check = path, check  # `check` as in `write_whole`
        self.thread: threading.Thread | None = None
        self.error: BaseException | None = None
        self.then: Callable[[], None] = lambda: None

    def save(self, state: Mapping[str, Any], then: Callable[[], None]) -> None:
        """Have a copy of `state` written instead of what is there; `then` is called when it lies on the disk.

        Returns when the copy is made. Raises what the write before has raised.
        """
        self.wait()
        kept = copied(state)
        self.then, self.thread = then, threading.Thread(target=self._write, args=(kept,), name=NAME, daemon=True)
        self.thread.start()

    def _write(self, state: Any) -> None:
        packed = io.BytesIO()  # torch's own writer turns a full disk into a RuntimeError about positions
        try:
            torch.save(state, packed)
            write_whole(self.path, packed.getbuffer(), self.check)
        except BaseException as error:
            self.error = error

    def look(self) -> None:
        """As `wait`, if it is over already."""
        if self.thread and not self.thread.is_alive():
            self.wait()

    def wait(self) -> None:
        """Return when the write is over; raise what it has raised."""
        if not self.thread:
            return
        self.thread.join()
        self.thread, error, self.error = None, self.error, None
        if error:
            raise error
        self.then()


def copied(state: Any) -> Any:
    """Return a copy of nested dicts and lists in which all tensors lie on the CPU; strides stay what they are.

    Those of one type and device are copied as one, since on a GPU that others share each copy waits for its turn.
    """
    groups: dict[tuple[torch.device, torch.dtype], dict[int, Tensor]] = {}
    for tensor in _tensors(state):
        groups.setdefault((tensor.device, tensor.dtype), {})[id(tensor)] = tensor
    copies: dict[int, Tensor] = {}
    for group in groups.values():
        copies |= zip(group, _together([*group.values()]), strict=True)
    return _replaced(state, copies)


@torch.no_grad()
def _together(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return copies on the CPU of tensors of one type on one device."""
    dense = [_is_dense(tensor) for tensor in tensors]
    flat = [t.as_strided((t.numel(),), (1,)) if ok else t.reshape(-1) for t, ok in zip(tensors, dense, strict=True)]
    parts = torch.cat(flat).cpu().split([t.numel() for t in tensors])
    return [
        part.as_strided(t.shape, t.stride(), part.storage_offset()) if ok else part.view(t.shape)
        for part, t, ok in zip(parts, tensors, dense, strict=True)
    ]


def _is_dense(tensor: Tensor) -> bool:
    """Whether there are no gaps between its numbers, in an order that can be kept."""
    last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return last or tensor.is_contiguous()


def _tensors(state: Any) -> Iterator[Tensor]:
    if isinstance(state, Tensor):
        yield state
    for part in state.values() if isinstance(state, Mapping) else state if isinstance(state, (list, tuple)) else ():
        yield from _tensors(part)


def _replaced(state: Any, copies: Mapping[int, Tensor]) -> Any:
    """Return the dicts and lists anew, with these tensors in place of those with their ids."""
    if isinstance(state, Tensor):
        return copies[id(state)]
    if isinstance(state, Mapping):
        return {key: _replaced(part, copies) for key, part in state.items()}
    return type(state)(_replaced(part, copies) for part in state) if isinstance(state, (list, tuple)) else state
