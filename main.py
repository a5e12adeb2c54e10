"""Compose the config, plan the steps that the wanted result needs, make those that are missing, show the table.

python main.py stage=finetune dataset=cifar10 arch=vgg16 prune.percent=0.8
python main.py -m prune.percent=0.3,0.5,0.8 seed=0,1,2
"""

import sys
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.pruning_hydra.messages import one_line


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(composed: DictConfig) -> None:
    with one_line():
        config: Any = OmegaConf.to_container(composed, resolve=True)
        hydra_config = HydraConfig.get()
        if config["stage"]["name"] == "status":
            show_status(config)
        elif hydra_config.runtime.choices["hydra/launcher"] != "local":  # one cell, as a sweep of one
            hydra.utils.instantiate(hydra_config.launcher).start([config])
        else:
            make(config)


def make(config: dict[str, Any]) -> None:
    """Make the result that `config` asks for, in this process."""
    from pruning import execute, hosts, plan, report, tracking  # torch is slow to import, and --help needs none of it
    from pruning.runs import Env, Run
    from pruning.training import Interrupted

    env = Env.of(config["env"])
    hosts.prepare(env.threads)
    reporter, agent = tracking.reporter(), tracking.adopt_agent()
    steps = plan.chain(config, env, progress=reporter.work)
    missing = plan.missing(steps, env.runs)
    for step in steps:
        if step not in missing:
            reporter.note(f"{step.name}: done before, reused")
    with execute.Stop() as stop:
        try:
            results = [execute.make(step, env, reporter, stop) for step in steps]
        except Interrupted:
            reporter.note("stopped, with the state saved; the same command continues")
            sys.exit(128 + (stop.signal or 0))
    tracking.answer_agent(agent, results[-1])
    places = {step.id: str(Run.of(step, env.runs).path) for step in steps}
    reporter.note("\n" + report.text(report.table(results, places)))
    reporter.note(f"\npicture: {Run.of(steps[-1], env.runs).path / 'picture.png'}")


def show_status(config: dict[str, Any]) -> None:
    """Print what is done, running, waiting and failed."""
    from pruning.runs import Env
    from pruning.watch import status_text

    print(status_text(Env.of(config["env"]).runs))


if __name__ == "__main__":
    with one_line():
        main()
