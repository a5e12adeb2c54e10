import pytest
import torch
from pruning.cost import cost, positions
from torch import Tensor, nn

from pruning import archs, masks

SHAPE = (3, 9, 7)


class Net(nn.Module):
    """Stride, groups, dilation, a bias, and one layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, stride=2, padding=1)  # to 8 x 5 x 4
        self.bn = nn.BatchNorm2d(8)
        self.b = nn.Conv2d(8, 8, (3, 1), padding=(1, 0), groups=4, bias=False)  # twice, 8 x 5 x 4
        self.c = nn.Conv2d(8, 6, 2, dilation=2)  # to 6 x 3 x 2
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.b(self.bn(self.a(x))))
        return self.fc(self.c(x).mean((2, 3)))


USES = {"a.weight": 20, "b.weight": 40, "c.weight": 6, "fc.weight": 1}
SIZES = {"a.weight": 8 * 3 * 9, "b.weight": 8 * 2 * 3, "c.weight": 6 * 8 * 4, "fc.weight": 30}
OTHERS = 8 + 2 * 8 + 6 + 5  # biases and BatchNorm
MACS = 216 * 20 + 48 * 40 + 192 * 6 + 30


def random_mask(model: nn.Module, layers: str, sparsity: float) -> masks.Mask:
    parameters, stream = dict(model.named_parameters()), torch.Generator().manual_seed(0)
    names = masks.prunable(model, layers)
    return masks.keep_top({n: torch.rand(parameters[n].shape, generator=stream) for n in names}, sparsity)


def test_positions_by_hand():
    assert positions(Net(), SHAPE) == USES


def test_dense_by_hand():
    assert cost(Net(), {}, SHAPE) == {
        "params": sum(SIZES.values()) + OTHERS,
        "params_nonzero": sum(SIZES.values()) + OTHERS,
        "prunable": 216 + 48 + 192,
        "prunable_nonzero": 216 + 48 + 192,
        "macs": MACS,
        "macs_nonzero": MACS,
    }


@pytest.mark.parametrize("layers", masks.KINDS)
@pytest.mark.parametrize("sparsity", [0.0, 0.37, 0.9, 1.0])
def test_masked_by_counting_one_weight_at_a_time(layers, sparsity):
    model = Net()
    mask = random_mask(model, layers, sparsity)
    gone = [name for name, keep in mask.items() for kept in keep.flatten().tolist() if not kept]
    prunable = sum(SIZES[name] for name in mask)
    assert cost(model, mask, SHAPE) == {
        "params": sum(SIZES.values()) + OTHERS,
        "params_nonzero": sum(SIZES.values()) + OTHERS - len(gone),
        "prunable": prunable,
        "prunable_nonzero": prunable - round(sparsity * prunable),
        "macs": MACS,
        "macs_nonzero": MACS - sum(USES[name] for name in gone),
    }


def test_multiply_adds_by_brute_force():
    """Count the multiplications: the network of ones with unit images, a layer at a time."""
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3, stride=2, groups=2, bias=False)
    keep = torch.rand(conv.weight.shape) < 0.4
    with torch.no_grad():
        conv.weight.copy_(keep)
        counted = int(conv(torch.ones(1, 4, 9, 8)).sum())
    found = cost(nn.Sequential(conv), {"0.weight": keep}, (4, 9, 8))
    assert found["macs_nonzero"] == counted
    assert found["macs"] == conv.weight.numel() * 4 * 3


def test_nothing_is_read_off_the_weights():
    """Trap: the ratio of multiply-adds taken before the mask is loaded."""
    model = Net()
    mask = random_mask(model, "conv", 0.5)
    before = cost(model, mask, SHAPE)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    assert cost(model, mask, SHAPE) == before
    assert cost(model, {}, SHAPE)["params_nonzero"] == before["params"]


def test_the_model_stays_as_it_was():
    model = Net()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for training in (True, False):
        model.train(training)
        cost(model, {}, SHAPE)
        assert model.training is training and model.bn.training is training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_hooks_go_when_the_model_fails():
    model = Net()
    with pytest.raises(RuntimeError):
        positions(model, (4, 9, 7))
    assert model.training and not any(module._forward_hooks for module in model.modules())


def test_resnet20():
    model = archs.build("resnet20", 10)
    found = cost(model, {})
    assert found["macs"] == found["macs_nonzero"] == 40_551_040
    assert found["params"] == 269_722
    assert found["prunable"] == 267_696  # without BatchNorm and fc
    mask = random_mask(model, "conv", 0.8)
    uses = positions(model)
    gone = {name: int((~keep).sum()) for name, keep in mask.items()}
    pruned = cost(model, mask)
    assert pruned["prunable_nonzero"] == 267_696 - round(0.8 * 267_696)
    assert pruned["macs_nonzero"] == 40_551_040 - sum(count * uses[name] for name, count in gone.items())


def test_a_layer_that_is_used_for_nothing_costs_parameters_only():
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten(), nn.Linear(8, 1))
    model.register_module("spare", nn.Linear(3, 3))
    model.forward = lambda x: model[2](model[1](model[0](x)))  # type: ignore[method-assign]
    found = cost(model, {}, (3, 2, 2))
    assert found["params"] == 8 + 9 + 12 and found["macs"] == 6 * 4 + 8
