"""The sweep as an object: all its steps once, what each waits for, and how far each is, read from the disk."""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from pruning import claims, hosts, tracking
from pruning.errors import UserError
from pruning.files import read_json, write_json
from pruning.plan import chain, graph
from pruning.runs import Env, Run, Step

FOLDER = ".sweeps"  # in env.runs: what was asked for, so that `stage=status` knows what is missing


@dataclass(frozen=True)
class Sweep:
    """`chains` holds the steps of each cell, parents first; the last step of a chain is what the cell wants."""

    chains: tuple[tuple[Step, ...], ...]
    env: Env
    name: str | None = None

    @classmethod
    def of(cls, cells: Sequence[Mapping[str, Any]], precision: Callable[[str, str], str]) -> "Sweep":
        """Make the sweep of these composed configs; UserError if anything is wrong anywhere.

        `precision(wanted, device)` resolves "auto" for the machine that the steps will run on.
        """
        for key, value in cells[0]["env"].items():
            if others := [cell["env"].get(key) for cell in cells if cell["env"].get(key) != value]:
                raise UserError(f"env.{key} must be the same in all cells of a sweep, got {value} and {others[0]}")
        env = Env.of(cells[0]["env"])
        progress = tracking.reporter().work
        resolve = cache(lambda wanted: precision(wanted, env.device))  # not once a step: it reads /proc/cpuinfo
        chains = [tuple(chain(cell, env, resolve, progress)) for cell in cells]
        sweep = cls(tuple(chains), env, (cells[0].get("sweep") or {}).get("name"))
        group = env.wandb.get("group") or sweep.title
        return replace(sweep, env=replace(env, wandb=env.wandb | {"group": group}))

    @cached_property
    def steps(self) -> list[Step]:
        """Every step once, parents before children."""
        return graph(self.chains)

    @cached_property
    def wanted(self) -> list[Step]:
        return graph([chain[-1:] for chain in self.chains])

    @cached_property
    def id(self) -> str:
        """The same cells give the same id, in whatever order they were asked for."""
        text = ",".join(sorted(step.id for step in self.wanted))
        return "s" + hashlib.sha256(text.encode()).hexdigest()[:8]

    @property
    def title(self) -> str:
        return f"{self.name}-{self.id}" if self.name else f"sweep-{self.id}"

    @cached_property
    def children(self) -> dict[str, list[Step]]:
        """The steps that start from each step, by its id."""
        found: dict[str, list[Step]] = {step.id: [] for step in self.steps}
        for step in self.steps:
            if step.parent in found:
                found[step.parent].append(step)
        return found

    @cached_property
    def tasks(self) -> list[tuple[Step, ...]]:
        """The steps in runs that one process makes one after the other: a shared step is a task of its own."""
        wanted = {step.id for step in self.wanted}
        tasks: list[list[Step]] = []
        open_at: dict[str, list[Step]] = {}  # the id of a task's last step, while that may be continued
        for step in self.steps:
            task = open_at.pop(step.parent or "", None)
            if task is None:
                tasks.append(task := [])
            task.append(step)
            if len(self.children[step.id]) == 1 and step.id not in wanted:
                open_at[step.id] = task
        return [tuple(task) for task in tasks]

    def record(self) -> Path:
        """Write down what is wanted and with which code; return the file."""
        path = self.env.runs / FOLDER / f"{self.title}.json"
        steps = [asdict(step) for step in self.steps]
        about = {"name": self.title, "when": time.time(), "code": hosts.code_version(), "env": self.env.plain()}
        write_json(path, about | {"steps": steps, "wanted": [step.id for step in self.wanted]})
        return path


def recorded(runs: Path) -> list[dict[str, Any]]:
    """Return the sweeps that were started on `runs`, the oldest first; their steps as `Step`."""
    found = [read_json(path) for path in (runs / FOLDER).glob("*.json")]
    for sweep in found:
        sweep["steps"] = [Step(**step) for step in sweep["steps"]]
    return sorted(found, key=lambda sweep: sweep["when"])


def jobs_of(runs: Path) -> dict[str, str]:
    """Return the job that was submitted last for each step, by its id."""
    try:
        lines = (runs / FOLDER / "jobs.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return {}
    return {id: entry["job"] for entry in map(json.loads, lines) for id in entry["steps"]}


@dataclass(frozen=True)
class State:
    """How far a step is; `kind` is done, running, failed, died, partly done, waiting or missing."""

    kind: str
    epoch: int = 0
    detail: str = ""

    def __str__(self) -> str:
        at = f" at epoch {self.epoch}" if self.epoch and self.kind != "done" else ""
        return self.kind + at + (f": {self.detail}" if self.detail else "")


def state_of(step: Step, runs: Path) -> State:
    """Read the state of a step from its directory, without regard to its parent."""
    run = Run.of(step, runs)
    if not run.path.is_dir():
        return State("missing")
    if (run.path / "result.json").exists():
        return State("done", step.epochs)
    epoch = len(run.rows())
    if claims.held(run.path):
        return State("running", epoch, claims.describe(run.path))
    if failure := run.failure():
        return State("failed", epoch, failure["error"])
    if claims.abandoned(run.path):
        return State("died", epoch, "its process ended without a word (killed, or out of memory)")
    return State("partly done" if run.resume.exists() else "missing", epoch)


def states(steps: Sequence[Step], runs: Path) -> dict[str, State]:
    """Return the state of each step by its id; what is missing and has a parent that is not done is waiting."""
    found: dict[str, State] = {}
    for step in steps:
        state = state_of(step, runs)
        parent = found.get(step.parent or "")
        if state.kind == "missing" and parent and parent.kind != "done":
            blocked = parent.kind in ("failed", "died") or parent.detail.startswith("not run")
            state = State("waiting", detail=f"not run, {step.parent} failed" if blocked else f"for {step.parent}")
        found[step.id] = state
    return found


def settings(steps: Sequence[Step]) -> dict[str, str]:
    """Return, by id, what tells each step from the others of its stage: `arch=vgg16 seed=1 prune.percent=0.3`."""
    flat = {step.id: flatten(step) for step in steps}
    of_stage = Counter(step.stage for step in steps)
    said = Counter((step.stage, key, value) for step in steps for key, value in flat[step.id].items())
    return {
        step.id: " ".join(
            f"{key}={value}"
            for key, value in flat[step.id].items()
            if of_stage[step.stage] == 1 or said[step.stage, key, value] < of_stage[step.stage]
        )
        for step in steps
    }


def flatten(step: Step) -> dict[str, str]:
    """Return the settings of a step under their names on the command line."""
    named = {"dataset": step.dataset["name"], "arch": step.arch["name"], "seed": str(step.seed)}
    if step.stage != "train":
        named["prune.percent"] = f"{step.percent:g}"
    told = {f"{step.stage}.{key}": json.dumps(value) for key, value in step.recipe.items() if key != "percent"}
    return named | told
