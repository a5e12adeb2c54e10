"""Criteria that look at gradients: g = dL/dw, L the mean cross-entropy of a batch; sums are over `batches` of them."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from pruning.masks.scoring import Scores, Scoring
from pruning.modules import states

MEMORY = 2**26  # floats that the gradients of single images may take at once: a quarter of a gigabyte


def taylor(given: Scoring, *, batches: int = 1) -> Scores:
    """Sum |w g|: the first-order change of the loss if w goes (Molchanov et al. 2017, arXiv 1611.06440)."""
    scores = {name: torch.zeros_like(weight) for name, weight in given.weights.items()}
    for gradients in _of_batches(given, batches):
        for (name, weight), gradient in zip(given.weights.items(), gradients, strict=True):
            scores[name] += (weight * gradient).detach().abs()
    return scores


def snip(given: Scoring, *, batches: int = 1) -> Scores:
    """|w sum g| / sum of all: how sensitive the loss is to each connection (Lee et al. 2019, arXiv 1810.02340).

    In training mode, as the paper has it: it is meant for a network at its initialisation.
    """
    given.model.train()
    total = [torch.zeros_like(weight) for weight in given.weights.values()]
    for gradients in _of_batches(given, batches):
        torch._foreach_add_(total, list(gradients))
    raw = {name: (w * g).detach().abs() for (name, w), g in zip(given.weights.items(), total, strict=True)}
    norm = sum(score.double().sum() for score in raw.values())
    return {name: score / norm if norm else score for name, score in raw.items()}


@sdpa_kernel(SDPBackend.MATH)  # the fused one has no second derivative
def grasp(given: Scoring, *, batches: int = 1, temperature: float = 200.0) -> Scores:
    """W (H g): what the gradient's norm, so training, loses if w goes (Wang et al. 2020, arXiv 2002.07376).

    The paper's score is its negative, of which the largest go. H is the Hessian; logits are divided by `temperature`.
    In training mode, as the paper has it.
    """
    given.model.train()
    weights = list(given.weights.values())
    chosen = given.first(batches)
    flow = [torch.zeros_like(weight) for weight in weights]
    for images, labels in chosen:
        torch._foreach_add_(flow, list(torch.autograd.grad(_loss(given, images, labels, temperature), weights)))
    scores = {name: torch.zeros_like(weight) for name, weight in given.weights.items()}
    for images, labels in chosen:
        slope = torch.autograd.grad(_loss(given, images, labels, temperature), weights, create_graph=True)
        product = torch.stack([(a * b).sum() for a, b in zip(flow, slope, strict=True)]).sum()
        for (name, weight), curved in zip(given.weights.items(), torch.autograd.grad(product, weights), strict=True):
            scores[name] += (weight * curved).detach()
    return scores


@sdpa_kernel(SDPBackend.MATH)  # the fused one takes images one by one
def fisher(given: Scoring, *, batches: int = 1) -> Scores:
    """w^2 F / 2, F = the mean over images of (dL_i/dw)^2: the second-order change of the loss at a minimum.

    The diagonal of the empirical Fisher matrix in place of the Hessian's (Theis et al. 2018, arXiv 1801.05787; LeCun et
    al. 1990, Optimal Brain Damage).
    """
    state = {name: value.detach() for name, value in states(given.model).items()}
    weights = {name: state.pop(name) for name in given.weights}

    def loss(some: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        logits = functional_call(given.model, (some, state), (image[None],))
        return F.cross_entropy(logits, label[None])

    chunk = max(1, MEMORY // sum(weight.numel() for weight in weights.values()))
    each = vmap(grad(loss), in_dims=(None, 0, 0))
    scores, n = {name: torch.zeros_like(weight) for name, weight in weights.items()}, 0
    for images, labels in given.first(batches):
        for some, known in zip(images.split(chunk), labels.split(chunk), strict=True):
            for name, gradients in each(weights, some, known).items():
                scores[name] += gradients.square().sum(0)
            n += len(known)
    return {name: weights[name].square() * score / (2 * n) for name, score in scores.items()}


def _loss(given: Scoring, images: Tensor, labels: Tensor, temperature: float = 1.0) -> Tensor:
    return F.cross_entropy(given.model(images) / temperature, labels)


def _of_batches(given: Scoring, batches: int) -> Iterator[Sequence[Tensor]]:
    """Yield the gradients of the mean loss of each batch, in the order of the weights."""
    for images, labels in given.first(batches):
        loss, weights = _loss(given, images, labels), list(given.weights.values())
        yield torch.autograd.grad(loss, weights, materialize_grads=True)  # not every weight has to be used
