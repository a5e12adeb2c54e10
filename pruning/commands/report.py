"""`stage=report`: how far networks can be pruned, from all that is done."""

from typing import Any

from pruning.commands.ways import Ways
from pruning.env import Env
from pruning.summary import report_text


def run(config: dict[str, Any], ways: Ways) -> None:
    """Write what came out, and print the answer."""
    print(report_text(config.get("report"), Env.from_config(config.get("env")).runs, ways.compose))
