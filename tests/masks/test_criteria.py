import pytest
import torch
from torch import Tensor, nn

from pruning import masks, rng
from pruning.masks import CRITERIA, KINDS, Criterion, Scoring
from tests.helpers import equal


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 3))


def given(model: nn.Module, layers: str = "conv", seed: int = 0) -> Scoring:
    weights = {name: model.get_parameter(name) for name in masks.prunable(model, layers)}
    batch = torch.zeros(2, 3, 8, 8), torch.zeros(2, dtype=torch.int64)
    return Scoring(model.eval(), weights, [batch], rng.generator(seed, "criterion"))


@pytest.mark.parametrize("layers", KINDS)
@pytest.mark.parametrize("criterion", CRITERIA.values(), ids=CRITERIA)
def test_a_criterion_gives_one_tensor_per_weight_and_draws_from_its_own_stream_only(
    criterion: Criterion, layers: str
) -> None:
    model = net()
    before = torch.get_rng_state()
    scores = criterion.score(given(model, layers))
    assert torch.equal(torch.get_rng_state(), before)
    assert list(scores) == masks.prunable(model, layers)
    assert all(score.shape == model.get_parameter(name).shape for name, score in scores.items())
    assert not any(score.isnan().any() for score in scores.values())
    torch.manual_seed(99)
    assert equal(scores, criterion.score(given(model, layers)))


def test_magnitude_is_the_absolute_value_not_a_view_of_the_weights() -> None:
    model = nn.Sequential(conv := nn.Conv2d(1, 2, 1))
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([2.0, -3.0]).view(2, 1, 1, 1))
    found = CRITERIA["magnitude"].score(given(model))
    nn.init.constant_(conv.weight, 5.0)
    assert found["0.weight"].flatten().tolist() == [2.0, 3.0]


def test_random_is_uniform_and_blind_to_the_weights() -> None:
    def scores(model: nn.Module, seed: int = 0) -> list[Tensor]:
        return list(CRITERIA["random"].score(given(model, seed=seed)).values())

    model = nn.Sequential(conv := nn.Conv2d(10, 100, 5), nn.Conv2d(100, 10, 5))
    one, two = scores(model)
    assert 0 <= one.min() <= one.max() < 1
    assert abs(one.mean() - 0.5) < 0.01
    assert not torch.equal(one.flatten(), two.flatten())
    assert not torch.equal(one, scores(model, seed=1)[0])
    nn.init.constant_(conv.weight, 3.0)
    assert torch.equal(one, scores(model)[0])
