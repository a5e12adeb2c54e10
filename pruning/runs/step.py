"""A step: one stage with one recipe and one parent. Its id is a hash of exactly what decides its result."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Self

VERSION = 1  # of what a spec means: raise it when the same spec would give another result

Ref = str
"""A checkpoint: the id of a step (`r3c763539b80e`), or `sha256:...` of a file."""


def is_file(ref: Ref) -> bool:
    """Whether it is a file from elsewhere, not the checkpoint of a run."""
    return ref.startswith("sha256:")


def unhashed(**default: Any) -> Any:
    """A field for names and places; it never decides a result."""
    return field(metadata={"unhashed": True}, **default)


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a process needs to know to make a step; JSON and back gives an equal one."""

    stage: str
    recipe: Mapping[str, Any]  # only what decides something and differs from neutral
    dataset: Mapping[str, Any]
    arch: Mapping[str, Any]
    seed: int
    precision: str
    parent: Ref | None  # where its weights and mask start; what it waits for
    inputs: Mapping[str, Ref] = field(default_factory=dict)  # other checkpoints that it reads, by role
    num_classes: int = unhashed()
    sparsity: float | None = unhashed(default=None)  # asked for so far along the chain; None: dense
    level: int = unhashed(default=0)  # number of prunings so far
    root: str | None = unhashed(default=None)  # the directory of an image_folder
    places: Mapping[Ref, str] = unhashed(default_factory=dict)  # of parent and inputs: a directory in runs, or a file

    @cached_property
    def spec(self) -> dict[str, Any]:
        """What is hashed. Without inputs there is no entry for them, so they changed no id that was there before."""
        hashed = {f.name: getattr(self, f.name) for f in fields(self) if "unhashed" not in f.metadata}
        return {"version": VERSION} | {k: v for k, v in hashed.items() if k != "inputs" or v}

    @cached_property
    def id(self) -> Ref:
        """`r` and 12 hex digits: a bare hex id can parse as a number, like 1e5."""
        text = json.dumps(self.spec, sort_keys=True, separators=(",", ":"))
        return "r" + hashlib.sha256(text.encode()).hexdigest()[:12]

    @cached_property
    def name(self) -> str:
        """The name of the directory: readable, then the id."""
        sparsity = [] if self.sparsity is None else [f"p{self.sparsity:g}"]
        return "-".join([self.stage, self.dataset["name"], self.arch["name"], *sparsity, f"s{self.seed}", self.id])

    @property
    def epochs(self) -> int:
        return self.recipe.get("epochs", 0)

    def place(self, ref: Ref, runs: Path) -> Path:
        """Return the file of the checkpoint that the step reads as `ref`."""
        place = runs / self.places[ref]  # an absolute path stays what it is
        return place if is_file(ref) else place / "model.safetensors"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        """Make a step from `to_json`, also from that of 0.1, where what is not hashed was a dict `aside`."""
        plain = {key: value for key, value in plain.items() if key != "version"}
        if (aside := plain.pop("aside", None)) is not None:
            place = aside.get("file") or aside.get("parent")
            plain |= {
                "num_classes": aside.get("num_classes", 0),
                "sparsity": aside.get("percent"),
                "level": int("percent" in aside),  # 0.1 knew one pruning only
                "root": aside.get("root"),
                "places": {plain["parent"]: place} if place else {},
            }
        return cls(**plain)
