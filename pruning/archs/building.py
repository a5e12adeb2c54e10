"""One way to every network, ours or another's: built, initialised, and told apart."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from pruning.archs.foreign import BUILD, OWN, Foreign
from pruning.archs.ours import ARCHS, initialise
from pruning.code import foreign_code
from pruning.errors import UserError, check_choice

Arch = str | Foreign
"""One of ARCHS by its name, or a network from elsewhere."""


def build(name: Arch, num_classes: int) -> nn.Module:
    """Return the network, on the default device, in training mode; it maps N x 3 x H x W to N x num_classes.

    Its weights are those of its constructors: follow with `initialise`, or load a checkpoint.
    """
    if type(num_classes) is not int or num_classes < 2:
        raise UserError(f"num_classes must be an integer of at least 2, got {num_classes!r}")
    if isinstance(name, Foreign):
        return name.build(num_classes)
    check_choice("arch", name, ARCHS)
    return ARCHS[name](num_classes)


def fresh(arch: Arch, num_classes: int, generator: torch.Generator) -> nn.Module:
    """Return the network as only `generator` (a CPU one) decides: ours by `initialise`, others by their own rules."""
    if isinstance(arch, Foreign) and arch.target != BUILD:
        return arch.build(num_classes, generator.initial_seed())
    model = build(arch, num_classes)
    initialise(model, generator)
    return model


@lru_cache
def skeleton(arch: Arch, num_classes: int) -> nn.Module:
    """Return the network for the names and shapes of its layers, ours without the values of its weights."""
    if isinstance(arch, Foreign):
        return _kept(arch, num_classes)
    with torch.device("meta"):  # what a file asks for must not fill the memory
        return build(arch, num_classes)


@lru_cache(maxsize=4)
def _kept(arch: Foreign, num_classes: int) -> nn.Module:
    """Build another's network with its values: not every constructor can run without, nor would shared weights stay."""
    return build(arch, num_classes)


def read(node: Any) -> Arch:
    """Return the network that the group `arch` of a config means; UserError if there is none such.

    `name` chooses one of ARCHS. `_target_` names another function or class, `file` the file it is in where it cannot be
    imported, `reset_head` that its last layer is new; all else are its arguments.
    """
    if not isinstance(node, Mapping) or not {"name", "_target_"} & node.keys():
        raise UserError(f"arch must be a group of settings with a name, got {node!r}; give arch=NAME")
    target, name = node.get("_target_", BUILD), node.get("name")
    if target == BUILD and node.get("file") is not None:
        raise UserError(
            f"arch.file={node['file']}: give arch._target_=NAME too, the function or class in it", "arch.file"
        )
    if target == BUILD:
        for key in node:
            check_choice("a setting of arch", key, OWN)
        known = check_choice("arch", name, ARCHS)
        if not node.get("reset_head"):
            return known
        return Foreign.read({"_target_": BUILD, "name": name, "reset_head": node["reset_head"]}, ARCHS)
    return Foreign.read(node, ARCHS)


def spec_of(arch: Arch) -> dict[str, Any]:
    """Return what an id holds of the network: a name, of another's function and arguments too."""
    return arch.spec if isinstance(arch, Foreign) else {"name": arch}


def place_of(arch: Arch) -> str | None:
    """Return where the module of a network from elsewhere is, if it cannot be imported as it is."""
    return arch.place if isinstance(arch, Foreign) else None


def from_spec(spec: Mapping[str, Any], place: str | None = None) -> Arch:
    """Return the network that `spec_of` and `place_of` were taken of."""
    return Foreign.from_spec(spec, place) if "target" in spec else spec["name"]


def code_of(arch: Arch) -> dict[str, str]:
    """Return which code from outside this package the network is: module -> version or hash of its source."""
    return arch.code if isinstance(arch, Foreign) else foreign_code([ARCHS[arch]])
