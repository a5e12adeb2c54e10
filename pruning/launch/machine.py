"""How the GPUs and the cores of a machine are divided among the workers of a sweep."""

import os
from pathlib import Path

from pruning.env import Env
from pruning.launch.scheduler import Resources


def divide(env: Env, per_device: int = 1, workers: int | None = None) -> list[Resources]:
    """Divide this machine: `per_device` workers per GPU; or `workers` on the cores, by default one per `env.threads`.

    Each has cores of its own. On two cores two pinned workers with one thread each do 1.2 times the work of one with
    two threads, unpinned ones with two threads each 0.45 times; five workers on a GPU with all 16 cores each kept nine
    busy with waiting.
    """
    import torch

    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    if env.device != "cpu" and torch.cuda.is_available():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        gpus = visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
        if ":" in env.device:
            gpus = [gpus[int(env.device.partition(":")[2])]]
        each = [gpu for gpu in gpus for _ in range(per_device)]
        return [Resources(gpu, some) for gpu, some in zip(each, shares(cores, len(each)), strict=True)]
    count = max(1, min(workers or len(cores) // (env.threads or 1), len(cores)))
    return [Resources(cores=some) for some in shares(cores, count)]


def shares(cores: list[int], count: int) -> list[tuple[int, ...]]:
    """Return as many equal parts of the cores; empty ones if there are fewer cores than parts."""
    size = len(cores) // count
    return [tuple(cores[i * size : (i + 1) * size]) for i in range(count)]


def hint(resources: list[Resources]) -> str:
    """Return what to say of GPUs that several workers share, if anything."""
    count = max((sum(one.gpu == each.gpu for each in resources) for one in resources if one.gpu is not None), default=1)
    pipe = Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps"))
    if count == 1 or (pipe / "control").exists():
        return ""
    text = f"{count} workers to a GPU, but its multi-process service does not run: they take turns, which gains nothing"
    return f"{text}; `nvidia-cuda-mps-control -d` starts it\n"
