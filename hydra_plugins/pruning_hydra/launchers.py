"""The launchers: each turns all jobs of a sweep into one graph of steps, and has it made in its own way."""

import time
from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from hydra_plugins.pruning_hydra.compose import configs

# torch is imported inside the functions: Hydra imports this file to list the plugins, also for --help


class GraphLauncher(Launcher):
    """What all launchers share; its settings are those of its YAML."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        self.start(configs(self.context, self.config, job_overrides))
        return []  # the results lie on the disk

    def start(self, cells: Sequence[dict[str, Any]]) -> None:
        """Look at every cell before anything runs, then run the sweep."""
        from pruning.sweeps import Sweep

        self.run(Sweep.of(cells, self.precision))

    def precision(self, wanted: str, device: str) -> str:
        """Return what "auto" means where the steps will run."""
        from pruning import hosts

        return hosts.precision(wanted, hosts.device(device))

    def run(self, sweep: Any) -> None:
        raise NotImplementedError


class PlanLauncher(GraphLauncher):
    """Prints what would run; runs nothing and writes nothing."""

    def run(self, sweep: Any) -> None:
        from pruning import forecast

        print(forecast.plan_text(sweep))


class LocalLauncher(GraphLauncher):
    """This machine: a pool of workers."""

    def run(self, sweep: Any) -> None:
        from pruning import forecast, pool
        from pruning.watch import Watch, sweep_text

        places = pool.slots(sweep.env, self.settings["per_device"], self.settings["workers"])
        sweep.record()
        print("\n".join(forecast.totals(sweep)), flush=True)
        began, watch = time.monotonic(), Watch(sweep)
        try:
            board = pool.run(sweep, places, watch.look)
        finally:
            watch.close()
        print(sweep_text(sweep, time.monotonic() - began))
        board.raise_for_failures()


class SlurmLauncher(GraphLauncher):
    """A SLURM cluster: submits and returns, or waits with `hydra.launcher.wait=true`."""

    def precision(self, wanted: str, device: str) -> str:
        # the login node rarely has the GPU that the tasks will have; those since 2020 compute in bf16
        on_gpu = self.settings["gpus_per_task"] and device == "auto" and wanted == "auto"
        return "bf16" if on_gpu else super().precision(wanted, device)

    def run(self, sweep: Any) -> None:
        from hydra_plugins.pruning_hydra import _slurm  # so named, Hydra does not import it to list the plugins

        _slurm.launch(sweep, self.settings)
