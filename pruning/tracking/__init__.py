"""What a person sees of a run: the terminal, and the mirror of the local record on W&B."""

from pruning.tracking.agent import adopt_agent, answer_agent
from pruning.tracking.console import Reporter, reporter
from pruning.tracking.live import LiveTable, live_table
from pruning.tracking.mirror import Mirror, mirror

__all__ = ["LiveTable", "Mirror", "Reporter", "adopt_agent", "answer_agent", "live_table", "mirror", "reporter"]
