"""stage=export and stage=check, as processes and in this one."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import pruning
from pruning import commands
from pruning.commands import Ways, check, export
from pruning.env import Env
from pruning.errors import UserError
from pruning.pipeline import plan
from pruning.runs import Run
from tests.commands import Command
from tests.export.made import checkpoint
from tests.helpers import by_stage, stamps
from tests.pipeline.made import composed

HERE = Ways(None, lambda name: composed(f"dataset={name}"))


@pytest.fixture
def config(tmp_path: Path) -> Any:
    def make(*overrides: str) -> dict[str, Any]:
        return composed(f"env.runs={tmp_path / 'runs'}", f"env.data={tmp_path / 'data'}", "env.device=cpu", *overrides)

    return make


def test_the_result_that_is_asked_for_is_made_exported_and_checked(command: Command, small: tuple[str, ...]) -> None:
    done = command("stage=export", *small)
    assert (done.returncode, done.stderr) == (0, "")
    run = by_stage(command.runs)["finetune"]
    files = {path.name: path.stat().st_size for path in (run.path / "export").iterdir()}
    assert sorted(files) == ["README.md", "model.onnx", "model.sparse.safetensors"]
    for name, size in files.items():
        assert re.search(rf"{name} +{size:,} +[0-9.]+%$", done.stdout, re.M), done.stdout
    assert "  sparse: " in done.stdout
    original, exported = pruning.load(run.path), pruning.load(run.path / "export" / "model.sparse.safetensors")
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(exported.classifier()(images), original.classifier()(images))
    card_says_what_is_known(run)

    before = stamps(command.runs)
    checked = command("stage=check", f"resume={run.path.name.rpartition('-')[2]}")
    assert (checked.returncode, checked.stderr) == (0, "")
    kept = {layer: int((~keep).sum()) for layer, keep in original.mask.items()}
    assert f"the mask agrees: all {sum(kept.values()):,} weights that it prunes are zero" in checked.stdout
    assert all(re.search(rf"^{layer} .* {zeros:,} ", checked.stdout, re.M) for layer, zeros in kept.items())
    assert stamps(command.runs) == before


def card_says_what_is_known(run: Run) -> None:
    result, card = run.finished(), (run.path / "export" / "README.md").read_text()
    assert result
    assert card.startswith("# resnet20: 80.00% of its prunable weights are zero\n")
    step = run.step()
    assert step
    for words in (
        "3 classes of `image_folder`",
        "RGB images of 8x8",
        f"| top-1, test set, last epoch | {result['test_top1']:.2f} % |",
        f"| top-5, test set, last epoch | {result['test_top5']:.2f} % |",
        "| seeds | 1 (seed 0); the spread over seeds is not in these figures |",
        "| sparsity (of the prunable weights) | 0.8000 |",
        "| compression (prunable weights / kept) | 5.00x |",
        f"| multiply-adds left, for one image | {result['macs_nonzero']:,} of {result['macs']:,} |",
        "| theoretical speed-up (multiply-adds) |",
        "The speed-up is theoretical",
        f"| finetune | `{step.id}` |",
        f"| prune | `{step.parent}` |",
        "prune.percent=0.8",
        "finetune.epochs=2",
        'logits = pruning.load("model.sparse.safetensors").classifier()(images)',
        'onnxruntime.InferenceSession("model.onnx")',
    ):
        assert words in card, words
    assert str(run.path.parent) not in card


def test_a_file_of_the_original_code_is_exported_without_figures_that_nobody_has(config: Any, tmp_path: Path) -> None:
    path, made = tmp_path / "old.pth.tar", checkpoint()
    torch.save({"state_dict": {f"module.{name}": weight for name, weight in made.weights.items()}}, path)
    export.run(config("stage=export", f"resume={path}", "export.formats=[sparse,card]"), HERE)
    out = tmp_path / "runs" / "export" / "old"
    assert sorted(file.name for file in out.iterdir()) == ["README.md", "model.sparse.safetensors"]
    card = (out / "README.md").read_text()
    assert "| top-1, top-5 | not measured here: the file came without a record |" in card
    assert "How it was made" not in card
    assert "Exported from `old.pth.tar`" in card
    assert pruning.load(out / "model.sparse.safetensors").arch == "resnet20"
    export.run(config("stage=export", f"resume={path}", "export.formats=[card]", f"export.out={tmp_path / 'o'}"), HERE)
    assert [file.name for file in (tmp_path / "o").iterdir()] == ["README.md"]


REFUSED = [
    ("stage=check", "resume is not set: stage=check needs resume=FILE"),
    ("stage=check resume=nothing", "resume=nothing: no such file, and no run has that id"),
    (f"stage=check resume={'n' * 300}", f"resume={'n' * 300}: File name too long"),
    ("stage=check resume=''", "resume must be a path or the id of a run, got ''"),
    ("stage=export resume=nothing", "resume=nothing: no such file, and no run has that id"),
    ("stage=export", "finetune-digits-resnet20-p0.8-s0-"),
    ("stage=export prune.percent=30", "prune.percent must be in [0, 1), got 30; did you mean 0.3?"),
    ("stage=export export.formats=[]", "export.formats must name at least one of sparse, onnx, card"),
    ("stage=export export.formats=[onxx]", "export.formats must be one of card, onnx, sparse, got 'onxx'"),
    ("stage=export export.size=[8]", "export.size must be height and width like [32,32], got [8]"),
    ("stage=export +export.file=x", "a setting of export must be one of formats, out, size, got 'file'"),
    ("stage=export export=null", "export must be a group of settings, got None"),
]


@pytest.mark.parametrize(("overrides", "start"), REFUSED, ids=[case[0] for case in REFUSED])
def test_what_is_wrong_is_one_line(config: Any, overrides: str, start: str) -> None:
    found = config(*overrides.split()) if "export=null" not in overrides else config("stage=export") | {"export": None}
    command = commands.find(found)
    assert command
    with pytest.raises(UserError) as caught:
        command(found, HERE)
    assert str(caught.value).startswith(start)
    assert "\n" not in str(caught.value)


def test_wrong_settings_of_export_are_refused_for_every_result(config: Any) -> None:
    found = config("export.formats=[onxx]")
    with pytest.raises(UserError, match=r"^export\.formats must be one of"):
        plan.chain(found, Env.from_config(found["env"]), lambda wanted: "fp32")


def test_a_run_that_is_not_done_is_refused(config: Any, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "train-digits-r0123456789ab"
    run.mkdir(parents=True)
    (run / "config.json").write_text("{}")
    for resume in (run, "r0123456789ab"):
        with pytest.raises(UserError, match=r"^resume=.*: that run is not done yet"):
            export.run(config("stage=export", f"resume={resume}"), HERE)


def test_a_mask_that_does_not_agree_fails_after_the_table(
    config: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = checkpoint()
    made.weights["conv1.weight"].fill_(1)
    made.save(tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=r"weights that the mask prunes are not zero, the first in 'conv1.weight'$"):
        check.run(config("stage=check", f"resume={tmp_path / 'x.safetensors'}"), HERE)
    assert "the mask does not agree: " in capsys.readouterr().out
