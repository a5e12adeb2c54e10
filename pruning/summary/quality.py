"""Beyond accuracy: what a pruned network says to each test image, beside what its dense network says.

Networks of equal accuracy can be wrong on other images, and on other classes (Hooker et al. 2019, arXiv 1911.05248).
"""

from dataclasses import dataclass, replace

import torch

from pruning.runs import Outputs

BINS = 15  # of confidence, as in Guo et al. 2017


@dataclass(frozen=True)
class Quality:
    """Percent of the N test images, or of those of a class. The dense network's are None where it is not known."""

    ece: float  # expected calibration error
    by_class: dict[str, float]  # top-1
    agreement: float | None = None  # the same class as the dense network, right or wrong
    broken: float | None = None  # right in the dense network, wrong in this one
    mended: float | None = None  # wrong in the dense network, right in this one
    dense_by_class: dict[str, float] | None = None


def ece(outputs: Outputs) -> float:
    """Return the expected calibration error in percent: the mean gap of confidence and accuracy (Guo et al. 2017).

    Images are put into 15 equal bins of the softmax's largest value; each bin counts as often as it has images
    (arXiv 1706.04599).
    """
    confidence, said = outputs.logits.double().softmax(1).max(1)
    gap = (said == outputs.labels).double() - confidence
    bins = (confidence * BINS).ceil().clamp(1, BINS).long()
    return 100 * float(torch.zeros(BINS + 1, dtype=torch.float64).index_add_(0, bins, gap).abs().sum() / len(gap))


def by_class(outputs: Outputs) -> dict[str, float]:
    """Return top-1 in percent of the test images of each class that has some."""
    n = len(outputs.classes)
    labels = outputs.labels.long()
    right = labels[outputs.predicted == outputs.labels]
    counts, rights = torch.bincount(labels, minlength=n), torch.bincount(right, minlength=n)
    pairs = zip(outputs.classes, counts.tolist(), rights.tolist(), strict=True)
    return {name: 100 * good / count for name, count, good in pairs if count}


def quality(outputs: Outputs, dense: Outputs | None) -> Quality:
    """Judge a network beside its dense one, on the same images."""
    alone = Quality(ece(outputs), by_class(outputs))
    if dense is None or not torch.equal(dense.labels, outputs.labels):
        return alone
    was, now = dense.predicted == dense.labels, outputs.predicted == outputs.labels

    def percent(which: torch.Tensor) -> float:
        return 100 * float(which.double().mean())

    return replace(
        alone,
        agreement=percent(dense.predicted == outputs.predicted),
        broken=percent(was & ~now),
        mended=percent(~was & now),
        dense_by_class=by_class(dense),
    )
