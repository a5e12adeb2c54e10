"""W&B mirrors the local record: one W&B run per step, under the step's id.

Online, rows are handed to the client as they come (it sends them every 15 seconds or so); after a kill, the rows that
the server does not have yet are sent from metrics.jsonl, so no epoch is missing or doubled. Offline, the run is written
once, when the step is done: an offline run cannot be continued. It has only what no online attempt has handed over, so
that `wandb sync` doubles nothing; so is a result kept that a server did not take. Whatever goes wrong here is printed
once and never stops a run.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pruning.tracking.guard import BestEffort, Tracker, first_line, forget_offline, in_one_line, keep_in, let_go
from pruning.tracking.lineage import artifact_of, use_parent

ALIASES = {"dryrun": "offline", "run": "online"}  # W&B's older words
LAYERS = "layers"  # of a result, which W&B has as a table
QUIET = 600  # seconds without another try after the server did not answer
INIT_TIMEOUT = 20  # seconds; without a network W&B would wait for 100
FINISH_TIMEOUT = 60  # seconds; a server that has gone would be waited for without end


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
        self.rows, self.note = rows, note
        self.run: Any = None
        if mode == "online" and time.monotonic() < WandbTracker.quiet_until:
            self.mode = "offline"
        elif mode == "online":
            try:
                self.start()
            except (Exception, SystemExit) as error:
                self.go_offline(error)

    def go_offline(self, error: BaseException) -> None:
        """The server has failed: keep what it is to be given on the disk, say so, and leave it in peace for a while."""
        let_go()  # the service that failed still holds the id
        self.mode, self.run = "offline", None
        WandbTracker.quiet_until = time.monotonic() + QUIET
        self.note(f"W&B does not answer ({first_line(error)}); this step is kept for `wandb sync` in {self.home}")

    def start(self) -> None:
        import wandb

        if self.mode == "offline":  # an attempt that was killed while it wrote this
            forget_offline(self.home, self.about["id"])
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
                finish_timeout_raises=True,
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
        try:
            self.deliver(result, table, picture, model)
        except (Exception, SystemExit) as error:
            if self.mode != "online":
                raise
            self.go_offline(error)
            self.deliver(result, table, picture, model)

    def deliver(self, result: dict[str, Any], table: list[dict[str, Any]], picture: Path | None, model: Path) -> None:
        """Hand over what the step ended with, and wait until it has arrived."""
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


def mode_of(settings: dict[str, Any]) -> str:
    """Return online, offline or disabled: `env.wandb.mode`, else WANDB_MODE, else online where a key is set up."""
    os.environ.setdefault("WANDB_SILENT", "true")  # what `init` is told to be comes too late for what it says first
    mode = settings.get("mode") or os.environ.get("WANDB_MODE")
    if mode:
        return ALIASES.get(str(mode), str(mode))
    os.environ.pop("WANDB_MODE", None)  # empty, which W&B takes for a mode that it does not know
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
        with in_one_line(note):
            if (mode := mode_of(settings)) != "disabled":
                keep_in(home)
                import wandb

                wandb.setup()  # reads its files
        return Tracker() if mode == "disabled" else WandbTracker(mode, settings, about, list(rows), home, note)

    return BestEffort(make, note)
