"""The model card: what the network is, how it came about, how good it is, how it is loaded; only what is known."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pruning.checkpoints import Checkpoint
from pruning.errors import printable
from pruning.export.onnx import ONNX
from pruning.export.sparse import SPARSE
from pruning.files import DamagedError
from pruning.masks import cost, sparsity
from pruning.runs import Result, Run, is_file, lineage
from pruning.runs.chain import own_settings

CARD = "README.md"


@dataclass(frozen=True)
class Product:
    """What is exported: a checkpoint, the run that made it or None, where it comes from, the size of its images."""

    checkpoint: Checkpoint
    source: str  # a name without a directory
    run: Run | None = None
    size: tuple[int, int] = (32, 32)
    notes: Mapping[str, str] = field(default_factory=dict)  # by file: what was found when it was written

    @property
    def result(self) -> Result | None:
        return self.run.result() if self.run else None


def card(product: Product, files: Mapping[str, int], dense: int) -> str:
    """Return the card as Markdown; `files` are the bytes of those beside it, `dense` those of the float32 weights."""
    parts = [_about(product), _figures(product), _lineage(product.run), _files(product, files, dense), _limits(product)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _about(product: Product) -> str:
    made, result, (height, width) = product.checkpoint, product.result, product.size
    pruned = f"{sparsity(made.mask):.2%} of its prunable weights are zero" if made.mask else "not pruned"
    data = f" of `{result['dataset']}`" if result else ""
    constants = made.normalisation
    inside = f"mean {_numbers(constants['mean'])}, std {_numbers(constants['std'])}" if constants else "none"
    return (
        f"# {made.arch}: {pruned}\n\n"
        f"An image classifier for {made.num_classes} classes{data}. It takes RGB images of {height}x{width}, "
        f"N x 3 x H x W, pixels scaled to 0..1, and gives one logit for each class. Normalisation after scaling: "
        f"{inside}; `{ONNX}` and `.classifier()` have it inside. Exported from `{printable(product.source)}`."
    )


def _numbers(values: Any) -> str:
    return ", ".join(f"{value:.4f}" for value in values)


def _figures(product: Product) -> str:
    made, result = product.checkpoint, product.result
    counted = cost(made.network(), made.mask, (3, *product.size))
    density = counted["prunable_nonzero"] / counted["prunable"] if counted["prunable"] else 1.0
    rows = []
    if result:
        rows += [("top-1, test set, last epoch", f"{result['test_top1']:.2f} %")]
        rows += [("top-5, test set, last epoch", f"{result['test_top5']:.2f} %")]
        rows += [("top-1 right after pruning", f"{result['before']['test_top1']:.2f} %")] if result["before"] else []
        rows += [("seeds", f"1 (seed {result['seed']}); the spread over seeds is not in these figures")]
    else:
        rows += [("top-1, top-5", "not measured here: the file came without a record")]
    macs, left = counted["macs"], counted["macs_nonzero"]
    rows += [
        ("sparsity (of the prunable weights)", f"{1 - density:.4f}"),
        ("sparsity (of all parameters)", f"{1 - counted['params_nonzero'] / counted['params']:.4f}"),
        ("compression (prunable weights / kept)", f"{1 / density:.2f}x" if density else "all are pruned"),
        ("parameters left", f"{counted['params_nonzero']:,} of {counted['params']:,}"),
        ("multiply-adds left, for one image", f"{left:,} of {macs:,}"),
        ("theoretical speed-up (multiply-adds)", f"{macs / left:.2f}x" if left else "nothing is left"),
    ]
    return "## Figures\n\n" + _table(("", ""), rows)


def _table(titles: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    cells = [titles, tuple("---" for _ in titles), *rows]
    return "\n".join("| " + " | ".join(printable(cell).replace("|", "\\|") for cell in row) + " |" for row in cells)


def _lineage(run: Run | None) -> str:
    rows = []
    for ancestor in lineage(run) if run else []:
        try:
            step, result = ancestor.step(), ancestor.result()
        except DamagedError:
            continue
        if step is None:
            continue
        settings = own_settings(step)
        if step.parent and is_file(step.parent):
            settings["resume"] = f"{Path(settings['resume']).name} ({step.parent})"
        text = ", ".join(f"{key}={value}" for key, value in settings.items())
        rows.append((step.stage, f"`{step.id}`", text, f"{result['test_top1']:.2f} %" if result else ""))
    if not rows:
        return ""
    intro = "From the first step to the last; a setting that is not named has its neutral value."
    return f"## How it was made\n\n{intro}\n\n" + _table(("step", "id", "settings", "top-1"), rows)


def _files(product: Product, files: Mapping[str, int], dense: int) -> str:
    notes = product.notes
    rows = [(f"`{name}`", f"{size:,}", f"{size / dense:.1%}", notes.get(name, "")) for name, size in files.items()]
    parts = ["## Files", f"The dense float32 weights take {dense:,} bytes."]
    parts += [_table(("file", "bytes", "of dense", ""), rows)] if rows else []
    if load := next((name for name in (SPARSE, ONNX) if name in files), None):
        line = f'logits = pruning.load("{load}").classifier()(images)  # uint8, or floats in 0..1'
        parts += [f"```python\n{line}\n```"]
    if ONNX in files:
        line = f'onnxruntime.InferenceSession("{ONNX}").run(None, {{"images": images}})[0]  # float32 in 0..1'
        parts += [f"```python\nlogits = {line}\n```"]
    return "\n\n".join(parts)


def _limits(product: Product) -> str:
    lines = [
        "The speed-up is theoretical: it counts multiply-adds with weights that are not zero. Usual processors, GPUs "
        "and ONNX Runtime multiply by the zeros too, so the network is smaller to store, not faster to run, without "
        "kernels for unstructured sparsity.",
    ]
    if product.run:
        lines += ["The accuracies are those of the last epoch on the test set, not of the best one."]
    lines += ["Other images than those of the dataset it was trained on have not been tried."]
    return "## What to know\n\n" + "\n".join(f"- {line}" for line in lines)
