"""How much faster is a sweep than its cells? Prints ratios of whole processes, in turns, in one run.

    python -m benchmarks.sweep [--rounds 1] [--seeds 2] [--epochs 2] [--tuned 1] [WORD ...]

Ways to make the same cells, of four sparsities and some seeds, on digits unless the WORDs say otherwise:

    one by one   each cell by a command of its own, in a directory of its own, one after the other
    all at once  the same commands, as many at a time as there are cores
    sweep        one command with -m

Then what sharing saves in epochs where each takes 160 + 40 of them, five sparsities and three seeds. Machines are
shared and noisy: an absolute time means nothing, the ratio does.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import product
from pathlib import Path

from benchmarks.turns import about, in_turns, table
from pruning.program import MAIN

SPARSITIES = ("0.3", "0.5", "0.7", "0.9")


def main_py(*words: str) -> str:
    """Give a command, and return what it prints."""
    return subprocess.run([sys.executable, str(MAIN), *words], check=True, stdout=subprocess.PIPE, text=True).stdout


@contextmanager
def fresh(data: Path) -> Iterator[Callable[[], list[str]]]:
    """Give the words for a new directory of runs, as often as they are asked for."""
    with tempfile.TemporaryDirectory() as home:
        yield lambda: [f"env.runs={tempfile.mkdtemp(dir=home)}", f"env.data={data}"]


def main() -> None:
    """Measure all in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("rounds", 1), ("seeds", 2), ("epochs", 2), ("tuned", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options, words = parser.parse_known_args()
    seeds = [str(seed) for seed in range(options.seeds)]
    common = [f"train.epochs={options.epochs}", f"finetune.epochs={options.tuned}", *words]
    cells = [[f"seed={seed}", f"prune.percent={percent}"] for seed, percent in product(seeds, SPARSITIES)]
    grid = [f"seed={','.join(seeds)}", f"prune.percent={','.join(SPARSITIES)}"]
    with tempfile.TemporaryDirectory() as data, fresh(Path(data)) as apart:

        def at_once(count: int) -> None:
            with ThreadPoolExecutor(count) as pool:
                list(pool.map(lambda cell: main_py(*common, *cell, *apart()), cells))

        ways: dict[str, Callable[[], object]] = {
            "one by one": lambda: at_once(1),
            "all at once": lambda: at_once(os.cpu_count() or 1),
            "sweep": lambda: main_py("-m", *common, *grid, *apart()),
        }
        print(f"{about()}\n\n{len(cells)} cells, {options.epochs} + {options.tuned} epochs\n")
        print(table(in_turns(ways, options.rounds, warm_up=0), unit="s", scale=1.0))
        usual = ["train.epochs=160", "finetune.epochs=40", "seed=0,1,2", "prune.percent=0.3,0.5,0.7,0.8,0.9"]
        plan = main_py("-m", "hydra/launcher=plan", *usual, *apart())
        print("\n" + next(line for line in plan.splitlines() if line.startswith("epochs: ")))


if __name__ == "__main__":
    main()
