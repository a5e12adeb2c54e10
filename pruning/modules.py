"""What torch's modules hold, each tensor once: a weight that two layers share has the name of the first."""

from collections.abc import Mapping

from torch import Tensor, nn


def states(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers as `state_dict` does, themselves, under one name each."""
    seen: dict[int, str] = {}
    found = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor) and seen.setdefault(id(tensor), name) == name:
            found[name] = tensor
    return found


def load_states(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Copy `values`, named as by `states`, into the model; RuntimeError if one is missing, unknown or does not fit."""
    first: dict[int, str] = {}
    own = model.state_dict(keep_vars=True)
    others = {name: first[id(tensor)] for name, tensor in own.items() if first.setdefault(id(tensor), name) != name}
    model.load_state_dict({**values, **{name: values[as_] for name, as_ in others.items() if as_ in values}})
