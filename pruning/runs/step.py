"""A step: one stage with one recipe and one parent. Its id is a hash of exactly what decides its result."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, get_type_hints

from pruning.errors import UserError
from pruning.settings import value_of

if TYPE_CHECKING:
    from pruning import archs

VERSION = 2  # of what a spec means: raise it when the same spec would give another result

Ref = str
"""A checkpoint: the id of a step (`r3c763539b80e`; `r3c763539b80e@4`: after its epoch 4), or `sha256:...` of a file."""


def is_file(ref: Ref) -> bool:
    """Whether it is a file from elsewhere, not the checkpoint of a run."""
    return ref.startswith("sha256:")


def run_of(ref: Ref) -> Ref:
    """Return the id of the step that made it; that of a file is itself."""
    return ref.partition("@")[0]


@cache  # 150 microseconds, for each of thousands of files
def kinds_of(record: type) -> dict[str, Any]:
    """Return the type of each field."""
    return get_type_hints(record)


def snapshot_name(epoch: int | str) -> str:
    """Return the name of the file of a network as it was after an epoch."""
    return f"epoch-{epoch}.safetensors"


def unhashed(**default: Any) -> Any:
    """A field for names and places; it never decides a result."""
    return field(metadata={"unhashed": True}, **default)


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a process needs to know to make a step; JSON and back gives an equal one."""

    version: int = VERSION
    stage: str
    recipe: Mapping[str, Any]  # only what decides something and differs from neutral
    dataset: Mapping[str, Any]
    arch: Mapping[str, Any]
    seed: int
    precision: str
    parent: Ref | None  # where its weights and mask start; what it waits for
    inputs: Mapping[str, Ref] = field(default_factory=dict)  # other checkpoints that it reads, by role
    code: Mapping[str, str] = field(default_factory=dict)  # of functions from outside this package: where, which
    num_classes: int = unhashed()
    sparsity: float | None = unhashed(default=None)  # asked for so far along the chain; None: dense
    method: str = unhashed(default="")  # what tells the last pruning from the usual one, like `random-layer`
    level: int = unhashed(default=0)  # number of prunings so far
    length: int | None = unhashed(default=None)  # epochs that it trains, at most; None: what its recipe says
    snapshots: tuple[int, ...] = unhashed(default=())  # epochs after which its network is kept, for who starts from it
    root: str | None = unhashed(default=None)  # where its images are: a directory, or a file of arrays
    arch_place: str | None = unhashed(default=None)  # of a network from elsewhere: its file, or a directory to search
    places: Mapping[Ref, str] = unhashed(default_factory=dict)  # of parent and inputs: a directory in runs, or a file

    @cached_property
    def spec(self) -> dict[str, Any]:
        """What is hashed. Without inputs or foreign code there are no entries for them, so they changed no older id."""
        hashed = {f.name: getattr(self, f.name) for f in fields(self) if "unhashed" not in f.metadata}
        return {key: value for key, value in hashed.items() if key not in ("inputs", "code") or value}

    @cached_property
    def id(self) -> Ref:
        """`r` and 12 hex digits: a bare hex id can parse as a number, like 1e5."""
        text = json.dumps(self.spec, sort_keys=True, separators=(",", ":"))
        return "r" + hashlib.sha256(text.encode()).hexdigest()[:12]

    @cached_property
    def name(self) -> str:
        """The name of the directory: readable, then the id."""
        pruned = [] if self.sparsity is None else [f"p{self.sparsity:g}"]
        pruned += [self.method] if self.method else []
        return "-".join([self.stage, self.dataset["name"], self.arch["name"], *pruned, f"s{self.seed}", self.id])

    @property
    def network(self) -> "archs.Arch":
        """The network as it can be built: what is hashed of it, and where it is found."""
        from pruning import archs

        return archs.from_spec(self.arch, self.arch_place)

    @property
    def epochs(self) -> int:
        """How many it trains; where that comes out on the way, at most."""
        return self.recipe.get("epochs", 0) if self.length is None else self.length

    @property
    def may_end_sooner(self) -> bool:
        """Whether `epochs` is a limit, and the masked network says how many there are."""
        return self.epochs > self.recipe.get("epochs", 0)

    @property
    def purpose(self) -> str:
        """The name of its random streams: another one for each stage and sparsity on the way."""
        return self.stage if self.sparsity is None else f"{self.stage} at {self.sparsity}"

    @property
    def references(self) -> list[Ref]:
        """All checkpoints that it reads."""
        return [*([] if self.parent is None else [self.parent]), *self.inputs.values()]

    def place(self, ref: Ref, runs: Path) -> Path:
        """Return the file of the checkpoint that the step reads as `ref`."""
        place = runs / self.places[ref]  # an absolute path stays what it is
        if is_file(ref):
            return place
        _, _, epoch = ref.partition("@")
        return place / (snapshot_name(epoch) if epoch else "model.safetensors")

    def at(self, epoch: int) -> Ref:
        """Return the reference of its network as it was after `epoch` epochs, which its run keeps if it knows."""
        return f"{self.id}@{epoch}"

    def keeping(self, epochs: Iterable[int]) -> Self:
        """Return the same step, whose run keeps the network after these epochs too."""
        kept = {*self.snapshots, *epochs} & {*range(1, self.epochs + 1)}
        return replace(self, snapshots=tuple(sorted(kept)))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        """Make a step from `to_json`, also from that of 0.1 and 0.2; UserError if it is none."""
        plain = {"version": 1} | dict(plain)  # which 0.2 did not write down here
        if (aside := plain.pop("aside", None)) is not None:
            plain |= since_0_1(plain, aside)
        kinds = kinds_of(Step)
        try:
            step = cls(**{key: value_of(key, value, kinds[key]) for key, value in plain.items()})
            value_of("names", [step.dataset["name"], step.arch["name"]], tuple[str, ...])
            value_of("epochs", step.epochs, int)
            value_of("places", [step.places[ref] for ref in step.references], tuple[str, ...])
        except (KeyError, TypeError, UserError) as error:
            raise UserError(f"this is not a step: {error}") from None
        return step


def since_0_1(plain: Mapping[str, Any], aside: Any) -> dict[str, Any]:
    """Return the fields that 0.1 kept in a dict `aside`."""
    aside = value_of("aside", aside, Mapping[str, Any])
    place = aside.get("file") or aside.get("parent")
    return {
        "num_classes": aside.get("num_classes", 0),
        "sparsity": aside.get("percent"),
        "level": int("percent" in aside),  # 0.1 knew one pruning only
        "root": aside.get("root"),
        "places": {plain["parent"]: place} if place else {},
    }
