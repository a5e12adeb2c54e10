"""The sweeper: Hydra's grid, handed to the launcher whole."""

from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from hydra_plugins.pruning_hydra.compose import opened
from pruning.errors import UserError


class GridSweeper(BasicSweeper):
    """Every combination of `key=a,b,c`, like Hydra's own sweeper, but all in one call.

    Hydra's composes each job once more only to see whether it can be composed, and writes a file before anything
    is known to be right; the launchers here look at every job before they start the first.
    """

    def sweep(self, arguments: list[str]) -> Any:
        if self.max_batch_size is not None:
            raise UserError(
                f"hydra.sweeper.max_batch_size must be null, got {self.max_batch_size!r}: a sweep is one graph here; "
                "hydra.launcher.workers or array_parallelism limits what runs at once"
            )
        if self.params is not None and not hasattr(self.params, "items"):
            raise UserError(f"hydra.sweeper.params must be a group like {{seed: '0,1'}}, got {self.params!r}")
        assert self.hydra_context is not None
        assert self.launcher is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides(opened([*self._parse_config(), *arguments]))
        (jobs,) = self.split_arguments(overrides, max_batch_size=None)
        return self.launcher.launch(jobs, initial_job_idx=0)
