"""Under a W&B sweep agent: the agent's run stands for the cell, beside the runs of the cell's steps."""

import os
import time
from pathlib import Path
from typing import Any

from pruning.errors import printable
from pruning.tracking.guard import BestEffort, first_line, let_go
from pruning.tracking.wandb import WandbTracker

NAMES = ("WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH")


def under_agent() -> bool:
    """Whether W&B's agent has given the command, and waits for an answer."""
    return NAMES[0] in os.environ


def adopt_agent() -> dict[str, str]:
    """Take the agent's variables out of the environment, so that the steps have their own runs; {} without an agent."""
    if not under_agent():
        return {}
    os.environ.setdefault("WANDB_RUN_GROUP", os.environ["WANDB_SWEEP_ID"])
    return {name: os.environ.pop(name) for name in NAMES if name in os.environ}


def answer_agent(agent: dict[str, str], result: dict[str, Any], home: Path) -> None:
    """Give the agent the result of its cell, in the run that it has reserved; W&B's files go into `home`."""
    if not agent or time.monotonic() < WandbTracker.quiet_until:  # of a server that does not answer a line was printed
        return
    try:
        _answer(agent, result, home)
    except (Exception, SystemExit) as error:  # the result is on the disk; an agent that is not told of it harms nobody
        if not BestEffort.said:
            print(f"W&B's agent could not be answered: {printable(first_line(error))}", flush=True)
        let_go()


def _answer(agent: dict[str, str], result: dict[str, Any], home: Path) -> None:
    import wandb

    settings = wandb.Settings(
        sweep_id=agent["WANDB_SWEEP_ID"],
        run_id=agent.get("WANDB_RUN_ID"),
        sweep_param_path=agent.get("WANDB_SWEEP_PARAM_PATH"),
        silent=True,
    )
    home.mkdir(parents=True, exist_ok=True)
    with wandb.init(job_type="cell", settings=settings, dir=os.environ.get("WANDB_DIR", home)) as run:
        run.config.update({"step": result["id"]})
        run.summary.update({name: value for name, value in result.items() if value is not None})
