"""The sweep as an object: all its steps once, what each waits for, and what tells them apart."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pruning.data import Progress
from pruning.env import Env
from pruning.errors import UserError
from pruning.pipeline.plan import chain, graph, missing
from pruning.runs import Step
from pruning.runs.chain import own_settings
from pruning.runs.records import record_sweep
from pruning.settings import value_of


@dataclass(frozen=True)
class Sweep:
    """`chains` holds the steps of each cell, parents first; the last step of a chain is what the cell wants."""

    chains: tuple[tuple[Step, ...], ...]
    env: Env
    name: str | None = None
    redo: str | None = None  # the stage whose finished steps are to be made anew

    @classmethod
    def from_cells(
        cls,
        cells: Sequence[Mapping[str, Any]],
        resolve: Callable[[str, Env], str] | None = None,
        progress: Progress | None = None,
    ) -> "Sweep":
        """Make the sweep of these composed configs; UserError if anything is wrong anywhere.

        `resolve(wanted, env)` makes a precision of "auto" for the machine that the steps will run on.
        """
        if not cells:
            raise UserError("the sweep has no cells: one of its keys has no value, such as a glob that matches nothing")
        env = Env.from_config(cells[0].get("env"))
        for cell in cells:
            Env.check_keys(cell.get("env"), "env")
        for key, value in cells[0]["env"].items():
            if others := [cell["env"].get(key) for cell in cells if cell["env"].get(key) != value]:
                raise UserError(f"env.{key} must be the same in all cells of a sweep, got {value} and {others[0]}")
        chains = [
            tuple(chain(cell, env, (lambda wanted: resolve(wanted, env)) if resolve else None, progress))
            for cell in cells
        ]
        redo = cells[0].get("redo")
        if others := [cell.get("redo") for cell in cells if cell.get("redo") != redo]:
            raise UserError(f"redo must be the same in all cells of a sweep, got {redo} and {others[0]}")
        named = cells[0].get("sweep")
        if named is not None and not isinstance(named, Mapping):
            raise UserError(f"sweep must be a group of settings with a name, got {named!r}; give +sweep=NAME")
        if (name := value_of("sweep.name", (named or {}).get("name"), str | None)) and ("/" in name or "\n" in name):
            raise UserError(f"sweep.name must be a word, got {name!r}")
        sweep = cls(tuple(chains), env, name, redo)
        return replace(sweep, env=replace(env, wandb=replace(env.wandb, group=env.wandb.group or sweep.title)))

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

    def missing(self) -> list[Step]:
        """Return the steps that have to be made now."""
        return missing(self.steps, self.wanted, self.env.runs)

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
        return record_sweep(self.env.runs, self.title, self.steps, self.wanted, self.env.to_json())


def differences(steps: Sequence[Step]) -> dict[str, str]:
    """Return, by id, what tells each step from the others of its stage: `arch=vgg16 seed=1 prune.percent=0.3`.

    A setting tells steps apart if they have different values of it, or if only some have one and all have its stage in
    their chain. Where a stage has one step, its own settings are returned.
    """
    flat = flatten(steps)
    of_stage: dict[str, list[Step]] = {}
    for step in steps:
        of_stage.setdefault(step.stage, []).append(step)
    found: dict[str, str] = {}
    for stage, group in of_stage.items():
        if len(group) == 1:
            telling = {key for key in flat[group[0].id] if key.startswith((f"{stage}.", "dataset.")) or "." not in key}
        else:
            values: dict[str, set[str | None]] = {key: set() for step in group for key in flat[step.id]}
            for step in group:
                own = flat[step.id]
                stages = {key.partition(".")[0] for key in own}
                for key, seen in values.items():
                    if key in own or "." not in key or key.partition(".")[0] in {*stages, "dataset"}:
                        seen.add(own.get(key))
            telling = {key for key, seen in values.items() if len(seen) > 1}
        for step in group:
            found[step.id] = " ".join(f"{key}={value}" for key, value in flat[step.id].items() if key in telling)
    return found


def flatten(steps: Sequence[Step]) -> dict[str, dict[str, str]]:
    """Return, by id, the settings of each step and of those it starts from, under their command line names.

    `steps` has parents before children. A setting that a chain holds twice, at two levels, is that of the last.
    """
    found: dict[str, dict[str, str]] = {}
    for step in steps:
        own = {key: plain(value) for key, value in own_settings(step).items()}
        found[step.id] = found.get(step.parent or "", {}) | own
    return found


def plain(value: Any) -> str:
    """Return a value as it would be given on the command line."""
    return value if isinstance(value, str) else json.dumps(value)
