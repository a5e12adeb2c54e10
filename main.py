"""Compose the config, plan the steps that the wanted result needs, make those that are missing, show the table.

python main.py stage=finetune dataset=cifar10 arch=vgg16 prune.percent=0.8
python main.py -m prune.percent=0.3,0.5,0.8 seed=0,1,2
"""

import sys
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.pruning_hydra.compose import check_groups, opened, with_dataset
from hydra_plugins.pruning_hydra.help import show
from hydra_plugins.pruning_hydra.messages import one_line
from pruning import commands
from pruning.runs import recall
from pruning.tracking import adopt_agent, answer_agent, forgive, load_torch, reporter


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(composed: DictConfig) -> None:
    """Make what the composed config asks for, here or through its launcher, or run a command that looks."""
    with one_line():
        config: Any = OmegaConf.to_container(composed, resolve=True)
        launcher = hydra.utils.instantiate(HydraConfig.get().launcher)
        if command := commands.find(config):
            command(config, commands.Ways(make if launcher.single_in_process else None, with_dataset))
        elif launcher.single_in_process and (text := recall.said([config], launcher.node)):
            reporter().note(text)
        else:
            load_torch()
            if launcher.single_in_process:
                launcher.settings()  # refused also where they are not needed
                make(config, launcher.node)
            else:  # one cell, as a sweep of one
                launcher.start([config])


def make(config: dict[str, Any], *settings: Any) -> None:
    """Make the result that `config` asks for, in this process; `settings` are those of the launcher."""
    from pruning.env import Env
    from pruning.errors import Interrupted
    from pruning.execution.execute import run_step
    from pruning.execution.stop import StopRequest
    from pruning.pipeline import plan, redo
    from pruning.runs import Run
    from pruning.runs.table import outcome

    env = Env.from_config(config.get("env"))
    env.prepare()
    shown, agent = reporter(), adopt_agent()
    whole = plan.chain(config, env, progress=shown.work)
    redo.announce(config.get("redo"), whole, env.runs)
    steps, spared = plan.needed(whole, env.runs)
    for line in spared:
        shown.note(line)
    with StopRequest() as stop:
        try:
            results = [run_step(step, env, shown, stop) for step in steps]
        except Interrupted:
            shown.note("stopped, with the state saved; the same command continues")
            sys.exit(128 + (stop.signal or 0))
    answer_agent(agent, dict(results[-1]), env.runs / ".wandb")
    runs = [Run.for_step(step, env.runs) for step in steps]
    shown.note(text := outcome(results, runs))
    recall.keep([*plan.needed(whole, env.runs)[1], text], steps, [runs[-1].picture], [config], *settings)


if __name__ == "__main__":
    forgive()
    with one_line():
        if {"--help", "-h"} & {*sys.argv[1:]}:
            show(sys.argv[1:])
            sys.exit()
        sys.argv[1:] = opened(sys.argv[1:])
        check_groups(sys.argv[1:])
        main()
