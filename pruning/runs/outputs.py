"""What a network says to each test image: kept beside the result, for all that is asked of it later."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pruning.files import DamagedError, read_bytes, write_whole

if TYPE_CHECKING:
    from torch import Tensor

NAME = "logits.safetensors"


@dataclass(frozen=True)
class Outputs:
    """For N test images, in the order of the dataset, and C classes."""

    logits: "Tensor"  # float16, N x C
    labels: "Tensor"  # int16, N
    predicted: "Tensor"  # int16, N: the class of the largest logit before it was rounded
    classes: tuple[str, ...]

    @classmethod
    def of(cls, logits: "Tensor", labels: "Tensor", classes: tuple[str, ...]) -> "Outputs":
        """Take float32 logits and integer labels, on any device."""
        import torch

        largest = torch.finfo(torch.float16).max
        half = logits.clamp(-largest, largest).to("cpu", torch.float16)
        return cls(half, labels.to("cpu", torch.int16), logits.argmax(1).to("cpu", torch.int16), classes)

    def save(self, folder: Path, check: Callable[[], None] = lambda: None) -> None:
        """Write them whole or not at all, `check` as in `write_whole`; equal ones give equal bytes."""
        import safetensors.torch

        tensors = {"logits": self.logits, "labels": self.labels, "predicted": self.predicted}
        metadata = {"pruning": json.dumps({"classes": self.classes})}
        write_whole(folder / NAME, safetensors.torch.save(tensors, metadata), check)

    @classmethod
    def load(cls, folder: Path) -> "Outputs | None":
        """Read those of a run's directory; None if it has none, DamagedError if they are not what was written."""
        import safetensors.torch
        import torch

        path = folder / NAME
        try:
            packed = read_bytes(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DamagedError(path, str(error.strerror)) from None
        try:
            tensors = safetensors.torch.load(packed)
            about = json.loads(packed[8 : 8 + int.from_bytes(packed[:8], "little")])["__metadata__"]["pruning"]
            found = cls(tensors["logits"], tensors["labels"], tensors["predicted"], tuple(json.loads(about)["classes"]))
            n, c = found.logits.shape
            kinds = (found.logits.dtype, found.labels.dtype, found.predicted.dtype)
            if kinds != (torch.float16, torch.int16, torch.int16) or c != len(found.classes) or not n:
                raise ValueError("other types")
            for each in (found.labels, found.predicted):
                if each.shape != (n,) or int(each.min()) < 0 or int(each.max()) >= c:
                    raise ValueError("other classes")
            if not bool(found.logits.isfinite().all()):
                raise ValueError("not finite")
        except Exception as error:  # whatever it is, it is not what was written
            raise DamagedError(path, f"it holds no logits ({type(error).__name__})") from None
        return found
