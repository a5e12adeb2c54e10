"""The figures of a step that is done: the content of result.json."""

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

from pruning.runs.step import Ref


class Result(TypedDict):
    """The content of result.json, a contract: keys are added, never renamed. Accuracies in percent, losses in nats."""

    id: Ref
    stage: str
    parent: Ref | None
    dataset: str
    arch: str
    seed: int
    percent: float  # the sparsity that was asked for
    level: NotRequired[int]  # number of prunings so far; since 0.2
    sparsity: float  # measured on the mask
    test_top1: float
    test_top5: float
    test_loss: float
    val_top1: NotRequired[float]  # where dataset.val_fraction holds a part out
    val_top5: NotRequired[float]
    val_loss: NotRequired[float]
    train_loss: float | None  # of the last epoch
    params: int
    params_nonzero: int
    prunable: int
    prunable_nonzero: int
    macs: int
    macs_nonzero: int
    epochs: int  # that were trained, after a rewinding those after it
    seconds: float
    before: Mapping[str, float] | None  # test_top1, test_top5, test_loss right after the last pruning
    model_sha256: NotRequired[str]  # of model.safetensors; since 0.3, like what follows
    normalisation: NotRequired[Mapping[str, Any]]  # mean and std of each channel that the network is fed with
    effective_nonzero: NotRequired[int]  # prunable weights that are kept and on a path from the input to the output
    empty_layers: NotRequired[tuple[str, ...]]  # names of those that have no weight left
    layers: NotRequired[Mapping[str, tuple[int, int]]]  # kept and all weights of each layer that was pruned, in order
    snapshots: NotRequired[Mapping[str, str]]  # sha256 of epoch-N.safetensors, by N: the network after N epochs
    settings: NotRequired[Mapping[str, Any]]  # of the whole chain, flat, like train.lr: what tells results apart
