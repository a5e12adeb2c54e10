import copy
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from pruning.data import Data
from pruning.training import OPTIMIZERS, TrainRecipe, fit
from pruning.training.optimizers import optimizer_for, step_of

COMMON: dict[str, Any] = {"lr": 0.01, "weight_decay": 1e-4}
SETTINGS: dict[str, Any] = {"momentum": 0.9, "nesterov": True, "betas": (0.8, 0.99)}
TORCH: dict[str, Any] = {"sgd": SGD, "adam": Adam, "adamw": AdamW}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_is_the_one_of_torch_with_the_settings_of_the_recipe(name: str) -> None:
    arguments = TrainRecipe(epochs=1, batch_size=1, optimizer=name, **COMMON, **SETTINGS).arguments("optimizer")
    own = ("momentum", "nesterov") if name == "sgd" else ("betas",)
    assert arguments == COMMON | {key: SETTINGS[key] for key in own}
    ours = nn.Linear(3, 2)
    theirs = copy.deepcopy(ours)
    found, kind = optimizer_for(name, ours, arguments), TORCH[name]
    expected = kind(theirs.parameters(), foreach=True, **arguments)
    assert (type(found), found.defaults) == (kind, expected.defaults)
    for network, step in ((ours, step_of(found)), (theirs, expected.step)):
        for _ in range(3):
            network.zero_grad()
            network(torch.ones(4, 3)).square().sum().backward()
            step()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_a_new_optimizer_is_one_function_with_settings_of_its_own(tiny: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []

    def slow_sgd(parameters: Any, *, lr: float, factor: float = 0.5) -> Optimizer:
        seen.append({"lr": lr, "factor": factor})
        return SGD(parameters, lr=lr * factor)

    monkeypatch.setitem(OPTIMIZERS, "slow_sgd", slow_sgd)
    node = {"epochs": 1, "batch_size": 45, "lr": 0.1, "optimizer": "slow_sgd", "factor": 0.25}
    recipe = TrainRecipe.read(node, "train")
    assert recipe.non_defaults() == node
    fit(nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), tiny, recipe)
    assert seen == [{"lr": 0.1, "factor": 0.25}]


def test_training_does_not_import_the_compiler() -> None:
    """Its import takes longer than some steps."""
    code = """
import sys, torch
from pruning.training.optimizers import optimizer_for, step_of
model = torch.nn.Linear(3, 2)
optimizer = optimizer_for("sgd", model, dict(lr=0.1, weight_decay=0.0, momentum=0.9, nesterov=False))
model(torch.ones(1, 3)).sum().backward()
step_of(optimizer)()
optimizer.zero_grad(set_to_none=True)
optimizer.load_state_dict(optimizer.state_dict())
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
