import copy

import pytest
import torch
from torch import Tensor, nn

from pruning import archs, masks
from pruning.masks import cost
from pruning.masks.cost import uses_per_image
from tests.helpers import equal

SHAPE = (3, 9, 7)


class Net(nn.Module):
    """Stride, groups, dilation, a bias, one layer used twice and one that is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, stride=2, padding=1)  # to 8 x 5 x 4
        self.bn = nn.BatchNorm2d(8)
        self.b = nn.Conv2d(8, 8, (3, 1), padding=(1, 0), groups=4, bias=False)  # twice, 8 x 5 x 4
        self.c = nn.Conv2d(8, 6, 2, dilation=2)  # to 6 x 3 x 2
        self.fc = nn.Linear(6, 5)
        self.spare = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.b(self.bn(self.a(x))))
        return self.fc(self.c(x).mean((2, 3)))


USES = {"a.weight": 20, "b.weight": 40, "c.weight": 6, "fc.weight": 1, "spare.weight": 0}
SIZES = {"a.weight": 8 * 3 * 9, "b.weight": 8 * 2 * 3, "c.weight": 6 * 8 * 4, "fc.weight": 30, "spare.weight": 12}
PARAMS = sum(SIZES.values()) + 8 + 2 * 8 + 6 + 5 + 4  # biases and BatchNorm
MACS = 216 * 20 + 48 * 40 + 192 * 6 + 30


@pytest.mark.parametrize("layers", masks.KINDS)
@pytest.mark.parametrize("sparsity", [0.0, 0.37, 0.9, 1.0])
def test_masked_by_counting_one_weight_at_a_time_and_nothing_is_read_off_the_weights(
    layers: str, sparsity: float
) -> None:
    model = Net()
    mask = masks.prune(model, sparsity, "random", layers=layers)
    for parameter in model.parameters():  # trap: the ratio of multiply-adds taken before the mask is loaded
        nn.init.zeros_(parameter)
    gone = [name for name, keep in mask.items() for kept in keep.flatten().tolist() if not kept]
    prunable = sum(SIZES[name] for name in mask)
    all_of_them = {"params": PARAMS, "prunable": prunable, "macs": MACS}
    assert cost(model, mask, SHAPE) == all_of_them | {
        "params_nonzero": PARAMS - len(gone),
        "prunable_nonzero": prunable - round(sparsity * prunable),
        "macs_nonzero": MACS - sum(USES[name] for name in gone),
    }


def test_multiply_adds_by_brute_force() -> None:
    """Count the multiplications: a layer of ones with an image of ones."""
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3, stride=2, groups=2, bias=False)
    keep = torch.rand(conv.weight.shape) < 0.4
    with torch.no_grad():
        conv.weight.copy_(keep)
        counted = int(conv(torch.ones(1, 4, 9, 8)).sum())
    found = cost(nn.Sequential(conv), {"0.weight": keep}, (4, 9, 8))
    assert (found["macs_nonzero"], found["macs"]) == (counted, conv.weight.numel() * 4 * 3)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_stays_as_it_was_also_when_it_fails(training: bool) -> None:
    model = Net().train(training)
    before = copy.deepcopy(model.state_dict())
    assert uses_per_image(model, SHAPE) == {name: times for name, times in USES.items() if times}
    with pytest.raises(RuntimeError):
        uses_per_image(model, (4, 9, 7))
    assert model.training is model.bn.training is training
    assert equal(model.state_dict(), before)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_dense_resnet20() -> None:
    dense = {"params": 269_722, "prunable": 267_696, "macs": 40_551_040}  # BatchNorm and fc are not prunable
    assert cost(archs.build("resnet20", 10), {}) == dense | {f"{key}_nonzero": value for key, value in dense.items()}
