"""Where and how, never what: directories, device, precision, threads, W&B. Nothing here is part of an id."""

import ctypes
import importlib
import os
import platform
import sys
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pruning.errors import UserError, check_choice
from pruning.settings import Settings, setting

if TYPE_CHECKING:  # what only looks at runs does not wait for torch
    import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
PRECISIONS = ("auto", "bf16", "fp32", "tf32")


@dataclass(frozen=True, kw_only=True)
class WandbSettings(Settings):
    """How the steps are reported to W&B; null means W&B's own default."""

    mode: str | None = setting(None, among=("online", "offline", "disabled"))
    project: str | None = "pruning"
    entity: str | None = None
    group: str | None = None
    tags: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Env(Settings):
    """Where runs and datasets are, and what of this machine a step may use."""

    runs: Path = Path("runs")
    data: Path = Path("data")
    device: str = "auto"
    threads: int | None = setting(None, least=1, most=4096)
    imports: tuple[str, ...] = ()  # modules to import first: they may add criteria, scopes, stages, ...
    snapshots: tuple[int, ...] = setting((), least=1)  # epochs after which a dense network's run keeps it
    resident_gb: float | None = setting(None, least=0)  # of images, that may lie on the device whole
    deterministic: bool = True  # on a GPU: only algorithms that give the same bits each time
    cuda_graph: bool | None = None  # replay a recorded step; None: where the training is long enough
    logits: bool = True  # keep what each network says to each test image
    wandb: WandbSettings = WandbSettings()

    @classmethod
    def from_config(cls, node: Any) -> Self:
        """Read the node `env` of a config, and import the modules that it names; UserError if anything is wrong."""
        env = cls.read(node, "env")
        for name in env.imports:
            try:
                importlib.import_module(name)
            except ImportError as error:
                text = f"env.imports: {name} cannot be imported ({error}); is its directory on PYTHONPATH?"
                raise UserError(text, "env.imports") from error
        return env

    def to_json(self) -> dict[str, Any]:
        """Return what `from_config` makes an equal Env of in any directory."""
        plain = asdict(self) | {"runs": str(self.runs.resolve()), "data": str(self.data.resolve())}
        plain["wandb"].pop("options")
        return {key: value for key, value in plain.items() if key != "options"}

    def torch_device(self) -> "torch.device":
        """Return the device: `auto` is the first GPU where there is one."""
        import torch

        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if self.device == "mps":
            if not torch.backends.mps.is_available():
                raise UserError("env.device=mps: this machine has no Apple GPU that torch can use; try env.device=auto")
            return torch.device("mps")
        kind, _, index = self.device.partition(":")
        if kind not in ("cpu", "cuda") or (index and not index.isdigit()):
            raise UserError(f"env.device must be auto, cpu, cuda, cuda:N or mps, got {self.device!r}")
        if (count := torch.cuda.device_count()) <= int(index or 0) and kind == "cuda":
            raise UserError(f"env.device={self.device}: this machine has {count} CUDA devices; try env.device=auto")
        return torch.device(self.device)

    def precision(self, wanted: str) -> str:
        """Resolve "auto" to "bf16" where the device computes in it, else "fp32"."""
        return resolve_precision(wanted, self.torch_device())

    def prepare(self) -> None:
        """Set up this process for training: the number of threads, and an allocator that keeps large buffers.

        glibc maps and unmaps every buffer over 32 MB on each use, which costs page faults: measured 1.1 times in
        VGG-16 training and 1.95 times in its evaluation at batch 250.
        """
        import torch

        if self.threads:
            torch.set_num_threads(self.threads)
        if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
            libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
            libc.mallopt(M_TRIM_THRESHOLD, -1)
        self.choose_algorithms()

    def choose_algorithms(self) -> None:
        """Have cuDNN and cuBLAS add in the same order each time, or else take what is fastest this time."""
        import torch

        torch.backends.cudnn.deterministic = self.deterministic
        torch.backends.cudnn.benchmark = not self.deterministic
        if self.deterministic:  # read when the first matrix product is made
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@cache  # once per sweep, not once per step: it reads /proc/cpuinfo
def resolve_precision(wanted: str, device: "torch.device") -> str:
    """Resolve "auto" to "bf16" where `device` computes in it, else "fp32"."""
    import torch

    check_choice("precision", wanted, PRECISIONS)
    able = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    if wanted == "tf32" and not able:
        raise UserError(f"precision=tf32 needs a GPU that has it; on {device.type} try precision=fp32", "precision")
    if wanted != "auto":
        return wanted
    if device.type == "mps":
        return "fp32"
    if device.type == "cuda":
        return "bf16" if able else "fp32"
    return "bf16" if {"avx512_bf16", "amx_bf16", "bf16"} & cpu_flags() else "fp32"


def device_name(device: "torch.device") -> str:
    """Return the model of the GPU or the processor."""
    if device.type == "cuda":
        import torch

        return torch.cuda.get_device_name(device)
    return next((text for key, text in cpu_lines() if key == "model name"), platform.processor() or platform.machine())


def cpu_flags() -> set[str]:
    """Return what the processor can do, in Linux's words; empty elsewhere."""
    return set(next((text.split() for key, text in cpu_lines() if key in ("flags", "Features")), []))


def cpu_lines() -> list[tuple[str, str]]:
    """Return the (key, value) lines of /proc/cpuinfo."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return []
    return [(k.strip(), v.strip()) for k, _, v in (line.partition(":") for line in text.splitlines())]
