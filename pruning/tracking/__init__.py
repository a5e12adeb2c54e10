"""What a person sees of a run: the terminal, and the mirror of the local record on W&B."""

from pruning.tracking.console import Reporter, reporter
from pruning.tracking.mirror import Mirror, mirror

__all__ = ["Mirror", "Reporter", "mirror", "reporter"]
