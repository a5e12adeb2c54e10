"""Several ways to do the same, measured in turns, and what came out as a Markdown table of ratios."""

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch

from pruning.env import Env, device_name

Ways = Mapping[str, Callable[[], object]]


def about() -> str:
    """Return what the figures were measured on."""
    machine = f"{device_name(Env().torch_device())}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    return f"{machine}, load {os.getloadavg()[0]:.1f}"


def seconds(way: Callable[[], object]) -> float:
    """Return the time of one call, until the device is done."""
    began = time.perf_counter()
    way()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def in_turns(ways: Ways, rounds: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Return the seconds of each way in each round."""
    for way in [*ways.values()] * warm_up:
        seconds(way)
    times = [[seconds(way) for way in ways.values()] for _ in range(rounds)]
    return {name: [row[i] for row in times] for i, name in enumerate(ways)}


def table(times: Mapping[str, Sequence[float]], unit: str = "ms", scale: float = 1000.0) -> str:
    """Return a row for each way: the median, and how many times as fast as the first it is, by round."""
    first = next(iter(times.values()))
    lines = [f"| | {unit} | times as fast as {next(iter(times))} (lowest to highest) |", "|---|---|---|"]
    for name, each in times.items():
        ratios = sorted(a / b for a, b in zip(first, each, strict=True))
        spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        lines.append(f"| {name} | {scale * statistics.median(each):.1f} | {spread} |")
    return "\n".join(lines)
