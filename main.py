"""Compose the config, plan the steps that the wanted result needs, make those that are missing, show the table.

python main.py stage=finetune dataset=cifar10 arch=vgg16 prune.percent=0.8
python main.py -m prune.percent=0.3,0.5,0.8 seed=0,1,2
"""

from typing import Any, cast

import hydra
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.pruning_hydra.messages import one_line


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config: DictConfig) -> None:
    with one_line():
        run(cast("dict[str, Any]", OmegaConf.to_container(config, resolve=True)))


def run(config: dict[str, Any]) -> None:
    """Make the result that `config` asks for."""
    from pruning import execute, hosts, plan, report, tracking  # torch is slow to import, and --help needs none of it
    from pruning.runs import Env, Run

    env = Env.of(config["env"])
    hosts.prepare(env.threads)
    reporter = tracking.reporter()
    steps = plan.chain(config, env)
    missing = plan.missing(steps, env.runs)
    for step in steps:
        if step not in missing:
            reporter.note(f"{step.name}: done before, reused")
    with execute.Stop() as stop:
        results = [execute.make(step, env, reporter, stop) for step in steps]
    places = {step.id: str(Run.of(step, env.runs).path) for step in steps}
    reporter.note("\n" + report.text(report.table(results, places)))
    reporter.note(f"\npicture: {Run.of(steps[-1], env.runs).path / 'picture.png'}")


if __name__ == "__main__":
    with one_line():
        main()
