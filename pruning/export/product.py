"""`stage=export`: one network, as every file that was asked for."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch

from pruning.data import Progress
from pruning.errors import UserError
from pruning.export.card import CARD, Product, card
from pruning.export.onnx import ONNX, save_onnx, wanted
from pruning.export.sparse import SPARSE, save_sparse
from pruning.files import write_whole
from pruning.settings import Settings, setting

FORMATS = {"sparse": SPARSE, "onnx": ONNX, "card": CARD}


@dataclass(frozen=True, kw_only=True)
class ExportSettings(Settings):
    """Which files, where, and for images of which size."""

    out: Path | None = None
    formats: tuple[str, ...] = setting(tuple(FORMATS), among=tuple(FORMATS))
    size: tuple[int, ...] | None = setting(None, least=1, most=4096)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.formats:
            raise UserError(f"formats must name at least one of {', '.join(FORMATS)}", "formats")
        if self.size is not None and len(self.size) != 2:
            raise UserError(f"size must be height and width like [32,32], got {[*self.size]}", "size")

    def check_installed(self) -> None:
        """Raise a UserError that says what to install, before any work."""
        if "onnx" in self.formats:
            wanted("onnx")
            wanted("onnxruntime")


def export(product: Product, out: Path, settings: ExportSettings, progress: Progress) -> tuple[dict[str, int], int]:
    """Write the files into `out`; return their sizes in bytes, and that of the dense float32 weights."""
    checkpoint, files, notes = product.checkpoint, {}, {}
    dense = len(safetensors.torch.save({name: weight.contiguous() for name, weight in checkpoint.weights.items()}))
    if "sparse" in settings.formats:
        save_sparse(checkpoint, out / SPARSE, progress)
        notes[SPARSE] = "lossless"
    if "onnx" in settings.formats:
        difference = save_onnx(checkpoint, out / ONNX, product.size, progress)
        notes[ONNX] = f"logits within {difference:.1g} of PyTorch's on random images"
    for name in (SPARSE, ONNX):
        if name in notes:
            files[name] = (out / name).stat().st_size
    if "card" in settings.formats:
        text = card(replace(product, notes=notes), files, dense).encode()
        write_whole(out / CARD, text)
        files[CARD] = len(text)
    return files, dense


def rows(files: dict[str, int], dense: int, out: Path) -> list[tuple[Any, ...]]:
    """Return `file bytes share` of each file, for a table."""
    return [(str(out / name), f"{size:,}", f"{size / dense:.1%}") for name, size in files.items()]
