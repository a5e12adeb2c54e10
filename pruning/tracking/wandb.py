"""W&B mirrors the local record: one W&B run per step, under the step's id.

Online, rows are handed to the client as they come (it sends them every 15 seconds or so); after a kill, the rows that
the server does not have yet are sent from metrics.jsonl, so no epoch is missing or doubled. Offline, the run is written
once, when the step is done: an offline run cannot be continued. It has only what no online attempt has handed over, so
that `wandb sync` doubles nothing. Whatever goes wrong here is printed once and never stops a run.
"""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pruning.tracking.lineage import artifact_of, use_parent

ALIASES = {"dryrun": "offline", "run": "online"}  # W&B's older words
LAYERS = "layers"  # of a result, which W&B has as a table
QUIET = 600  # seconds without another try after the server did not answer
INIT_TIMEOUT = 20  # seconds; without a network W&B would wait for 100
FINISH_TIMEOUT = 60  # seconds; a server that has gone would be waited for without end


class Tracker:
    """Takes what a step reports, and sends it nowhere."""

    def row(self, metrics: dict[str, Any]) -> None:
        """Send the figures of one epoch."""

    def finish(self, result: dict[str, Any], table: list[dict[str, Any]], picture: Path | None, model: Path) -> None:
        """Send what the step ended with: its result, per-layer sparsity, picture and model."""

    def close(self) -> None:
        """The step ends without a result."""


class WandbTracker(Tracker):
    """One W&B run; `settings` is the node `env.wandb`, `rows` what metrics.jsonl holds already."""

    quiet_until = 0.0  # the steps of one process need not each find out that the server is gone

    def __init__(
        self,
        mode: str,
        settings: dict[str, Any],
        about: dict[str, Any],
        rows: list[dict[str, Any]],
        home: Path,
        note: Callable[[str], None],
    ) -> None:
        self.mode, self.settings, self.about, self.home = mode, settings, about, home
        self.rows = rows
        self.run: Any = None
        if mode == "online" and time.monotonic() < WandbTracker.quiet_until:
            self.mode = "offline"
        elif mode == "online":
            try:
                self.start()
            except (Exception, SystemExit) as error:
                import wandb

                wandb.teardown()  # the service that failed still holds the id
                self.mode = "offline"
                WandbTracker.quiet_until = time.monotonic() + QUIET
                note(f"W&B does not answer ({first_line(error)}); this step is kept for `wandb sync` in {home}")

    def start(self) -> None:
        import wandb

        self.home.mkdir(parents=True, exist_ok=True)
        for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR"):  # staged artifacts would fill the home directory
            os.environ.setdefault(name, str(self.home))
        if self.mode == "offline":  # an attempt that was killed while it wrote this
            for old in self.home.glob(f"wandb/offline-run-*-{self.about['id']}"):
                shutil.rmtree(old, ignore_errors=True)
        self.run = wandb.init(
            id=self.about["id"],
            name=self.about["name"],
            job_type=self.about["stage"],
            config=self.about["config"],
            group=self.settings.get("group"),
            project=self.settings.get("project") or "pruning",
            entity=self.settings.get("entity"),
            tags=self.settings.get("tags"),
            mode=self.mode,  # type: ignore[arg-type] # a str: one that W&B does not know ends the tracking, in its guard
            resume="allow",
            dir=self.home,
            settings=wandb.Settings(
                init_timeout=INIT_TIMEOUT,
                finish_timeout=FINISH_TIMEOUT,
                silent=True,
                x_transaction_log_flush_interval=1,
            ),
        )
        self.run.define_metric("epoch")
        self.run.define_metric("*", step_metric="epoch")
        known = self.handed_over() if self.mode == "offline" else self.run.summary.get("epoch", 0) or 0
        for row in self.rows:
            if row["epoch"] > known:
                self.log(row)

    def row(self, metrics: dict[str, Any]) -> None:
        if self.run:
            self.log(metrics)
        else:
            self.rows.append(metrics)

    def log(self, row: dict[str, Any]) -> None:
        if self.mode != "offline":  # before it is handed over: a row that is missing is better than one twice
            aside = self.sent.with_suffix(".aside")
            aside.write_text(str(row["epoch"]))
            aside.replace(self.sent)
        self.run.log(row)

    @property
    def sent(self) -> Path:
        """Says the last epoch that was given to a client with a server."""
        return self.home / f"{self.about['id']}.sent"

    def handed_over(self) -> int:
        """Return the last epoch that an online attempt has given to the client, 0 if there was none.

        Whether it has arrived cannot be known without the server. Offline it is left out, because `wandb sync` appends,
        and an epoch that is missing in W&B does less harm than one that stands there twice; metrics.jsonl has all. The
        folder of the online attempt, `run-*`, is not for `wandb sync`: what has arrived would be appended again.
        """
        try:
            return int(self.sent.read_text())
        except (OSError, ValueError):
            return 0

    def finish(self, result: dict[str, Any], table: list[dict[str, Any]], picture: Path | None, model: Path) -> None:
        if self.run is None:
            self.start()
        self.leave(result, table, picture, model)
        self.close(0)

    def leave(
        self, result: dict[str, Any], table: list[dict[str, Any]], picture: Path | None, model: Path | None
    ) -> None:
        """Send what the step ended with, as far as it is given."""
        import wandb

        self.run.summary.update({k: v for k, v in result.items() if v is not None and k != LAYERS})
        if table:
            self.run.log({LAYERS: wandb.Table(columns=list(table[0]), data=[list(row.values()) for row in table])})
        if picture:
            self.run.log({"picture": wandb.Image(str(picture))})
        if model:
            artifact = wandb.Artifact(artifact_of(self.about["id"]), type="model", metadata=result)
            artifact.add_file(str(model), policy="immutable", skip_cache=True)
            self.run.log_artifact(artifact)
            if self.mode == "online":
                use_parent(self.run, result["parent"])

    def close(self, exit_code: int = 1) -> None:
        if self.run:
            self.run.finish(exit_code=exit_code)
            self.run = None


class BestEffort(Tracker):
    """Another tracker, whose first error is printed in one line and ends the tracking, not the run."""

    def __init__(self, make: Callable[[], Tracker], note: Callable[[str], None]) -> None:
        self.note, self.inner = note, Tracker()
        self.guard(lambda: setattr(self, "inner", make()))

    def guard(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # whatever fails here must not fail the run
            self.inner = Tracker()
            self.note(f"W&B has failed, the local record goes on alone: {first_line(error)}")

    def row(self, metrics: dict[str, Any]) -> None:
        self.guard(lambda: self.inner.row(metrics))

    def finish(self, result: dict[str, Any], table: list[dict[str, Any]], picture: Path | None, model: Path) -> None:
        self.guard(lambda: self.inner.finish(result, table, picture, model))

    def close(self) -> None:
        self.guard(self.inner.close)


def first_line(error: BaseException) -> str:
    """Return the first line of what went wrong, at most 160 characters."""
    return next(iter(str(error).split("\n")), "").strip()[:160] or type(error).__name__


def mode_of(settings: dict[str, Any]) -> str:
    """Return online, offline or disabled: `env.wandb.mode`, else WANDB_MODE, else online where a key is set up."""
    mode = settings.get("mode") or os.environ.get("WANDB_MODE")
    if mode:
        return ALIASES.get(str(mode), str(mode))
    os.environ.pop("WANDB_MODE", None)  # empty, which W&B takes for a mode that it does not know
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    # verifying would ask the server, and raise where there is no network; `init` finds out and falls back
    return "online" if wandb.login(prompt=False, verify=False) else "offline"


def tracker(
    settings: dict[str, Any],
    about: dict[str, Any],
    rows: list[dict[str, Any]],
    home: Path,
    note: Callable[[str], None],
) -> Tracker:
    """Return the tracker of one step; `about` has id, name, stage, config."""

    def make() -> Tracker:
        mode = mode_of(settings)
        return Tracker() if mode == "disabled" else WandbTracker(mode, settings, about, list(rows), home, note)

    return BestEffort(make, note)
