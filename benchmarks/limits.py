"""What no training step can be faster than on this machine: its products and its bytes, by themselves."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, flop_registry

BLOCK = 1 << 26  # bytes that are copied at once: more than caches hold


class Traffic(TorchDispatchMode):
    """Counts the bytes that everything but products reads and writes, each tensor of a call once."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        view = any(part.alias_info and not part.alias_info.is_write for part in func._schema.returns)
        if not view and func._overloadpacket not in flop_registry:
            tensors = [leaf for leaf in tree_leaves((args, kwargs, found)) if isinstance(leaf, Tensor)]
            self.bytes += sum(tensor.nbytes for tensor in tensors)
        return found


def counted(step: Callable[[], object]) -> tuple[int, int]:
    """Return the floating-point operations of a step's products, and the bytes that the rest of it moves."""
    with FlopCounterMode(display=False) as operations, Traffic() as traffic:
        step()
    return operations.get_total_flops(), traffic.bytes


def products(count: int, device: torch.device, dtype: torch.dtype) -> Callable[[], None]:
    """Return what makes about `count` floating-point operations, as products of large square matrices."""
    side = 4096 if device.type == "cuda" else 1024
    left, right, out = (torch.randn(side, side, device=device).to(dtype) for _ in range(3))
    times = max(1, round(count / (2 * side**3)))

    def pass_() -> None:
        for _ in range(times):
            torch.mm(left, right, out=out)

    return pass_


def copies(count: int, device: torch.device) -> Callable[[], None]:
    """Return what reads and writes about `count` bytes in all, copying from one large block to another."""
    source, target = (torch.zeros(BLOCK, dtype=torch.uint8, device=device) for _ in range(2))
    times = max(1, round(count / (2 * BLOCK)))

    def pass_() -> None:
        for _ in range(times):
            target.copy_(source)

    return pass_
