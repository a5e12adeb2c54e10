"""How long until something is to be seen? Prints times and their ratio to `import torch`, in turns, in one run.

    python -m benchmarks.startup [--rounds 3] [--cells 2000]

Each is a process of its own: the help; a finished command, given again; the plan of a sweep of many cells; the
status of so many runs, which are made of one for this. `import torch` is what no command that computes can do without.
Machines are shared and noisy: an absolute time means nothing, the ratio does.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.turns import about, in_turns, table
from pruning.program import MAIN
from pruning.runs import Run, Step

SHORT = ("stage=train", "train.epochs=1", "train.batch_size=500")


def main_py(*words: str) -> None:
    """Give a command, and wait for it."""
    subprocess.run([sys.executable, str(MAIN), *words], check=True, stdout=subprocess.DEVNULL)


def copies(run: Run, count: int, runs: Path) -> None:
    """Make so many finished runs of one, that differ in their seed."""
    step, config, result = run.step(), run.config(), run.result()
    assert step
    assert config
    assert result
    for seed in range(count):
        other = Step.from_json(step.to_json() | {"seed": seed})
        folder = runs / other.name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(config | {"id": other.id, "spec": other.spec}))
        os.link(run.model, folder / run.model.name)
        (folder / "result.json").write_text(json.dumps({**result, "id": other.id, "seed": seed}))


def main() -> None:
    """Measure all in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("rounds", 3), ("cells", 2000)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        runs, many, data = (f"env.runs={home / 'runs'}", f"env.runs={home / 'many'}", f"env.data={home / 'data'}")
        main_py(*SHORT, runs, data)
        (run,) = (home / "runs").glob("train-*")
        copies(Run(run), options.cells, home / "many")
        grid = (f"seed=range({options.cells // 50})", f"prune.percent={','.join(str(n / 100) for n in range(10, 60))}")
        ways: dict[str, Callable[[], object]] = {
            "import torch": partial(subprocess.run, [sys.executable, "-c", "import torch"], check=True),
            "--help": partial(main_py, "--help"),
            "a finished command": partial(main_py, *SHORT, runs, data),
            f"plan of {options.cells} cells": partial(main_py, "-m", "hydra/launcher=plan", *grid, runs, data),
            f"status of {options.cells} runs": partial(main_py, "stage=status", many),
        }
        print(f"{about()}\n\n{table(in_turns(ways, options.rounds), unit='s', scale=1.0)}")


if __name__ == "__main__":
    main()
