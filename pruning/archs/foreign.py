"""Networks from elsewhere: what a function or class makes that `arch._target_` names.

It is called with `num_classes` and the other settings of `arch`, and must return a module that maps images
N x 3 x H x W to logits N x num_classes. Its initialisation is its own, drawn from the seed's stream.
"""

import inspect
import json
import re
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from pruning.archs.importing import function_of, import_of, one_line, place_for, source
from pruning.code import foreign_code, installed
from pruning.errors import UserError
from pruning.settings import value_of

BUILD = "pruning.archs.build"  # the function that makes ours
OWN = ("name", "_target_", "file", "reset_head")  # settings of arch that are no arguments
NAME = re.compile(r"[A-Za-z0-9_][\w.+-]{0,59}", re.ASCII)  # part of the names of directories
TARGET = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """A network by the function that makes it; printed, it is its name."""

    name: str
    target: str  # package.module.function
    arguments: str = "{}"  # JSON, so that it can be hashed
    reset_head: bool = False  # its last layer is replaced by a new one for the classes
    place: str | None = None  # of the module: a file, or a directory to search; None: it is installed
    sources: tuple[str, ...] = ()  # hashes that its source must have; (): any

    def __str__(self) -> str:
        return self.name

    @classmethod
    def read(cls, node: Mapping[str, Any], taken: Container[str]) -> Self:
        """Read the group `arch` of a config; UserError if it names nothing that can be imported.

        Without a name, or with one of those that are `taken`, it is called as its function is.
        """
        target = value_of("arch._target_", node.get("_target_"), str)
        place = None if node.get("file") is None else str(source(node["file"]))
        if place and (stem := re.sub(r"\W", "_", Path(place).stem)) != target.partition(".")[0]:
            target = f"{stem}.{target}"
        if not TARGET.fullmatch(target) or "." not in target:
            text = "or a function of arch.file=PATH.py"
            raise UserError(f"arch._target_ must be like package.module.function, {text}, got {target!r}")
        name = node.get("name")
        if name is None or (name in taken and target != BUILD):
            name = target.rpartition(".")[2]
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise UserError(f"arch.name must be a word of letters, digits and ._+-, got {name!r}")
        arguments = {"name": name} if target == BUILD else {k: v for k, v in node.items() if k not in OWN}
        for key, value in arguments.items():
            if isinstance(value, Mapping) and "_target_" in value:
                text = "objects within arguments are not made here: write a function that makes them"
                raise UserError(f"arch.{key}: {text}, and name that as arch._target_")
        reset = value_of("arch.reset_head", node.get("reset_head", False), bool)
        found = cls(name=name, target=target, arguments=json.dumps(arguments, sort_keys=True), reset_head=reset)
        found = replace(found, place=place or (None if target == BUILD else place_for(target)))
        return replace(found, sources=_hashes(found.code))

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any], place: str | None) -> Self:
        """Return the network that `spec` was taken of; UserError if it is none."""
        name, target = value_of("arch", spec["name"], str), value_of("target", spec["target"], str)
        arguments = value_of("arguments", spec.get("arguments", {}), Mapping[str, Any])
        reset = value_of("reset_head", spec.get("reset_head", False), bool)
        if not NAME.fullmatch(name) or not TARGET.fullmatch(target):
            raise UserError(f"{target!a} is no function")
        text = json.dumps(arguments, sort_keys=True)
        return cls(name=name, target=target, arguments=text, reset_head=reset, place=place)

    @classmethod
    def from_file(cls, about: Mapping[str, Any]) -> Self:
        """Return the network that a checkpoint's `about` describes; it is only used while its source is the same."""
        code = value_of("code", about["code"], Mapping[str, Any])
        place = about.get("place") and value_of("place", about["place"], str)
        return replace(cls.from_spec(about, place), sources=_hashes(code))

    @property
    def about(self) -> dict[str, Any]:
        """What a file says of it, so that it can be loaded by itself."""
        return self.spec | {"place": self.place, "code": self.code}

    @property
    def spec(self) -> dict[str, Any]:
        """What an id holds of it, beside `code`."""
        whole = {"arguments": json.loads(self.arguments), "reset_head": self.reset_head}
        return {"name": self.name, "target": self.target} | {key: value for key, value in whole.items() if value}

    @property
    def code(self) -> dict[str, str]:
        """Which code it is: module -> version of an installed distribution, or hash of its source."""
        module = import_of(self.target, self.place).__name__
        return foreign_code([self.function()], [] if installed(module) else [module])

    def function(self) -> Callable[..., Any]:
        """Return what makes the network; UserError if it cannot be found."""
        return function_of(self.target, self.place)

    def build(self, num_classes: int, seed: int = 0) -> nn.Module:
        """Return the network; `seed` decides its weights, and nothing else of torch's random state is touched.

        UserError if its function takes no `num_classes`, raises, or returns no network.
        """
        function, arguments = self.function(), self._arguments(num_classes)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            try:
                model = function(**arguments)
            except Exception as error:  # whatever it raises
                given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
                why = f"{type(error).__name__}: {one_line(error)}"
                raise UserError(f"arch._target_={self.target} cannot be built with {given}: {why}") from error
            if not isinstance(model, nn.Module):
                raise UserError(f"arch._target_={self.target} returns a {type(model).__name__}, no torch.nn.Module")
            if any(is_lazy(tensor) for tensor in model.parameters()):
                raise UserError(f"arch._target_={self.target} has lazy layers; give their sizes")
            return _with_head(model, num_classes) if self.reset_head else model

    def check_source(self) -> None:
        """Raise UserError, to follow a file's name, if its source is not what it was."""
        if self.sources and _hashes(self.code) != self.sources:
            text = f"the source of {self.target} has changed since"
            raise UserError(f"was made with another {self.name}: {text}; give the network to use as it is now")

    def _arguments(self, num_classes: int) -> dict[str, Any]:
        """Return what the function is called with; UserError if it takes no classes or is another than it was."""
        self.check_source()
        function, arguments = self.function(), json.loads(self.arguments)
        if "num_classes" not in arguments and not (self.reset_head and not _needs_classes(function)):
            if not _takes_classes(function):
                text = "has no parameter num_classes; write a function that has one, or give arch.reset_head=true"
                raise UserError(f"arch._target_={self.target} {text}")
            arguments["num_classes"] = num_classes
        return arguments


def _hashes(code: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(sorted(value for value in code.values() if str(value).startswith("sha256:")))


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):  # of a builtin: it is asked
        return {"any": inspect.Parameter("any", inspect.Parameter.VAR_KEYWORD)}


def _takes_classes(function: Callable[..., Any]) -> bool:
    found = _parameters(function)
    return "num_classes" in found or any(p.kind is p.VAR_KEYWORD for p in found.values())


def _needs_classes(function: Callable[..., Any]) -> bool:
    one = _parameters(function).get("num_classes")
    return one is not None and one.default is one.empty


def head_of(model: nn.Module) -> tuple[str, nn.Linear | nn.Conv2d]:
    """Return the name of the last fully connected layer or convolution, and the layer; UserError if there is none."""
    layers = [(name, m) for name, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    if not layers:
        raise UserError("arch.reset_head: the network has no linear layer or convolution to replace")
    return layers[-1]


def _with_head(model: nn.Module, num_classes: int) -> nn.Module:
    """Return the model with a new last layer for that many classes; a convolution there is 1x1."""
    name, last = head_of(model)
    bias = last.bias is not None
    if isinstance(last, nn.Linear):
        head: nn.Module = nn.Linear(last.in_features, num_classes, bias)
    else:
        head = nn.Conv2d(last.in_channels, num_classes, 1, bias=bias)
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, head)
    return model
