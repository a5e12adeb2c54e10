"""`stage=status`: what is done, running, waiting and failed."""

from typing import Any

from pruning.cluster.queue import look
from pruning.commands.ways import Ways
from pruning.env import Env
from pruning.pipeline.status import status_text


def run(config: dict[str, Any], _ways: Ways) -> None:
    """Print what is done, running, waiting and failed."""
    runs = Env.from_config(config.get("env")).runs
    print(status_text(runs, look(runs)))
