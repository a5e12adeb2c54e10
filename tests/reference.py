"""Obvious versions of what the library does fast: slow, short, and right."""

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import OneCycleLR

from pruning import rng
from pruning.data import Data, train_batches
from pruning.training import TrainRecipe, learning_rate


def train_epoch(data: Data, *, seed: int, epoch: int) -> list[tuple[Tensor, Tensor]]:
    """Return (image, label) of one epoch in order, each float32 (3, H, W): crop, mirror and normalise one at a time."""
    n = len(data.train)
    order = torch.randperm(n, generator=rng.generator(seed, "training order", epoch)).tolist()
    augment = rng.generator(seed, "training augment", epoch)
    offsets = torch.randint(2 * data.pad + 1, (2, n), generator=augment).tolist()
    flips = torch.randint(2, (1, n), generator=augment)[0].tolist()
    mean, std = torch.tensor(data.mean).view(3, 1, 1), torch.tensor(data.std).view(3, 1, 1)
    result = []
    for position, index in enumerate(order):
        image = data.train.images[index].permute(2, 0, 1)
        height, width = image.shape[1:]
        padded = torch.zeros(3, height + 2 * data.pad, width + 2 * data.pad, dtype=torch.uint8)
        padded[:, data.pad : data.pad + height, data.pad : data.pad + width] = image
        top, left = offsets[0][position], offsets[1][position]
        window = padded[:, top : top + height, left : left + width]
        if data.flip and flips[position]:
            window = window.flip(2)
        result.append(((window / 255 - mean) / std, data.train.labels[index]))
    return result


def keep_top(
    scores: Mapping[str, Tensor], sparsity: float, scope: str = "global", previous: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Sort the weights that are left by (score, position) and remove from the bad end, one at a time."""
    kept = {name: [True] * score.numel() for name, score in scores.items()}
    kept |= {name: keep.flatten().tolist() for name, keep in (previous or {}).items()}
    total = round(sparsity * sum(len(keep) for keep in kept.values()))
    gone = [keep.count(False) for keep in kept.values()]
    if scope == "global":
        arenas, quotas = [list(kept)], [total]
    else:
        arenas, quotas = [[name] for name in kept], allocate(total, [len(keep) for keep in kept.values()], gone)
    for names, quota in zip(arenas, quotas, strict=True):
        places = [(name, i) for name in names for i in range(len(kept[name])) if kept[name][i]]
        ranked = sorted((float(scores[name].flatten()[i]), -rank, name, i) for rank, (name, i) in enumerate(places))
        for _, _, name, i in ranked[: quota - sum(kept[name].count(False) for name in names)]:
            kept[name][i] = False
    return {name: torch.tensor(keep).reshape(scores[name].shape) for name, keep in kept.items()}


def allocate(total: int, sizes: Sequence[int], least: Sequence[int]) -> list[int]:
    """Find the one rate at which parts of max(least, rate * size) add up to `total`; round by largest remainder."""
    order = sorted(range(len(sizes)), key=lambda i: Fraction(least[i], sizes[i]))
    for count in range(1, len(sizes) + 1):
        first, others = order[:count], order[count:]
        rate = Fraction(total - sum(least[i] for i in others), sum(sizes[i] for i in first))
        if all(rate * sizes[i] >= least[i] for i in first) and all(rate * sizes[i] <= least[i] for i in others):
            break
    parts = [max(Fraction(low), rate * size) for size, low in zip(sizes, least, strict=True)]
    goal = [int(part) for part in parts]
    for i in sorted(range(len(parts)), key=lambda i: goal[i] - parts[i])[: total - sum(goal)]:
        goal[i] += 1
    return goal


def fit(model: nn.Module, data: Data, recipe: TrainRecipe, mask: Mapping[str, Tensor]) -> None:
    """Train on the CPU in fp32 with seed 0: torch's own optimizer, the mask put on by hand after each step."""
    model = model.to(memory_format=torch.channels_last)
    common: dict[str, Any] = {"lr": recipe.lr, "weight_decay": recipe.weight_decay}
    optimizer: Optimizer
    if recipe.optimizer == "sgd":
        optimizer = SGD(model.parameters(), momentum=recipe.momentum, nesterov=recipe.nesterov, **common)
    else:
        kind = {"adam": Adam, "adamw": AdamW}[recipe.optimizer]
        optimizer = kind(model.parameters(), betas=(recipe.betas[0], recipe.betas[1]), **common)
    shape: dict[str, Any] = {"schedule": recipe.schedule, "warmup": recipe.warmup, "start": recipe.start}
    if recipe.schedule == "steps":
        shape |= {"milestones": recipe.milestones, "decay": recipe.decay}
    elif recipe.schedule in ("linear", "cosine"):
        shape["end"] = recipe.end
    parameters = dict(model.named_parameters())
    for name, keep in mask.items():
        parameters[name].data[~keep] = 0.0
    step, steps = 0, recipe.epochs * math.ceil(len(data.train) / recipe.batch_size)
    scheduler = one_cycle(optimizer, recipe, steps) if recipe.schedule == "one_cycle" else None
    for epoch in range(recipe.epochs):
        model.train()
        for images, labels in train_batches(data, batch_size=recipe.batch_size, seed=0, epoch=epoch):
            if not scheduler:
                optimizer.param_groups[0]["lr"] = learning_rate(step / steps, recipe.lr, **shape)
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels, label_smoothing=recipe.label_smoothing).backward()
            optimizer.step()
            for name, keep in mask.items():
                parameters[name].data[~keep] = 0.0
            step += 1
            if scheduler and step < steps:
                scheduler.step()


def one_cycle(optimizer: Optimizer, recipe: TrainRecipe, steps: int) -> OneCycleLR:
    """Return torch's scheduler with the settings of the recipe."""
    high, low = recipe.momentum_cycle or (0.0, 0.0)
    return OneCycleLR(
        optimizer,
        recipe.lr,
        steps,
        pct_start=recipe.warmup,
        div_factor=1 / recipe.start,
        final_div_factor=recipe.start / recipe.end,
        cycle_momentum=recipe.momentum_cycle is not None,
        max_momentum=high,
        base_momentum=low,
    )


def scores(name: str, model: nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Score all convolution weights as the papers' formulas say, by whatever is most obvious; float64, no BatchNorm."""
    return {n: SCORES[name](model, n, batches) for n, p in model.named_parameters() if p.ndim == 4}


def _loss(model: nn.Module, batch: tuple[Tensor, Tensor], **changed: Tensor) -> Tensor:
    return F.cross_entropy(torch.func.functional_call(model, changed, (batch[0],)), batch[1])


def _connection(model: nn.Module, name: str, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return dL/dc at c = 1, where each weight w is c w."""
    weight = model.get_parameter(name).detach()
    c = torch.ones_like(weight).requires_grad_()
    return torch.autograd.grad(_loss(model, batch, **{name: c * weight}), c)[0]


def taylor(model: nn.Module, name: str, batches: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    return torch.stack([_connection(model, name, batch).abs() for batch in batches]).sum(0)


def snip(model: nn.Module, name: str, batches: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    def raw(some: str) -> Tensor:
        return torch.stack([_connection(model, some, batch) for batch in batches]).sum(0).abs()

    return raw(name) / torch.stack([raw(n).sum() for n, p in model.named_parameters() if p.ndim == 4]).sum()


def fisher(model: nn.Module, name: str, batches: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    images = [(x[None], y[None]) for batch in batches for x, y in zip(*batch, strict=True)]
    squares = [torch.autograd.grad(_loss(model, one), model.get_parameter(name))[0] ** 2 for one in images]
    return model.get_parameter(name).detach() ** 2 * torch.stack(squares).mean(0) / 2


def grasp(model: nn.Module, name: str, batches: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Build the whole Hessian of the convolutions' weights, at temperature 200."""
    names = [n for n, p in model.named_parameters() if p.ndim == 4]
    sizes = [model.get_parameter(n).numel() for n in names]
    flat = torch.cat([model.get_parameter(n).detach().flatten() for n in names])
    total = torch.zeros_like(flat)
    slope = torch.zeros_like(flat)

    def loss(w: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        parts = {n: p.reshape(model.get_parameter(n).shape) for n, p in zip(names, w.split(sizes), strict=True)}
        return F.cross_entropy(torch.func.functional_call(model, parts, (batch[0],)) / 200, batch[1])

    for batch in batches:
        slope += torch.autograd.functional.jacobian(lambda w, b=batch: loss(w, b), flat)
    for batch in batches:
        total += torch.autograd.functional.hessian(lambda w, b=batch: loss(w, b), flat) @ slope
    return dict(zip(names, (flat * total).split(sizes), strict=True))[name].reshape(model.get_parameter(name).shape)


def synflow(model: nn.Module, name: str, batches: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """R is linear in each single weight: its share is what R loses without it."""
    ones = torch.ones_like(batches[0][0][:1])
    absolute = {n: torch.zeros_like(p) if n.endswith("bias") else p.detach().abs() for n, p in model.named_parameters()}
    whole = torch.func.functional_call(model, absolute, (ones,)).sum()
    found = torch.zeros(absolute[name].numel(), dtype=whole.dtype)
    for i in range(len(found)):
        without = absolute[name].clone().flatten()
        without[i] = 0
        changed = absolute | {name: without.reshape(absolute[name].shape)}
        found[i] = whole - torch.func.functional_call(model, changed, (ones,)).sum()
    return found.reshape(absolute[name].shape).detach()


def lamp(model: nn.Module, name: str, _batches: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    weights = model.get_parameter(name).detach().flatten().tolist()
    found = [w * w / sum(u * u for u in weights if abs(u) >= abs(w)) for w in weights]
    return torch.tensor(found, dtype=torch.float64).reshape(model.get_parameter(name).shape)


SCORES = {"taylor": taylor, "snip": snip, "fisher": fisher, "grasp": grasp, "synflow": synflow, "lamp": lamp}


def erk(shapes: Sequence[Sequence[int]], kept: int) -> list[float]:
    """Return each tensor's number of kept weights, in fractions: raise the factor until they add up (bisection)."""
    sizes = [math.prod(shape) for shape in shapes]
    low, high = 0.0, float(max(sizes))
    for _ in range(200):
        factor = (low + high) / 2
        parts = [min(size, factor * sum(shape)) for size, shape in zip(sizes, shapes, strict=True)]
        low, high = (factor, high) if sum(parts) < kept else (low, factor)
    return parts


def distilled(teachers: Sequence[Tensor], student: Tensor, labels: Tensor, temperature: float, weight: float) -> float:
    """The loss of a distillation, image by image and class by class (arXiv 1503.02531; the mean of 2006.11487)."""
    total = 0.0
    for i, label in enumerate(labels.tolist()):
        soft = [[math.exp(z / temperature) for z in logits[i].tolist()] for logits in (*teachers, student)]
        shares = [[e / sum(each) for e in each] for each in soft]
        wanted = [sum(p) / len(teachers) for p in zip(*shares[:-1], strict=True)]
        apart = sum(p * math.log(p / q) for p, q in zip(wanted, shares[-1], strict=True))
        plain = [math.exp(z) for z in student[i].tolist()]
        total += (1 - weight) * -math.log(plain[label] / sum(plain)) + weight * temperature**2 * apart
    return total / len(labels)
