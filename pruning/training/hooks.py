"""What a training tells and asks while it runs, and what it needs to continue."""

from typing import Any

from torch import nn

from pruning.errors import UserError

ResumeState = dict[str, Any]
"""All that a training needs to continue to the same bits: tensors and numbers, for `torch.load(weights_only=True)`."""


class StateError(UserError):
    """What was saved to continue from is not the state of this training."""


class TrainingHooks:
    """What a training reports and asks while it runs; this one keeps nothing and never stops."""

    def state(self) -> ResumeState | None:
        """Return what was saved last, if this step was interrupted."""
        return None

    def length(self, epochs: int) -> None:
        """Take the number of epochs that the training makes in all, those of an earlier attempt included."""

    def after(self, epoch: int, model: nn.Module) -> None:
        """Look at `model` after that many epochs: before the state of that moment is saved, and on going on from it."""

    def save(self, state: ResumeState) -> None:
        """Keep `state` instead of what was saved before: a copy, since the training goes on with these tensors."""

    def settle(self) -> None:
        """Return when what was given to `save` is kept."""

    def row(self, metrics: dict[str, float]) -> None:
        """Take the figures of one epoch."""

    def note(self, text: str) -> None:
        """Say something that people should know."""

    def batch(self, images: int) -> None:
        """Count one dispatched batch of `images` images."""

    def stopping(self) -> bool:
        """Return whether to stop at the next batch."""
        return False
