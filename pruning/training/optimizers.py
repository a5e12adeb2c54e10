"""Torch's optimizers, without the seconds that their first use costs.

Every optimizer method is wrapped to keep torch.compile out, and the wrapper imports the whole compiler for that: five
seconds of processor time in each process, more than some steps take. Nothing is compiled here, so the methods are
called as they are.

A new optimizer is one function (parameters) -> Optimizer, entered in OPTIMIZERS; its keyword-only parameters are
settings of training.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

Parameters = Sequence[nn.Parameter]


def at_once(parameters: Parameters, **recorded: bool) -> dict[str, bool]:
    """Return the arguments for updates of all parameters together.

    On a GPU in kernels that read the rate there, with what else `recorded` says that a CUDA graph needs.
    """
    return {"fused": True, **recorded} if parameters and parameters[0].is_cuda else {"foreach": True}


def sgd(parameters: Parameters, *, lr: float, weight_decay: float, momentum: float, nesterov: bool) -> Optimizer:
    """Stochastic gradient descent with momentum; weight decay is added to the gradient."""
    how = at_once(parameters)
    return SGD(parameters, lr=lr, weight_decay=weight_decay, momentum=momentum, nesterov=nesterov, **how)


def adam(parameters: Parameters, *, lr: float, weight_decay: float, betas: tuple[float, ...]) -> Optimizer:
    """Adam (Kingma and Ba 2014, arXiv 1412.6980); weight decay is added to the gradient."""
    how = at_once(parameters, capturable=True)
    return Adam(parameters, lr=lr, weight_decay=weight_decay, betas=(betas[0], betas[1]), **how)


def adamw(parameters: Parameters, *, lr: float, weight_decay: float, betas: tuple[float, ...]) -> Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2017, arXiv 1711.05101)."""
    how = at_once(parameters, capturable=True)
    return AdamW(parameters, lr=lr, weight_decay=weight_decay, betas=(betas[0], betas[1]), **how)


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {"sgd": sgd, "adam": adam, "adamw": adamw}


def optimizer_for(name: str, model: nn.Module, settings: dict[str, Any]) -> Optimizer:
    """Return a fresh optimizer (so no momentum is carried into finetuning), with multi-tensor updates."""
    for method in (Optimizer.add_param_group, Optimizer.zero_grad, Optimizer.state_dict, Optimizer.load_state_dict):
        plain = inspect.unwrap(method)
        plain.__dynamo_disable = plain  # torch caches the wrapped method here
    return OPTIMIZERS[name](list(model.parameters()), **settings)


def reads_rate_from_device(optimizer: Optimizer) -> bool:
    """Return whether the rate may lie on the device, where a recorded step finds the present one."""
    return all(group.get("fused") or group.get("capturable") for group in optimizer.param_groups)


def set_momentum(group: dict[str, Any], momentum: float) -> None:
    """Set what decays the mean of the gradients, `momentum` or the first of `betas`; a group may have neither."""
    if "momentum" in group:
        group["momentum"] = momentum
    elif "betas" in group:
        group["betas"] = (momentum, *group["betas"][1:])


def forget(optimizer: Optimizer, model: nn.Module, mask: Mapping[str, Tensor]) -> None:
    """Zero what the optimizer has gathered of the weights that `mask` prunes: who returns starts anew."""
    for name, keep in mask.items():
        for gathered in optimizer.state[model.get_parameter(name)].values():
            if isinstance(gathered, Tensor) and gathered.shape == keep.shape:
                gathered.masked_fill_(~keep, 0)


def step_of(optimizer: Optimizer) -> Callable[[], None]:
    """Return the optimizer's step, as the class has it below its wrappers."""
    plain = inspect.unwrap(type(optimizer).step)

    @torch.no_grad()
    def step() -> None:
        plain(optimizer)

    return step
