"""Figures beyond accuracy, against sums over one image at a time."""

from pathlib import Path

import pytest
import torch

from pruning.runs import Outputs
from pruning.summary.cells import Entry
from pruning.summary.judge import judged
from pruning.summary.published import PUBLISHED, published
from pruning.summary.quality import ece, quality
from tests.runs.steps import DENSE, PRUNED, figures, place

CLASSES = ("cat", "dog", "fox")


def outputs(seed: int, n: int = 97) -> Outputs:
    stream = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    logits = torch.randn(n, 3, generator=stream) * 3
    logits[torch.arange(n), labels] += 2
    return Outputs.of(logits, labels, CLASSES)


def test_flips_and_agreement_one_image_at_a_time() -> None:
    one, dense = outputs(1), outputs(0)
    triples = list(zip(one.predicted.tolist(), dense.predicted.tolist(), one.labels.tolist(), strict=True))
    found = quality(one, dense)
    n = len(triples)
    assert found.agreement == pytest.approx(100 * sum(a == b for a, b, _ in triples) / n)
    assert found.broken == pytest.approx(100 * sum(a != c and b == c for a, b, c in triples) / n)
    assert found.mended == pytest.approx(100 * sum(a == c and b != c for a, b, c in triples) / n)
    for k, name in enumerate(CLASSES):
        right = [a == c for a, _, c in triples if c == k]
        assert found.by_class[name] == pytest.approx(100 * sum(right) / len(right))
    top1 = 100 * sum(a == c for a, _, c in triples) / n
    dense_top1 = 100 * sum(b == c for _, b, c in triples) / n
    assert found.mended is not None
    assert found.broken is not None
    assert top1 - dense_top1 == pytest.approx(found.mended - found.broken)


def test_calibration_error_one_image_at_a_time() -> None:
    some = outputs(2)
    bins: dict[int, list[tuple[float, bool]]] = {}
    for row, label in zip(some.logits.double(), some.labels, strict=True):
        probabilities = row.softmax(0)
        confidence = float(probabilities.max())
        number = next(k for k in range(1, 16) if confidence <= k / 15)
        bins.setdefault(number, []).append((confidence, int(probabilities.argmax()) == int(label)))
    wanted = sum(abs(sum(c for c, _ in each) - sum(ok for _, ok in each)) for each in bins.values()) / len(some.labels)
    assert ece(some) == pytest.approx(100 * wanted)


def test_a_sure_and_right_network_is_calibrated_and_a_sure_and_wrong_one_is_not() -> None:
    labels = torch.tensor([0, 1, 2])
    sure = torch.eye(3) * 1000
    assert ece(Outputs.of(sure, labels, CLASSES)) == pytest.approx(0)
    assert ece(Outputs.of(sure.roll(1, 0), labels, CLASSES)) == pytest.approx(100)


def test_other_images_are_not_compared() -> None:
    assert quality(outputs(1), outputs(0, n=96)).agreement is None
    assert quality(outputs(1), None).agreement is None


def test_results_get_what_their_logits_say_and_damaged_ones_are_named(tmp_path: Path) -> None:
    runs = [place(tmp_path, one, result={}) for one in (DENSE, PRUNED)]
    dense = Entry(runs[0], figures(DENSE), {}, 0)  # type: ignore[arg-type]
    entry = Entry(runs[1], figures(PRUNED), {}, 1, dense)  # type: ignore[arg-type]
    assert judged([entry]) == ([entry], [])
    outputs(1).save(runs[1].path)
    ((found,), problems) = judged([entry])
    assert found.quality
    assert (found.quality.agreement, problems) == (None, [])
    outputs(0).save(runs[0].path)
    ((found,), problems) = judged([entry])
    assert found.quality == quality(outputs(1), outputs(0))
    (runs[0].path / "logits.safetensors").write_bytes(b"no")
    ((found,), problems) = judged([entry, entry][:1])
    assert found.quality
    assert (found.quality.agreement, len(problems)) == (None, 1)
    assert problems[0].startswith("not judged beyond accuracy: ")


def test_published_figures_are_those_of_the_paper() -> None:
    assert "dense 93.42, finetuned at a low rate 92.69, one-cycle finetuned 93.41" in published("cifar10", "resnet56")
    assert published("digits", "resnet56") == ""
    assert all(0 < top1 < 100 for _, tops in PUBLISHED.values() for top1 in tops)
