"""Stages that make no step: they look at what there is. main.py asks here before it plans anything."""

from collections.abc import Callable
from typing import Any

from hydra_plugins.pruning_hydra.compose import with_dataset

# pruning is imported inside the functions: torch is slow to import, and --help needs none of it


def status(config: dict[str, Any]) -> None:
    """Print what is done, running, waiting and failed."""
    from pruning.cluster.queue import look
    from pruning.env import Env
    from pruning.pipeline.watch import status_text

    runs = Env.from_config(config.get("env")).runs
    print(status_text(runs, look(runs)))


def report(config: dict[str, Any]) -> None:
    """Write what came out, and print the answer."""
    from pruning.env import Env
    from pruning.summary import report_text

    print(report_text(config.get("report"), Env.from_config(config.get("env")).runs, with_dataset))


def sync(config: dict[str, Any]) -> None:
    """Send to W&B what is not there yet."""
    from pruning.env import Env
    from pruning.execution.sync import sync
    from pruning.summary import sync_reports
    from pruning.tracking import reporter

    env, note = Env.from_config(config.get("env")), reporter().note
    sync_reports(sync(env, note), env.runs, note)


LOOKS: dict[str, Callable[[dict[str, Any]], None]] = {"status": status, "report": report, "sync": sync}
"""By the name of the stage."""
