"""What a person sees of a run: the terminal, and W&B; the only importers of rich and wandb."""

from pruning.tracking.agent import adopt_agent, answer_agent, under_agent
from pruning.tracking.console import Reporter, load_torch, reporter
from pruning.tracking.group import GroupReport, log_report
from pruning.tracking.guard import Tracker
from pruning.tracking.live import LiveTable, live_table
from pruning.tracking.sync import Left, Sync, WandbError
from pruning.tracking.terminal import forgive
from pruning.tracking.wandb import tracker

__all__ = [
    "GroupReport",
    "Left",
    "LiveTable",
    "Reporter",
    "Sync",
    "Tracker",
    "WandbError",
    "adopt_agent",
    "answer_agent",
    "forgive",
    "live_table",
    "load_torch",
    "log_report",
    "reporter",
    "tracker",
    "under_agent",
]
