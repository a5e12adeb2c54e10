"""How important is a weight: a criterion gives each prunable weight a score, larger = keep.

A new criterion is one function Scoring -> Scores, entered in CRITERIA; its keyword-only parameters are settings of
`prune`, so `prune.criterion=NAME prune.SETTING=...` reach it.
"""

import torch

from pruning.masks.gradients import fisher, grasp, snip, taylor
from pruning.masks.scoring import Criterion, Scores, Scoring
from pruning.modules import states

__all__ = ["CRITERIA", "Criterion", "Scores", "Scoring"]


def magnitude(given: Scoring) -> Scores:
    """|w| (Han et al. 2015, arXiv 1506.02626)."""
    return {name: weight.abs() for name, weight in given.weights.items()}


def random(given: Scoring) -> Scores:
    """Uniform in [0, 1): the control that every criterion has to beat."""
    return {name: torch.rand(weight.shape, generator=given.generator) for name, weight in given.weights.items()}


def lamp(given: Scoring) -> Scores:
    """w^2 / the sum of u^2 over the weights u of its layer that are as large (Lee et al. 2021, arXiv 2010.07611).

    Magnitude with a threshold for each layer that needs no tuning: a layer's last weight has score 1, so none is
    emptied before all are down to one. It is meant for the global scope. Equal weights count by position.
    """
    scores = {}
    for name, weight in given.weights.items():
        square, order = weight.detach().double().flatten().square().sort(stable=True)
        larger = square.flip(0).cumsum(0).flip(0)
        ratio = torch.where(larger > 0, square / larger, 0)
        scores[name] = torch.empty_like(ratio).index_copy_(0, order, ratio).reshape(weight.shape)
    return scores


def synflow(given: Scoring) -> Scores:
    """|w| dR/d|w|, R = the outputs' sum for an image of ones, each w made |w| (Tanaka et al. 2020, arXiv 2006.05467).

    It looks at no label and no image but its shape; biases and running means count as 0, as at initialisation. In 100
    rounds, geometrically, since in one it empties layers. In float64: products along 164 layers overflow in float32.
    """
    model = given.model.double()
    (images, _), *_ = given.first(1)
    with torch.no_grad():
        for name, value in states(model).items():
            if value.is_floating_point():
                value.zero_() if name.endswith(("bias", "running_mean")) else value.abs_()
    product = model(torch.ones_like(images[:1], dtype=torch.float64)).sum()
    gradients = torch.autograd.grad(product, list(given.weights.values()))
    return {name: (w * g).detach() for (name, w), g in zip(given.weights.items(), gradients, strict=True)}


CRITERIA: dict[str, Criterion] = {
    "magnitude": Criterion(magnitude),
    "random": Criterion(random),
    "taylor": Criterion(taylor),
    "fisher": Criterion(fisher),
    "lamp": Criterion(lamp),
    "snip": Criterion(snip),
    "grasp": Criterion(grasp),
    "synflow": Criterion(synflow, rounds=100),
}
