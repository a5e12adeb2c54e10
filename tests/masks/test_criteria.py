import pytest
import torch
from torch import Tensor, nn

from pruning import masks, rng
from pruning.errors import UserError
from pruning.masks import CRITERIA, KINDS, Criterion, Scoring
from tests import reference
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


@pytest.mark.parametrize("batches", [1, 3])
@pytest.mark.parametrize("name", reference.SCORES)
def test_scores_are_those_of_the_papers(name: str, batches: int) -> None:
    torch.manual_seed(1)
    layers = nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)
    model = nn.Sequential(*layers).double()
    data = [(torch.randn(4, 2, 5, 5).double(), torch.randint(0, 3, (4,))) for _ in range(batches)]
    wanted = reference.scores(name, model, data)
    weights = {n: model.get_parameter(n) for n in masks.prunable(model)}
    criterion = CRITERIA[name]
    if name not in ("lamp", "synflow"):
        criterion = criterion.with_settings(batches=batches)
    found = criterion.score(Scoring(model, weights, data, rng.generator(0, "criterion")))
    for n in wanted:
        assert torch.allclose(found[n], wanted[n], rtol=1e-9, atol=0), n


def test_lamp_spares_the_last_weight_of_a_layer_and_takes_equal_ones_by_position() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 1, bias=False), nn.Conv2d(4, 1, 1, bias=False))
    for parameter, value in zip(model.parameters(), (1e-6, 5.0), strict=True):
        nn.init.constant_(parameter, value)
    scores = CRITERIA["lamp"].score(given(model))
    assert [score.flatten().tolist() for score in scores.values()] == [pytest.approx([1 / 4, 1 / 3, 1 / 2, 1])] * 2


def test_what_looks_at_images_asks_for_them_and_for_some() -> None:
    for name in ("taylor", "fisher", "snip", "grasp", "synflow"):
        with pytest.raises(UserError, match="looks at images: give batches of them"):
            masks.prune(net(), 0.5, name)
    with pytest.raises(UserError, match="batches must be >= 1, got 0"):
        masks.prune(net(), 0.5, CRITERIA["taylor"].with_settings(batches=0), batches=given(net()).batches)


def test_synflow_prunes_in_rounds_and_leaves_a_way_through() -> None:
    model = net()
    mask = masks.prune(model, 0.96, "synflow", batches=given(model).batches)
    assert all(keep.any() for keep in masks.on_a_path(model, mask, (3, 8, 8)).values())


def test_data_driven_scores_leave_the_network_as_it_was() -> None:
    model = net().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for name in CRITERIA:
        masks.prune(model, 0.5, name, batches=given(net()).batches)
    assert model.training
    assert equal(before, model.state_dict())
