"""Networks by their function: what is built, from which random numbers, told apart by what, refused when."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import pruning
from pruning import archs, masks, rng
from pruning.checkpoints import Checkpoint, snapshot
from pruning.errors import UserError
from pruning.export import load, load_as
from pruning.masks import cost, prunable
from pruning.masks.effective import on_a_path
from pruning.modules import load_states, states
from tests.networks.odd import Attention, Odd

ODD = Path(__file__).parents[1] / "networks" / "odd.py"
RESNET = {"_target_": "torchvision.models.resnet18", "name": "resnet20"}


def odd(function: str = "Odd", **arguments: Any) -> archs.Foreign:
    found = archs.read({"_target_": function, "file": str(ODD), **arguments})
    assert isinstance(found, archs.Foreign)
    return found


def fresh(arch: archs.Arch, seed: int = 0) -> nn.Module:
    return archs.fresh(arch, 10, rng.generator(seed, "init"))


def made(arch: archs.Arch, percent: float = 0.5, layers: str = "conv") -> Checkpoint:
    model = fresh(arch)
    mask = masks.prune(model, percent, layers=layers)
    normalisation = {"mean": [0.5] * 3, "std": [0.25] * 3}
    return Checkpoint(masks.masked(snapshot(model), mask), mask, arch, 10, normalisation)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_name_left_over_from_ours_is_not_the_name_of_anothers() -> None:
    arch = archs.read(RESNET)
    assert (str(arch), archs.spec_of(arch)) == (
        "resnet18",
        {"name": "resnet18", "target": "torchvision.models.resnet18"},
    )
    assert str(archs.read({**RESNET, "name": "mine"})) == "mine"
    assert [*archs.code_of(arch).values()] == [f"torchvision {__import__('torchvision').__version__.partition('+')[0]}"]
    assert archs.read({"name": "resnet20", "_target_": "pruning.archs.build"}) == "resnet20"


def test_the_seed_decides_the_weights_and_torch_s_own_state_stays() -> None:
    before = torch.random.get_rng_state()
    one, again, other = (states(fresh(odd(), seed)) for seed in (0, 0, 1))
    assert same(one, again)
    assert not torch.equal(one["stem.weight"], other["stem.weight"])
    assert torch.equal(before, torch.random.get_rng_state())


def test_arguments_reach_the_function() -> None:
    assert fresh(odd(width=4)).get_parameter("stem.weight").shape[0] == 4
    assert archs.spec_of(odd(width=4)) == {"name": "Odd", "target": "odd.Odd", "arguments": {"width": 4}}


def test_a_module_on_the_path_is_found_and_so_is_one_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = archs.read({"_target_": "tests.networks.odd.Odd"})
    assert isinstance(found, archs.Foreign)
    assert found.place == str(ODD.parents[2])
    shutil.copy(ODD, tmp_path / "odd_elsewhere.py")
    monkeypatch.chdir(tmp_path)
    here = archs.read({"_target_": "odd_elsewhere.Odd"})
    assert isinstance(here, archs.Foreign)
    assert here.place == str(tmp_path)
    assert {*archs.code_of(here)} == {"odd_elsewhere"}


def test_editing_the_source_is_another_network_and_where_it_is_decides_nothing(tmp_path: Path) -> None:
    code = []
    for number, text in enumerate(["", "", "# edited\n"]):
        (file := tmp_path / str(number) / "odd.py").parent.mkdir()
        file.write_text(ODD.read_text() + text)
        arch = archs.read({"_target_": "odd.Odd", "file": str(file)})
        code.append((archs.spec_of(arch), archs.code_of(arch)))
    assert code[0] == code[1]
    assert code[0][0] == code[2][0]
    assert code[0][1] != code[2][1]


def test_a_wrapper_is_its_own_source_too(tmp_path: Path) -> None:
    file = tmp_path / "wrapped.py"
    code = []
    for width in (4, 8):
        text = f"net = partial(resnet18, width_per_group={width})\n"
        file.write_text(f"from functools import partial\nfrom torchvision.models import resnet18\n{text}")
        code.append(archs.code_of(archs.read({"_target_": "net", "file": str(file)})))
    assert code[0] != code[1]


@pytest.mark.parametrize(
    ("node", "error"),
    [
        ({"_target_": "odd.Odd2", "file": str(ODD)}, "has no function or class Odd2"),
        ({"_target_": "nowhere.Net"}, "arch._target_=nowhere.Net cannot be imported (ModuleNotFoundError"),
        ({"_target_": "Net"}, "arch._target_ must be like package.module.function"),
        ({"_target_": "a b.c"}, "arch._target_ must be like package.module.function"),
        ({"_target_": 5}, "arch._target_ must be a word, got 5"),
        ({"_target_": "Odd", "file": "no/odd.py"}, "arch.file=no/odd.py: no such file"),
        ({"_target_": "Odd", "file": "tests"}, "arch.file=tests: it must be a file PATH.py"),
        ({"_target_": "Odd", "file": str(ODD), "name": "a/b"}, "arch.name must be a word"),
        ({"_target_": "torch.nn.Linear", "x": {"_target_": "a.b"}}, "arch.x: objects within arguments"),
        ({"name": "resnet20", "width": 2}, "a setting of arch must be one of"),
        ({"name": "resnet21"}, "arch must be one of"),
        ({"name": "resnet20", "file": str(ODD)}, "give arch._target_=NAME too, the function or class in it"),
        ({"width": 2}, "arch must be a group of settings with a name"),
        (None, "arch must be a group of settings with a name"),
        ("resnet20", "arch must be a group of settings with a name"),
    ],
)
def test_what_names_no_network_is_refused(node: Any, error: str) -> None:
    with pytest.raises(UserError) as caught:
        archs.read(node)
    assert error in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("function", "arguments", "error"),
    [
        ("without_classes", {}, "has no parameter num_classes"),
        ("no_network", {}, "returns a int, no torch.nn.Module"),
        ("lazy", {}, "has lazy layers"),
        ("fails", {}, "cannot be built with num_classes=10: RuntimeError: no network for 10 classes today"),
        ("mlp", {"wide": 1}, "unexpected keyword argument 'wide'"),
    ],
)
def test_what_makes_no_network_is_refused(function: str, arguments: dict[str, Any], error: str) -> None:
    with pytest.raises(UserError) as caught:
        archs.build(odd(function, **arguments), 10)
    assert error in str(caught.value)


def test_what_a_network_cannot_take_is_said() -> None:
    assert archs.problem(odd(), 10, (64, 48), 2) == ""
    assert "shapes cannot be multiplied" in archs.problem(odd("mlp"), 10, (64, 64), 2)
    assert archs.problem(odd("pair"), 10, (32, 32), 2) == "it returns a tuple, no tensor of logits"
    assert "[2, 7] for 2 images" in archs.problem(odd("mlp", num_classes=7), 10, (32, 32), 2)


def test_a_new_head_is_for_the_classes() -> None:
    for arch, weight in ((odd("without_classes", reset_head=True), "3.weight"), (odd(reset_head=True), "fc.weight")):
        assert len(fresh(arch).get_parameter(weight)) == 10
        assert archs.spec_of(arch)["reset_head"] is True


def test_a_shared_weight_is_prunable_counted_and_stored_once() -> None:
    model = Odd(10)
    assert [name for name in prunable(model) if "weight" in name] == ["stem.weight", "first.weight", "up.weight"]
    assert "second.weight" not in states(model)
    counted = cost(model, {}, (3, 32, 32))
    assert counted["params"] == sum(p.numel() for p in model.parameters())
    uses = {"stem": 16 * 16, "first": 2 * 16 * 16, "up": 16 * 16, "fc": 1}
    assert counted["macs"] == sum(model.get_parameter(f"{k}.weight").numel() * n for k, n in uses.items())
    other = Odd(10)
    load_states(other, states(model))
    assert same(states(model), states(other))
    assert other.first.weight is other.second.weight


def test_attention_is_counted_by_token() -> None:
    model = Attention(10)
    assert prunable(model, "linear") == ["attention.in_proj_weight", "attention.out_proj.weight", "fc.weight"]
    # 4 patches of 16 x 16 x 3 to 8; queries, keys, values and the output of 4 tokens; the mean to 10 classes
    assert cost(model, {})["macs"] == 4 * 768 * 8 + 4 * (3 * 64 + 64) + 80


@pytest.mark.parametrize("kind", [Odd, Attention])
def test_what_is_on_no_path_decides_nothing(kind: type[nn.Module]) -> None:
    """In GroupNorm of two groups a constant shares statistics, so whole groups are cut off here."""
    torch.manual_seed(0)
    model = kind(10).eval()
    with torch.no_grad():
        for name, value in states(model).items():
            if name.endswith("bias"):
                value.zero_()
    names = prunable(model, "conv+linear")
    mask = {name: torch.ones_like(model.get_parameter(name), dtype=torch.bool) for name in names}
    assert all(bool(used.all()) for used in on_a_path(model, mask).values())
    mask[names[0]][:4] = False  # the first channels of the stem
    if kind is Odd:
        mask["first.weight"][4:] = False
    weights = masks.masked(states(model), mask)
    load_states(model, weights)
    used = on_a_path(model, mask)
    images = torch.rand(4, 3, 32, 32)
    before = model(images).detach()
    dead = {name: keep & ~used[name] for name, keep in mask.items()}
    if kind is Odd:
        assert all(bool(dead[name].any()) for name in ("first.weight", "up.weight", "fc.weight"))
    with torch.no_grad():
        for name, some in dead.items():
            model.get_parameter(name)[some] = 3.0
    assert torch.allclose(model(images), before, atol=1e-6)


@pytest.mark.parametrize("arch", [odd(width=4), odd("Attention"), archs.read(RESNET)], ids=str)
def test_a_checkpoint_and_its_exports_load_by_themselves(arch: archs.Foreign, tmp_path: Path) -> None:
    checkpoint = made(arch, layers="conv+linear")
    checkpoint.save(tmp_path / "model.safetensors")
    pruning.save_sparse(checkpoint, tmp_path / "sparse")
    images = torch.rand(2, 3, 32, 32)
    for file in ("model.safetensors", "sparse"):
        found = load(tmp_path / file)
        assert (str(found.arch), archs.spec_of(found.arch)) == (arch.name, arch.spec)
        assert same(found.weights, checkpoint.weights)
        assert same(found.mask, checkpoint.mask)
        assert torch.equal(found.classifier()(images), checkpoint.classifier()(images))
        assert load_as(tmp_path / file, arch, 10).arch == arch


def test_a_checkpoint_of_a_source_that_changed_is_refused_unless_the_network_is_given(tmp_path: Path) -> None:
    shutil.copy(ODD, file := tmp_path / "own.py")
    node = {"_target_": "Odd", "file": str(file)}
    made(archs.read(node)).save(tmp_path / "m")
    assert str(load(tmp_path / "m").arch) == "Odd"
    file.write_text(file.read_text() + "# edited\n")
    with pytest.raises(UserError, match=r"the source of own\.Odd has changed since"):
        load(tmp_path / "m")
    assert load(tmp_path / "m", arch=archs.read(node)).network()
    file.unlink()
    with pytest.raises(UserError, match=r"arch\._target_=own\.Odd cannot be imported"):
        load(tmp_path / "m")


@pytest.mark.parametrize(
    "change", [{"target": "os.system"}, {"target": 5}, {"target": "a;b"}, {"name": "../x"}, {"code": 1}]
)
def test_metadata_that_name_no_network_are_refused(change: dict[str, Any], tmp_path: Path) -> None:
    about = made(odd()).about
    about["network"] |= change
    safetensors.torch.save_file(made(odd()).weights, tmp_path / "m", {"pruning": json.dumps(about)})
    with pytest.raises(UserError) as caught:
        load(tmp_path / "m")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "net.backbone."])
def test_a_state_dict_is_taken_under_any_prefix_and_with_another_head(prefix: str, tmp_path: Path) -> None:
    arch, weights = odd(), snapshot(archs.fresh(odd(), 7, rng.generator(5, "init")))
    torch.save({"state_dict": {prefix + name: tensor for name, tensor in weights.items()}}, tmp_path / "x.pt")
    found = load_as(tmp_path / "x.pt", arch, 7)
    assert same(found.weights, weights)
    with pytest.raises(UserError, match=r"fc\.weight is \[7, 8\], not \[10, 8\]"):
        load_as(tmp_path / "x.pt", arch, 10)
    renewed = load_as(tmp_path / "x.pt", odd(reset_head=True), 10)
    assert renewed.weights["fc.weight"].shape == (10, 8)
    assert all(torch.equal(renewed.weights[name], w) for name, w in weights.items() if not name.startswith("fc."))


def test_a_new_head_on_one_of_ours(tmp_path: Path) -> None:
    model = archs.fresh("resnet20", 100, rng.generator(0, "init"))
    mask = masks.prune(model, 0.5)
    Checkpoint(masks.masked(snapshot(model), mask), mask, "resnet20", 100, {}).save(tmp_path / "m")
    arch = archs.read({"name": "resnet20", "reset_head": True})
    found = load_as(tmp_path / "m", arch, 10)
    assert found.weights["fc.weight"].shape == (10, 64)
    assert same(found.mask, mask)


def test_a_function_that_takes_weights_for_its_own_classes_is_not_told_of_others() -> None:
    model = fresh(odd("with_weights", weights="SOME", reset_head=True))
    assert bool((model.get_parameter("1.weight") == 0.25).all())
    assert model.get_parameter("3.weight").shape == (10, 16)
    with pytest.raises(UserError, match="ValueError: with weights there are 5 classes"):
        fresh(odd("with_weights", weights="SOME"))
