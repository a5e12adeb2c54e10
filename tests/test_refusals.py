"""Whatever a setting is set to, a command is accepted, or refused before any work in a line that names the setting."""

import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pruning.execution import execute
from pruning.launch import local
from tests.commands import ROOT
from tests.helpers import slow
from tests.pipeline.made import composed

Ask = Callable[..., str | None]
MODES = ((), ("-m",), ("hydra/launcher=plan",))
WRONG = ("null", "5", "-1", "foo", "[1,2]", "{a: 1}", "''", "1e30", "nan", "true", str(10**30), "[]", "DELETED")


class Accepted(BaseException):
    """Work would begin now."""


@pytest.fixture
def ask(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Ask:
    """`ask("seed=-1")` returns the one line of a refusal, or None; nothing may be made in either case."""

    def accept(*_: Any) -> None:
        raise Accepted

    monkeypatch.setattr(execute, "run_step", accept)
    monkeypatch.setattr(local, "launch", accept)

    def run(*overrides: str) -> str | None:
        sys.modules.pop("hydra_plugins.pruning_hydra.messages", None)
        places = [f"env.runs={tmp_path / 'runs'}", f"env.data={tmp_path / 'data'}", "env.device=cpu"]
        monkeypatch.setattr(sys, "argv", [str(ROOT / "main.py"), *places, *overrides])
        status: Any = 0
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as ended:
            status = ended.code
        except Accepted:
            pass
        errors = capfd.readouterr().err
        assert not (tmp_path / "runs").exists(), overrides
        if not status:
            return None
        assert status == 1, f"{overrides}: {errors}"
        assert errors.startswith("error: "), errors
        assert errors.count("\n") == 1, errors
        assert "HYDRA_FULL_ERROR" not in errors, f"{overrides}: {errors}"
        return errors.removeprefix("error: ").rstrip()

    return run


def keys(node: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from keys(value, f"{prefix}{key}.")


LAUNCHER = ("hydra.launcher", "hydra.launcher.workers", "hydra.launcher.per_device", "hydra.sweeper.max_batch_size")
KEYS = (*keys(composed()), *LAUNCHER)


def table(key: str, ask: Ask, wrong: tuple[str, ...], modes: tuple[tuple[str, ...], ...]) -> None:
    for value in wrong:
        for mode in modes:
            override = f"~{key}" if value == "DELETED" else f"{key}={value}"
            line = ask(override, *mode)
            names = {key, key.partition(".")[0], key.rpartition(".")[2]}
            assert line is None or any(name in line for name in names), f"{override}: {line}"


@slow
@pytest.mark.parametrize(("i", "key"), list(enumerate(KEYS)))
def test_each_wrong_value_of_each_setting(ask: Ask, i: int, key: str) -> None:
    """Three values for each setting, other ones for the next: all of them, in all modes, for half an hour less."""
    for j in (0, 4, 8):
        table(key, ask, (WRONG[(i + j) % len(WRONG)],), (MODES[(i + j) % len(MODES)],))


@pytest.mark.parametrize("key", [key for key in KEYS if "." not in key or key in LAUNCHER[:2]])
def test_groups_and_plain_settings_that_are_null_numbers_or_deleted(ask: Ask, key: str) -> None:
    for i, value in enumerate(("null", "5", "DELETED")):
        table(key, ask, (value,), (MODES[i % len(MODES)],))


@pytest.mark.parametrize(
    ("overrides", "start"),
    [
        ("arch=vgg16 train.batch_size=1", "train.batch_size=1 leaves a batch of a single image of the 1437"),
        ("arch=vgg16 train.batch_size=2", "train.batch_size=2 leaves a batch of a single image of the 1437"),
        ("arch=vgg16 finetune.batch_size=2 -m", "finetune.batch_size=2 leaves a batch of a single image"),
        ("dataset.pad=32", "dataset.pad=32 must be less than the height and the width of the images, 32 and 32"),
        ("dataset.val_fraction=0.999", "dataset.val_fraction=0.999 holds out all 142 training images of class 0"),
        ("dataset.val_fraction=0.0001", "dataset.val_fraction=0.0001 holds out no image at all"),
        ("resume=", "resume must be a path or the id of a run, got ''"),
        ("resume=.", "resume=.*: this directory holds no model.safetensors"),
        ("resume=/dev/null", "resume=/dev/null: is no regular file"),
        ("resume='~nobody-here/x'", "resume=~nobody-here/x: "),
        ("env.runs='~nobody-here/x'", "env.runs=~nobody-here/x: "),
        ("env.runs=", "env.runs must be a path, got ''"),
        ("hydra.sweeper.max_batch_size=3 -m", "hydra.sweeper.max_batch_size must be null, got 3"),
        ("arch=glob(foo*) -m", "the sweep has no cells"),
        ("arch=5,vgg16 -m", "arch must be the name of one of its options, got 5"),
        ("+sweep.name=a/b -m", "sweep.name must be a word"),
    ],
)
def test_what_can_be_known_is_refused_before_work(ask: Ask, overrides: str, start: str) -> None:
    line = ask(*overrides.split())
    assert line is not None
    first, _, last = start.partition(".*")
    assert line.startswith(first), line
    assert last in line, line


def pictures(root: Path, size: int, classes: str = "ab", n: int = 2) -> Path:
    for part in ("train", "test"):
        for name in classes:
            (root / part / name).mkdir(parents=True, exist_ok=True)
            for i in range(n):
                Image.new("RGB", (size, size), (40 * i, 9, 80)).save(root / part / name / f"{i}.png")
    return root


@pytest.mark.parametrize(("arch", "size"), [("resnet20", s) for s in (30, 33, 2, 1)] + [("vgg16", 8), ("vgg16", 15)])
def test_sizes_that_the_network_cannot_take(ask: Ask, tmp_path: Path, arch: str, size: int) -> None:
    root = pictures(tmp_path / "p", size)
    for mode in MODES:
        line = ask("dataset=image_folder", f"dataset.root={root}", f"arch={arch}", "dataset.pad=0", *mode)
        assert (line or "").startswith(f"arch={arch} cannot take the images of dataset=image_folder, which are {size}x")
    assert ask("dataset=image_folder", f"dataset.root={pictures(tmp_path / 'q', 16)}", f"arch={arch}") is None


def test_folders_that_cannot_be_trained_on(ask: Ask, tmp_path: Path) -> None:
    def refusal(root: Path, *more: str) -> str:
        return ask("dataset=image_folder", f"dataset.root={root}", *more, "hydra/launcher=plan") or ""

    assert "has one class, 'a'" in refusal(pictures(tmp_path / "one", 16, "a"))
    three = pictures(tmp_path / "three", 16, n=1)
    Image.new("RGB", (16, 16)).save(three / "train" / "a" / "more.png")
    assert refusal(three, "arch=vgg16", "train.batch_size=2").startswith(
        "train.batch_size=2 leaves a batch of a single"
    )
    Image.new("RGB", (20, 16)).save(three / "test" / "b" / "wide.png")
    assert "all images must have one size" in refusal(three)
    huge = pictures(tmp_path / "huge", 16)
    Image.new("1", (11000, 11000)).save(huge / "train" / "b" / "huge.png")
    assert "huge.png is not a readable image: Image size (121000000 pixels)" in refusal(huge)
    (loop := huge / "train" / "b" / "huge.png").unlink()
    loop.symlink_to(loop)
    assert "huge.png must be an image file: " in refusal(huge)
