"""What torch's modules hold, each tensor once: a weight that two layers share has the name of the first."""

from collections.abc import Mapping

from torch import Tensor, nn


def states(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers as `state_dict` does, themselves, under one name each."""
    return {name: tensor for name, (first, tensor) in _named(model).items() if name == first}


def load_states(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Copy `values`, named as by `states`, into the model; RuntimeError if one is missing, unknown or does not fit."""
    shared = {name: values[first] for name, (first, _) in _named(model).items() if first in values}
    model.load_state_dict({**values, **shared})


def _named(model: nn.Module) -> dict[str, tuple[str, Tensor]]:
    """Return all tensors by each of their names, with the first of these."""
    whole = {name: value for name, value in model.state_dict(keep_vars=True).items() if isinstance(value, Tensor)}
    first: dict[int, str] = {}
    return {name: (first.setdefault(id(tensor), name), tensor) for name, tensor in whole.items()}
