from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruning import archs
from pruning.archs import resnet
from pruning.errors import UserError
from tests.helpers import equal

# By hand: vgg19 is vgg16 with one more 256 -> 256 and two more 512 -> 512 convolutions (each with its BatchNorm),
# 14,987,722 + (9 * 256**2 + 2 * 256) + 2 * (9 * 512**2 + 2 * 512) = 20,298,698;
# 90 more classes add 90 * (features + 1).
COUNTS = {
    "resnet20": (269_722, 275_572),
    "resnet32": (464_154, 470_004),
    "resnet56": (853_018, 858_868),
    "resnet110": (1_727_962, 1_733_812),
    "preresnet110": (1_730_522, 1_736_372),
    "preresnet164": (1_703_258, 1_726_388),
    "vgg16": (14_987_722, 15_033_892),
    "vgg19": (20_298_698, 20_344_868),
    "wrn_16_8": (10_961_370, 11_007_540),
}
# The first parameters in order, and some of the others, as the original code names them.
PRE = "conv1.weight layer1.0.bn1.weight layer1.0.bn1.bias layer1.0.conv1.weight"
PARAMETERS = {
    "resnet20": (
        "conv1.weight bn1.weight bn1.bias layer1.0.conv1.weight layer1.0.bn1.weight",
        "layer2.0.conv2.weight layer3.2.bn2.running_var fc.weight fc.bias",
    ),
    "preresnet110": (PRE, "layer3.17.conv2.weight bn.weight fc.weight"),
    "preresnet164": (PRE, "layer3.17.conv3.weight layer3.17.bn3.bias bn.weight"),
    "vgg16": (
        "feature.0.weight feature.1.weight feature.1.bias feature.3.weight",
        "feature.7.weight feature.40.weight classifier.1.running_mean classifier.3.weight",
    ),
    "vgg19": ("feature.0.weight", "feature.49.weight classifier.3.bias"),
    "wrn_16_8": (PRE.replace("layer1", "block1.layer"), "block3.layer.1.conv2.weight bn1.weight fc.bias"),
}
SHORTCUTS = {
    "preresnet110": [f"layer{i}.0.downsample.0.weight" for i in (2, 3)],
    "preresnet164": [f"layer{i}.0.downsample.0.weight" for i in (1, 2, 3)],
    "wrn_16_8": [f"block{i}.layer.0.convShortcut.weight" for i in (1, 2, 3)],
}


def initialised(name: str, seed: int = 0) -> nn.Module:
    model = archs.build(name, 10)
    archs.initialise(model, torch.Generator().manual_seed(seed))
    return model


def images() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", archs.ARCHS)
def test_sizes_and_parameter_names_are_those_of_the_original_code(name: str) -> None:
    with torch.device("meta"):
        model, large = archs.build(name, 10), archs.build(name, 100)
    assert tuple(sum(p.numel() for p in m.parameters()) for m in (model, large)) == COUNTS[name]
    keys = list(model.state_dict())
    first, some = (names.split() for names in PARAMETERS.get(name, ("", "")))
    assert [key for key, _ in model.named_parameters()][: len(first)] == first
    assert set(some) <= set(keys)
    assert [key for key in keys if "downsample" in key or "Shortcut" in key] == SHORTCUTS.get(name, [])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["resnet20", "preresnet110", "preresnet164", "vgg16", "wrn_16_8"])
def test_shapes_gradients_and_memory_format(name: str, precision: str) -> None:
    model = initialised(name).to(memory_format=torch.channels_last)
    broken: list[str] = []

    def check(module: nn.Module, inputs: Any, output: Tensor) -> None:
        if output.dim() == 4 and not output.is_contiguous(memory_format=torch.channels_last):
            broken.append(str(module))

    for module in model.modules():
        module.register_forward_hook(check)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        logits = model(images().contiguous(memory_format=torch.channels_last))
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    assert (logits.shape, logits.dtype, broken) == ((2, 10), dtype, [])
    nn.functional.cross_entropy(logits.float(), torch.tensor([0, 1])).backward()
    for key, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), key  # noqa: PT018 (one parameter, one fact)
        if key != "classifier.0.bias":  # the BatchNorm after it takes any constant away: its gradient is 0
            assert p.grad.any(), key


@pytest.mark.parametrize("name", ["resnet20", "vgg16", "wrn_16_8"])
def test_memory_format_does_not_change_the_function(name: str) -> None:
    model = initialised(name).eval()
    with torch.no_grad():
        expected = model(images())
        assert torch.allclose(model.to(memory_format=torch.channels_last)(images()), expected, rtol=1e-4, atol=1e-5)


def test_other_image_sizes() -> None:
    for name in ("resnet20", "preresnet110", "vgg16"):
        assert archs.build(name, 3).eval()(torch.zeros(1, 3, 48, 64)).shape == (1, 3)


def test_a_shortcut_averages_pads_and_passes_gradients() -> None:
    block = resnet.BasicBlock(16, 32, stride=2)
    nn.init.zeros_(block.conv2.weight)  # nothing but the shortcut is left
    x = torch.rand(2, 16, 8, 8, requires_grad=True)
    out = block(x)
    squares = (x[..., ::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, ::2] + x[..., 1::2, 1::2]) / 4
    assert torch.allclose(out, torch.cat([squares, torch.zeros_like(squares)], dim=1))
    out.sum().backward()
    assert x.grad is not None and torch.allclose(x.grad, torch.full_like(x, 1 / 4))  # noqa: PT018 (one fact)
    assert resnet.BasicBlock(16, 16).shortcut(x) is x


@pytest.mark.parametrize("name", ["resnet20", "vgg16"])
def test_initialisation_depends_on_the_generator_alone(name: str) -> None:
    torch.manual_seed(1)
    one = initialised(name)
    torch.manual_seed(2)
    two = archs.build(name, 10).to(memory_format=torch.channels_last)
    with torch.no_grad():
        two(images())  # fills the statistics of BatchNorm
    before = torch.get_rng_state()
    archs.initialise(two, torch.Generator().manual_seed(0))
    assert torch.equal(before, torch.get_rng_state())
    assert equal(one.state_dict(), two.state_dict())
    assert not equal(one.state_dict(), initialised(name, seed=1).state_dict())


@pytest.mark.parametrize("name", ["resnet20", "preresnet164", "vgg16"])
def test_initial_values_follow_the_original_code(name: str) -> None:
    for module in initialised(name).modules():
        if isinstance(module, nn.Conv2d):
            std = (2 / (module.kernel_size[0] ** 2 * module.out_channels)) ** 0.5
            noise = 5 / module.weight.numel() ** 0.5  # five standard errors, generously
            assert module.weight.std().item() == pytest.approx(std, rel=noise)
            assert abs(module.weight.mean().item()) < noise * std
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert (module.weight == (0.5 if name == "vgg16" and isinstance(module, nn.BatchNorm2d) else 1)).all()
            assert not module.bias.any()
        elif isinstance(module, nn.Linear):
            std = 0.01 if name == "vgg16" else (3 * module.in_features) ** -0.5
            assert module.weight.std().item() == pytest.approx(std, rel=0.1)
            assert not module.bias.any()


def test_what_is_unknown_is_refused() -> None:
    with pytest.raises(TypeError, match="no rule to initialise 0, a PReLU"):
        archs.initialise(nn.Sequential(nn.PReLU()), torch.Generator())
    with pytest.raises(UserError, match=r"^arch must be one of .*, got 'resnet65'; did you mean resnet56"):
        archs.build("resnet65", 10)
    number: Any
    for number in (1, -3, 10.0, "10", True, None):
        with pytest.raises(UserError, match=r"^num_classes must be an integer of at least 2, got"):
            archs.build("resnet20", number)
