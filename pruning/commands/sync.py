"""`stage=sync`: send to W&B what is done here and not there."""

from typing import Any

from pruning.commands.ways import Ways
from pruning.env import Env
from pruning.execution.sync import sync
from pruning.summary import sync_reports
from pruning.tracking import reporter


def run(config: dict[str, Any], _ways: Ways) -> None:
    """Send what is not there yet, parents first, then the reports of sweeps."""
    env, note = Env.from_config(config.get("env")), reporter().note
    sync_reports(sync(env, note), env.runs, note)
