import hydra.utils
import pytest
import torch
from torch import nn

from pruning import archs
from pruning.archs import resnet
from pruning.errors import UserError

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
NAMES = sorted(COUNTS)


def initialised(name: str, num_classes: int = 10, seed: int = 0) -> nn.Module:
    model = archs.build(name, num_classes)
    archs.initialise(model, torch.Generator().manual_seed(seed))
    return model


def images(count: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def same(a: nn.Module, b: nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def test_every_network_has_a_count():
    assert sorted(archs.BUILDERS) == NAMES


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("which, num_classes", [(0, 10), (1, 100)])
def test_parameter_counts(name, which, num_classes):
    with torch.device("meta"):
        model = archs.build(name, num_classes)
    assert sum(p.numel() for p in model.parameters()) == COUNTS[name][which]


@pytest.mark.parametrize(
    "name, first, some",
    [
        (
            "resnet20",
            ["conv1.weight", "bn1.weight", "bn1.bias", "layer1.0.conv1.weight", "layer1.0.bn1.weight"],
            ["layer2.0.conv2.weight", "layer3.2.bn2.running_var", "fc.weight", "fc.bias"],
        ),
        (
            "preresnet110",
            ["conv1.weight", "layer1.0.bn1.weight", "layer1.0.bn1.bias", "layer1.0.conv1.weight"],
            ["layer2.0.downsample.0.weight", "layer3.17.conv2.weight", "bn.weight", "fc.weight"],
        ),
        (
            "preresnet164",
            ["conv1.weight", "layer1.0.bn1.weight", "layer1.0.bn1.bias", "layer1.0.conv1.weight"],
            ["layer1.0.downsample.0.weight", "layer3.17.conv3.weight", "layer3.17.bn3.bias", "bn.weight"],
        ),
        (
            "vgg16",
            ["feature.0.weight", "feature.1.weight", "feature.1.bias", "feature.3.weight"],
            ["feature.7.weight", "feature.40.weight", "classifier.1.running_mean", "classifier.3.weight"],
        ),
        ("vgg19", ["feature.0.weight"], ["feature.49.weight", "classifier.3.bias"]),
        (
            "wrn_16_8",
            ["conv1.weight", "block1.layer.0.bn1.weight", "block1.layer.0.bn1.bias", "block1.layer.0.conv1.weight"],
            ["block1.layer.0.convShortcut.weight", "block3.layer.1.conv2.weight", "bn1.weight", "fc.bias"],
        ),
    ],
)  # fmt: skip
def test_parameter_names_are_those_of_the_original_code(name, first, some):
    with torch.device("meta"):
        model = archs.build(name, 10)
    assert [key for key, _ in model.named_parameters()][: len(first)] == first
    assert set(some) <= model.state_dict().keys()


def test_only_shortcuts_that_change_shape_have_parameters():
    with torch.device("meta"):
        models = {name: archs.build(name, 10) for name in NAMES}
    found = {
        name: [key for key in model.state_dict() if "downsample" in key or "Shortcut" in key]
        for name, model in models.items()
    }
    assert found.pop("preresnet110") == [f"layer{i}.0.downsample.0.weight" for i in (2, 3)]
    assert found.pop("preresnet164") == [f"layer{i}.0.downsample.0.weight" for i in (1, 2, 3)]
    assert found.pop("wrn_16_8") == [f"block{i}.layer.0.convShortcut.weight" for i in (1, 2, 3)]
    assert not any(found.values())


@pytest.mark.parametrize("num_classes", [10, 100])
@pytest.mark.parametrize("name", NAMES)
def test_shapes_gradients_memory_format_and_bf16(name, num_classes):
    model = initialised(name, num_classes).to(memory_format=torch.channels_last)
    broken = []

    def check(layer: str):
        def hook(module, inputs, output):
            if output.dim() == 4 and not output.is_contiguous(memory_format=torch.channels_last):
                broken.append(layer)

        return hook

    for layer, module in model.named_modules():
        module.register_forward_hook(check(layer))
    x = images().contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16, enabled=num_classes == 100):
        logits = model(x)
    assert logits.shape == (2, num_classes)
    assert logits.dtype == (torch.bfloat16 if num_classes == 100 else torch.float32)
    assert broken == []
    nn.functional.cross_entropy(logits.float(), torch.tensor([0, 1])).backward()
    for key, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), key
        if key != "classifier.0.bias":  # the BatchNorm after it takes any constant away: its gradient is 0
            assert p.grad.any(), key


@pytest.mark.parametrize("name", ["resnet20", "vgg16", "wrn_16_8"])
def test_memory_format_does_not_change_the_function(name):
    model = initialised(name).eval()
    with torch.no_grad():
        expected = model(images())
        actual = model.to(memory_format=torch.channels_last)(images())
    assert torch.allclose(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet20", "preresnet110", "vgg16"])
def test_other_image_sizes(name):
    with torch.no_grad():
        assert archs.build(name, 3).eval()(torch.zeros(1, 3, 48, 64)).shape == (1, 3)


def test_shortcut_averages_pads_and_passes_gradients():
    block = resnet.BasicBlock(16, 32, stride=2)
    nn.init.zeros_(block.conv2.weight)  # nothing but the shortcut is left
    x = torch.rand(2, 16, 8, 8, requires_grad=True)
    out = block(x)
    squares = (x[..., ::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, ::2] + x[..., 1::2, 1::2]) / 4
    assert torch.allclose(out, torch.cat([squares, torch.zeros_like(squares)], dim=1))
    out.sum().backward()
    assert torch.allclose(x.grad, torch.full_like(x, 1 / 4))


def test_same_shape_shortcut_is_the_input():
    x = torch.rand(2, 16, 8, 8)
    assert resnet.BasicBlock(16, 16).shortcut(x) is x


@pytest.mark.parametrize("name", ["resnet20", "preresnet110", "preresnet164", "vgg16", "wrn_16_8"])
def test_initialisation_depends_on_the_generator_alone(name):
    torch.manual_seed(1)
    one = initialised(name)
    torch.manual_seed(2)
    two = archs.build(name, 10).to(memory_format=torch.channels_last)
    with torch.no_grad():
        two(images())  # fills the statistics of BatchNorm
    before = torch.get_rng_state()
    archs.initialise(two, torch.Generator().manual_seed(0))
    assert torch.equal(before, torch.get_rng_state())
    assert same(one, two)
    assert not same(one, initialised(name, seed=1))


@pytest.mark.parametrize("name", ["resnet20", "preresnet164", "vgg16", "wrn_16_8"])
def test_initial_values_follow_the_original_code(name):
    for module in initialised(name).modules():
        if isinstance(module, nn.Conv2d):
            std = (2 / (module.kernel_size[0] ** 2 * module.out_channels)) ** 0.5
            noise = 5 / module.weight.numel() ** 0.5  # five standard errors, generously
            assert module.weight.std().item() == pytest.approx(std, rel=noise)
            assert abs(module.weight.mean().item()) < noise * std
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == (0.5 if name == "vgg16" else 1)).all() and not module.bias.any()
        elif isinstance(module, nn.BatchNorm1d):
            assert (module.weight == 1).all() and not module.bias.any()
        elif isinstance(module, nn.Linear):
            std = 0.01 if name == "vgg16" else (3 * module.in_features) ** -0.5
            assert module.weight.std().item() == pytest.approx(std, rel=0.1)
            assert not module.bias.any()


def test_initialise_refuses_what_it_has_no_rule_for():
    with pytest.raises(TypeError, match="no rule to initialise 0, a PReLU"):
        archs.initialise(nn.Sequential(nn.PReLU()), torch.Generator())


def test_hydra_builds_a_network():
    model = hydra.utils.instantiate({"_target_": "pruning.archs.build", "name": "resnet56"}, num_classes=10)
    assert isinstance(model, resnet.ResNet) and model.fc.out_features == 10


def test_unknown_name_is_refused_with_a_guess():
    with pytest.raises(
        UserError, match=r"arch must be one of preresnet110, .*, got 'resnet65'; did you mean resnet56\?"
    ):
        archs.build("resnet65", 10)


@pytest.mark.parametrize("num_classes", [1, 0, -3, 10.0, "10", True, None])
def test_num_classes_is_checked(num_classes):
    with pytest.raises(UserError, match=r"num_classes must be an integer of at least 2, got"):
        archs.build("resnet20", num_classes)
