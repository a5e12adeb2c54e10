"""W&B's graph of who came from whom: each run uses the model of its parent."""

from contextlib import suppress
from typing import Any

PATIENCE = 5  # seconds for each question to the server; without an answer the graph lacks an arrow, and no more


def artifact_of(id: str) -> str:
    """Return the name of the artifact that holds the model of a step."""
    return f"model-{id}"


def use_parent(run: Any, parent: str | None) -> None:
    """Say that the online `run` started from the model of the step `parent`, if W&B has that."""
    if not parent or not parent.startswith("r"):  # a root, or a file
        return
    import wandb

    with suppress(Exception):  # made offline, elsewhere, or the server has gone
        place = f"{run.entity}/{run.project}"
        run.use_artifact(wandb.Api(timeout=PATIENCE).artifact(f"{place}/{artifact_of(parent)}:latest"))
