import pytest
import torch
from pruning.criteria import CRITERIA
from torch import Tensor, nn

from pruning import masks, rng

BATCH = (torch.zeros(2, 3, 8, 8), torch.zeros(2, dtype=torch.int64))


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3), nn.Flatten(), nn.Linear(32, 3))


def scores(criterion: str, model: nn.Module, layers: str = "conv", seed: int = 0) -> dict[str, Tensor]:
    names = masks.prunable(model, layers)
    return CRITERIA[criterion](model, names, BATCH, rng.generator(seed, "criterion"))


@pytest.mark.parametrize("layers", masks.KINDS)
@pytest.mark.parametrize("criterion", CRITERIA)
def test_one_tensor_a_weight_and_the_model_as_it_was(criterion, layers):
    model = net()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = scores(criterion, model, layers)
    parameters = dict(model.named_parameters())
    assert list(found) == masks.prunable(model, layers)
    assert all(score.shape == parameters[name].shape for name, score in found.items())
    assert not any(score.requires_grad or score.isnan().any() for score in found.values())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in parameters.values()) and model.training


@pytest.mark.parametrize("criterion", CRITERIA)
def test_criteria_leave_the_global_random_state_alone(criterion):
    model = net()
    before = torch.get_rng_state()
    first = scores(criterion, model)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert all(torch.equal(first[name], score) for name, score in scores(criterion, model).items())


def test_magnitude_is_the_absolute_value():
    model = net()
    found = scores("magnitude", model, "conv+linear")
    for name, parameter in model.named_parameters():
        if name in found:
            assert found[name].tolist() == parameter.abs().tolist()


def test_magnitude_is_not_a_view_of_the_weights():
    model = nn.Sequential(nn.Conv2d(1, 1, 1))
    nn.init.constant_(model[0].weight, 2.0)
    found = scores("magnitude", model)
    nn.init.constant_(model[0].weight, 5.0)
    assert found["0.weight"].item() == 2.0


def test_magnitude_keeps_the_largest():
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 1, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, -5, 0.5, -0.1]).view(4, 1, 1, 1))
        model[1].weight.copy_(torch.tensor([-2.0, 0.2, 3, -0.3]).view(1, 4, 1, 1))
    mask = masks.keep_top(scores("magnitude", model), 0.5)
    assert mask["0.weight"].flatten().tolist() == [True, True, False, False]
    assert mask["1.weight"].flatten().tolist() == [True, False, True, False]


def test_random_is_uniform_and_blind_to_the_weights():
    model = nn.Sequential(nn.Conv2d(10, 100, 5))
    found = scores("random", model)["0.weight"]
    assert found.min() >= 0 and found.max() < 1 and abs(found.mean() - 0.5) < 0.01
    nn.init.constant_(model[0].weight, 3.0)
    assert torch.equal(scores("random", model)["0.weight"], found)


def test_random_depends_on_the_stream_and_differs_between_layers():
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3))
    a, b = scores("random", model, seed=0), scores("random", model, seed=1)
    assert not torch.equal(a["0.weight"], b["0.weight"])
    assert not torch.equal(a["0.weight"], a["1.weight"])
