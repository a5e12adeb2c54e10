"""What somebody adds from outside: a criterion and a scope with a setting each, a stage, a report column."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch

from pruning import COLUMNS, CRITERIA, RESULTS, SCOPES, STAGES, Checkpoint, Context, Criterion, Scoring, Stage, Step
from pruning.masks import Scores, masked
from pruning.masks.scopes import Groups
from pruning.pipeline import results
from pruning.pipeline.request import Request
from pruning.settings import Settings, limits, setting


def noisy(given: Scoring, *, noise: Annotated[float, limits(least=0, most=1)] = 0.5) -> Scores:
    """(1 - noise) |w| + noise * uniform."""
    drawn = {name: torch.rand(w.shape, generator=given.generator) for name, w in given.weights.items()}
    return {name: (1 - noise) * w.detach().abs() + noise * drawn[name] for name, w in given.weights.items()}


def but_first(shapes: Mapping[str, torch.Size], total: int, _pruned: Mapping[str, int], *, dense: int = 1) -> Groups:
    """One threshold over all weights but those of the first `dense` layers, which stay whole."""
    names = list(shapes)
    return {(name,): 0 for name in names[:dense]} | {tuple(names[dense:]): total}


@dataclass(frozen=True, kw_only=True)
class AverageRecipe(Settings):
    """How much of the parent there is in the average."""

    share: float = setting(0.5, least=0, most=1)


def average(context: Context, recipe: AverageRecipe) -> Checkpoint:
    """Average the parent with two earlier networks of its chain, under its mask."""
    model = context.start.network()
    weights, rest = model.state_dict(), (1 - recipe.share) / 2
    for name, value in weights.items():
        if value.is_floating_point():
            others = context.inputs["dense"].weights[name] + context.inputs["earlier"].weights[name]
            value.copy_(recipe.share * value + rest * others)
    model.load_state_dict(masked(weights, context.start.mask))
    return context.checkpoint(model, context.start.mask)


def averaged(want: Request) -> Step:
    """The finetuned network, averaged with the dense one and the one before the last pruning."""
    last = results.finetune(want)
    dense, *_, earlier, _, _ = want.steps.values()
    return want.step("average", after=last, inputs={"dense": dense, "earlier": earlier})


CRITERIA["noisy"] = Criterion(noisy)
SCOPES["but_first"] = but_first
STAGES["average"] = Stage(average, AverageRecipe)
RESULTS["average"] = averaged
COLUMNS["level"] = lambda row: str(row["level"])
