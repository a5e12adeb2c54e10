"""Results to cells: what has the same settings but the seed, beside the dense networks that it came from."""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pruning.files import DamagedError
from pruning.runs import Result, Run, every
from pruning.runs.chain import chain_settings
from pruning.settings.settings import own_fields
from pruning.stages import STAGES
from pruning.summary.quality import Quality
from pruning.summary.statistics import paired
from pruning.training import TrainRecipe

PASSES = 3  # a backward pass takes two forward ones: gradients of the inputs, and of the weights
SAME = ("dataset", "arch", "seed", "stage", "level", "path")  # beside the method, or shown apart from it


@dataclass(frozen=True)
class Entry:
    """A result that is done. `settings` are those of its chain, with `stage`, `level` and, from 2 levels on, `path`."""

    run: Run
    result: Result
    settings: Mapping[str, Any]
    level: int
    dense: "Entry | None" = None  # the unpruned network that it came from, or one trained alike; None: not in env.runs
    epochs: int = 0  # of the whole chain, the dense network included
    training_macs: int = 0  # of the whole chain, for one training image: forward and backward, pruned weights cost none
    reads: Sequence[str] = ()  # the ids of its inputs: teachers, asked for each training image
    quality: Quality | None = None


@dataclass(frozen=True)
class Cell:
    """Results that differ in the seed only; at most one a seed. `method` names what tells its curve from others."""

    entries: tuple[Entry, ...]
    method: str

    @property
    def first(self) -> Entry:
        return self.entries[0]

    @property
    def percent(self) -> float:
        return self.first.result["percent"]

    @property
    def curve(self) -> tuple[str, str, str]:
        """Dataset, network, method."""
        return self.first.result["dataset"], self.first.result["arch"], self.method

    @cached_property
    def top1(self) -> dict[int, float]:
        """Percent, by seed."""
        return {entry.result["seed"]: entry.result["test_top1"] for entry in self.entries}

    @cached_property
    def before(self) -> dict[int, float]:
        """Top-1 right after pruning by seed, in percent."""
        return {e.result["seed"]: e.result["before"]["test_top1"] for e in self.entries if e.result["before"]}

    @cached_property
    def dense(self) -> dict[int, float]:
        """Top-1 of the dense network by seed, in percent."""
        return {entry.result["seed"]: entry.dense.result["test_top1"] for entry in self.entries if entry.dense}

    @property
    def changes(self) -> list[float]:
        """Points of top-1 against the same seed's dense network, by seed; negative is a loss."""
        return paired(self.top1, self.dense)


@dataclass
class Gathered:
    """The runs in a directory: those that are done by id, and sentences on those that cannot be counted."""

    entries: dict[str, Entry] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    begun: list[tuple[str, int]] = field(default_factory=list)  # parent and level of every run, done or not


def gather(runs: Path, reports: Collection[Path] = ()) -> Gathered:
    """Read every run in `runs` once; `reports` are no runs. What is damaged or foreign is among the problems."""
    found = Gathered()
    known = set()
    for run in every(runs):
        known.add(run.path)
        try:
            if (step := run.step()) is None:
                continue
            found.begun.append((step.parent or "", step.level))
            if (result := run.finished()) is None:
                continue
            settings = dict(result.get("settings") or chain_settings(step, runs))
        except DamagedError as error:
            found.problems.append(f"damaged, not counted: {error}")
            continue
        settings |= {"stage": step.stage, "level": step.level}
        found.entries[result["id"]] = Entry(run, result, settings, step.level, reads=tuple(step.inputs.values()))
    ours = {path.resolve() for path in reports}
    for path in sorted(runs.glob("[!.]*/")):
        if path not in known and path.resolve() not in ours:
            found.problems.append(f"not a run, not counted: {path}")
    for id in found.entries:
        _follow(id, found.entries)
    return found


def _follow(id: str, entries: dict[str, Entry]) -> None:
    """Give the entry its dense network, the epochs of its chain, and the sparsities on the way."""
    chain, at = [entries[id]], entries.get(entries[id].result["parent"] or "")
    while at and at not in chain:
        chain.append(at)
        at = entries.get(at.result["parent"] or "")
    dense = next(filter(_is_dense, chain), None)
    if dense is None and chain[-1].result["parent"] is None:  # from nothing; what resume= gave is another network
        dense = _trained_alike(entries[id], entries.values())
    settings = dict(entries[id].settings)
    if entries[id].level > 1:
        settings["path"] = ">".join(dict.fromkeys(f"{e.result['percent']:.6g}" for e in reversed(chain) if e.level))
    epochs = sum(entry.result["epochs"] for entry in chain)
    macs = sum(entry.result["epochs"] * _macs_of_an_epoch(entry, entries) for entry in chain)
    entries[id] = replace(entries[id], dense=dense, epochs=epochs, training_macs=macs, settings=settings)


def _is_dense(entry: Entry) -> bool:
    """Whether it is a dense network that was trained from nothing: an initialisation is none."""
    return entry.level == 0 and entry.result["parent"] is None and entry.result["epochs"] > 0


def _trained_alike(entry: Entry, among: Iterable[Entry]) -> Entry | None:
    """Return the dense network that was trained as the entry was, for one whose chain has none."""
    return next((other for other in among if _is_dense(other) and _training(other) == _training(entry)), None)


def _training(entry: Entry) -> dict[str, Any]:
    """Return what its last step trained on, and how, without the stage's name and what a dense training has not."""
    of_stage, kind = f"{entry.settings['stage']}.", STAGES[entry.settings["stage"]].recipe
    others = {kind.KEYS.get(f.name, f.name) for f in own_fields(kind)} | kind.offered().keys()
    others -= {f.name for f in own_fields(TrainRecipe)} | TrainRecipe.offered().keys()
    return {
        key.removeprefix(of_stage): value
        for key, value in entry.settings.items()
        if (key.startswith((of_stage, "dataset")) or key in ("arch", "seed"))
        and key.removeprefix(of_stage) not in others
    }


def _macs_of_an_epoch(entry: Entry, entries: Mapping[str, Entry]) -> int:
    """Return the multiply-adds for one training image: all passes of the network, and the forward one of each input.

    A network that was pruned while it was trained counts as if it had been dense all the time: at most so much.
    """
    read = sum(entries[id].result["macs_nonzero"] for id in entry.reads if id in entries)
    shrank = entry.level and entry.result["epochs"] and STAGES[entry.settings["stage"]].prunes
    return PASSES * entry.result["macs" if shrank else "macs_nonzero"] + read


def pruned(found: Gathered) -> list[Entry]:
    """Return the entries that were pruned, without those that a run, done or not, trains further at their level."""
    entries = found.entries
    on_the_way = {parent for parent, level in found.begun if parent in entries and entries[parent].level == level}
    return [entry for id, entry in entries.items() if entry.level and id not in on_the_way]


def filled(entry: Entry, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with neutral ones named too, of those stages that the chain has."""
    stages = {key.partition(".")[0] for key in entry.settings if "." in key}
    return {key: value for key, value in defaults.items() if key.partition(".")[0] in stages} | dict(entry.settings)


def cells(entries: Sequence[Entry], defaults: Mapping[str, Any], always: Sequence[str]) -> list[Cell]:
    """Group the entries, by dataset, network, method and sparsity; methods are named by what differs, and `always`."""
    groups: dict[str, list[tuple[Entry, dict[str, Any]]]] = {}
    for entry in entries:
        whole = filled(entry, defaults)
        groups.setdefault(plain([whole["dataset"], whole["arch"]]), []).append((entry, whole))
    found: list[Cell] = []
    for group in groups.values():
        telling = differing([whole for _, whole in group])
        found += _of_group(group, telling, always)
    return sorted(found, key=lambda cell: (cell.curve, cell.percent, plain(cell.first.settings.get("path", ""))))


def _of_group(group: list[tuple[Entry, dict[str, Any]]], telling: set[str], always: Sequence[str]) -> Iterator[Cell]:
    together: dict[str, list[Entry]] = {}
    methods = {}
    for entry, whole in group:
        identity = plain({key: value for key, value in whole.items() if key != "seed"})
        together.setdefault(identity, []).append(entry)
        named = [key for key in whole if key in always or (key in telling and key not in SAME)]
        named = [key for key in named if not key.endswith(".percent")]
        named += [key for key in ("stage", "level") if key in telling]
        methods[identity] = " ".join(f"{key}={plain(whole[key])}" for key in named)
    for identity, some in together.items():
        yield Cell(tuple(sorted(some, key=lambda entry: entry.result["seed"])), methods[identity])


def differing(settings: Sequence[Mapping[str, Any]]) -> set[str]:
    """Return the keys that have more than one value, or that some have and others of that stage have not."""
    values: dict[str, set[str]] = {}
    for whole in settings:
        for key, value in whole.items():
            values.setdefault(key, set()).add(plain(value))
    counts = {key: sum(key in whole for whole in settings) for key in values}
    return {key for key, seen in values.items() if len(seen) > 1 or (counts[key] < len(settings) and "." not in key)}


def plain(value: Any) -> str:
    """Return a value as on the command line; mappings in one order."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
