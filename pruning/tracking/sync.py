"""Send to W&B what is done here and not there; the server is asked what it has, so that nothing doubles."""

import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pruning.errors import UserError, printable
from pruning.tracking.group import DIGEST, GroupReport, write_report
from pruning.tracking.guard import first_line, forget_offline, keep_in, let_go
from pruning.tracking.lineage import artifact_of
from pruning.tracking.wandb import WandbTracker

PATIENCE = 20  # seconds for each question to the server
ARRIVES = (0.0, 1.0, 3.0, 10.0)  # seconds to wait before each look at what was sent
ABSENT = re.compile("not find|not found|404", re.IGNORECASE)


class WandbError(UserError):
    """W&B cannot be reached, or has not taken what it was sent."""


@dataclass(frozen=True)
class Left:
    """What a step has left, as plain data; `table` is called only where it is wanted."""

    about: dict[str, Any]  # id, name, stage, config
    rows: list[dict[str, Any]]
    result: dict[str, Any]
    table: Callable[[], list[dict[str, Any]]]
    picture: Path | None
    model: Path
    group: str | None = None  # of a run that W&B does not know yet


@dataclass(frozen=True)
class Known:
    """What the server has of a step: the summary of its run, and the metadata of its model."""

    there: bool = False
    summary: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)

    def lacks(self, left: Left) -> list[str]:
        """Return what is to be sent: epochs, result, layers, picture, model."""
        sign = "model_sha256" if "model_sha256" in left.result else "seconds"  # of 0.1
        wanted = left.result[sign]
        found = [] if self.summary.get(sign) == wanted else ["result"]
        last = left.rows[-1]["epoch"] if left.rows else 0
        if last > (self.summary.get("epoch") or 0):
            found.insert(0, "epochs")
        if ("result" in found or "layers" not in self.summary) and left.result.get("level", 1) and left.table():
            found.append("layers")
        if ("result" in found or "picture" not in self.summary) and left.picture:
            found.append("picture")
        return found if self.model.get(sign) == wanted else [*found, "model"]


def failed(what: str, error: BaseException) -> WandbError:
    """Return the error that says so, with W&B's service ended: it may be waiting for the server still."""
    let_go()
    return WandbError(f"{what}: {printable(first_line(error))}")


class Late(WandbTracker):
    """One W&B run that is sent after its step was done; errors are raised."""

    def __init__(self, settings: dict[str, Any], left: Left, home: Path) -> None:
        self.mode, self.settings, self.about, self.home = "online", settings, left.about, home
        self.rows, self.run = left.rows, None
        self.start()


class Sync:
    """Asks and sends; `settings` is the node `env.wandb`, W&B's files go into `home`."""

    def __init__(self, settings: dict[str, Any], home: Path) -> None:
        self.settings, self.home = settings, home
        os.environ["WANDB_MODE"] = "online"  # whoever gives this command wants it, whatever the mode of runs is
        os.environ.setdefault("WANDB_SILENT", "true")
        keep_in(home)
        import wandb

        try:
            self.api: Any = wandb.Api(timeout=PATIENCE) if wandb.login(prompt=False, verify=False) else None
            entity = settings.get("entity") or (self.api and (self.api.settings["entity"] or self.api.default_entity))
        except (Exception, SystemExit) as error:
            raise failed("W&B cannot be reached", error) from None
        if not self.api:
            raise WandbError("there is no key for W&B: run `wandb login`, or set WANDB_API_KEY")
        self.place = f"{entity}/{settings.get('project') or 'pruning'}"

    def known(self, id: str) -> Known:
        """Return what the server has of a step."""
        self.api.flush()  # what it was told before
        run = self.ask(lambda: self.api.run(f"{self.place}/{id}"))
        if not run:
            return Known()
        model = self.ask(lambda: self.api.artifact(f"{self.place}/{artifact_of(id)}:latest"))
        return Known(True, dict(run.summary), dict(model.metadata) if model else {})

    def ask(self, question: Callable[[], Any]) -> Any:
        """Return the answer; None if there is no such thing."""
        try:
            return question()
        except Exception as error:
            if ABSENT.search(str(error)):
                return None
            raise

    def send(self, left: Left) -> list[str]:
        """Send what the server lacks of a step, and return what that was; WandbError if it does not arrive."""
        try:
            known = self.known(left.about["id"])
            if lacking := known.lacks(left):
                self.hand_over(left, lacking, known.there)
            forget_offline(self.home, left.about["id"])  # the server has it
            return lacking
        except UserError:  # of the table: the model is damaged
            raise
        except (Exception, SystemExit) as error:
            raise failed(f"W&B has failed at {left.about['name']}", error) from None

    def send_report(self, report: GroupReport, group: str) -> bool:
        """Send the report of a sweep unless W&B has it, and return whether it was sent."""
        try:
            run = self.ask(lambda: self.api.run(f"{self.place}/{report.id}"))
            lacking = not run or run.summary.get(DIGEST) != report.digest
            if lacking:
                write_report(
                    report, self.settings | {"group": self.settings.get("group") or group}, self.home, "online"
                )
            forget_offline(self.home, report.id)
            return lacking
        except (Exception, SystemExit) as error:
            raise failed(f"W&B has failed at the report of {report.title}", error) from None

    def hand_over(self, left: Left, lacking: Sequence[str], there: bool) -> None:
        """Send it, and look whether it arrives."""
        group = self.settings.get("group") or (None if there else left.group)
        tracker = Late(self.settings | {"group": group}, left, self.home)
        tracker.leave(
            left.result,
            left.table() if "layers" in lacking else [],
            left.picture if "picture" in lacking else None,
            left.model if "model" in lacking else None,
        )
        tracker.close(0)
        for seconds in ARRIVES:
            time.sleep(seconds)
            if not (missing := self.known(left.about["id"]).lacks(left)):
                return
        raise RuntimeError(f"{', '.join(missing)} did not arrive")
