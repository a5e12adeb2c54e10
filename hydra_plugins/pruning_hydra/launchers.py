"""The launchers as Hydra sees them: each turns all jobs of a sweep into one graph of steps and hands it on."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.pruning_hydra.compose import configs, with_dataset
from pruning.runs import recall
from pruning.tracking import load_torch

# pruning.launch is imported inside the functions: Hydra imports this file to list the plugins, also for --help


class GraphLauncher(Launcher):
    """What all launchers share; its settings are those of its YAML."""

    single_in_process = False  # whether main.py makes a single cell itself

    def __init__(self, **settings: Any) -> None:
        self.node = {k: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for k, v in settings.items()}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        cells = configs(self.context, self.config, job_overrides)
        if text := self.said(cells):
            print(text, flush=True)
        else:
            load_torch()
            self.start(cells)
        return []  # the results are on the disk

    def said(self, _cells: Sequence[dict[str, Any]]) -> str | None:
        """Return what a sweep that was finished says again, if that is known."""
        return None

    @abstractmethod
    def settings(self) -> Any:
        """Return the node hydra.launcher, checked; UserError if anything is wrong."""

    @abstractmethod
    def start(self, cells: Sequence[dict[str, Any]]) -> None:
        """Read the settings and every cell before anything runs, then run the sweep."""

    def sweep(self, cells: Sequence[dict[str, Any]], resolve: Any = None) -> Any:
        from pruning.pipeline.sweep import Sweep
        from pruning.tracking import reporter

        return Sweep.from_cells(cells, resolve, reporter().work)


def reporting(cells: Sequence[dict[str, Any]]) -> Callable[[Any], tuple[str, Path | None]]:
    """Return what reports on a sweep that has ended, as its cells' node `report` says, and returns text and page."""
    from pruning.errors import UserError
    from pruning.summary import ReportSettings, report_after

    node = cells[0].get("report") if cells else None
    ReportSettings.read(node, "report")  # refused now, and not when all is made
    if any(cell.get("report") != node for cell in cells):
        raise UserError("report must be the same in all cells of a sweep")

    def report(sweep: Any) -> tuple[str, Path | None]:
        text, page = report_after(sweep, node, with_dataset)
        print(text, flush=True)
        return text, page

    return report


class PlanLauncher(GraphLauncher):
    """Prints what would run; runs nothing and writes nothing."""

    def settings(self) -> Any:
        from pruning.settings import Settings

        return Settings.read(self.node, "hydra.launcher")

    def start(self, cells: Sequence[dict[str, Any]]) -> None:
        from pruning.pipeline import forecast

        self.settings()
        print(forecast.plan_text(self.sweep(cells)))


class LocalLauncher(GraphLauncher):
    """This machine: a pool of workers."""

    single_in_process = True

    def settings(self) -> Any:
        from pruning.launch.local import LocalSettings

        return LocalSettings.read(self.node, "hydra.launcher")

    def start(self, cells: Sequence[dict[str, Any]]) -> None:
        from pruning.launch import local

        settings, sweep = self.settings(), self.sweep(cells)
        report = reporting(cells)

        def ended(_: Any) -> None:
            text, page = report(sweep)
            if page and not sweep.missing():
                recall.keep([*local.again(sweep), text], sweep.steps, [page], cells, self.node, "sweep")

        local.launch(sweep, settings, ended)

    def said(self, cells: Sequence[dict[str, Any]]) -> str | None:
        return recall.said(cells, self.node, "sweep")


class SlurmLauncher(GraphLauncher):
    """A SLURM cluster: submits and returns, or waits with `hydra.launcher.wait=true`."""

    def settings(self) -> Any:
        from pruning.launch.slurm import SlurmSettings

        return SlurmSettings.read(self.node, "hydra.launcher")

    def start(self, cells: Sequence[dict[str, Any]]) -> None:
        from pruning.launch import slurm

        settings = self.settings()
        sweep = self.sweep(cells, lambda wanted, env: slurm.resolve_precision(wanted, env, settings))
        slurm.launch(sweep, settings, reporting(cells))
