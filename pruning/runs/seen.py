"""What a batch system said of the job that was submitted for a step, in its own words; no one is asked here."""

from dataclasses import dataclass
from pathlib import Path

HELD = ("JobHeldUser", "JobHeldAdmin", "JobHoldMaxRequeue", "launch failed requeued held")
NEVER = "DependencyNeverSatisfied"
UNSAID = ("", "None", "(null)", "NonZeroExitCode", "exit 0")  # what says no more than the state does


@dataclass(frozen=True, kw_only=True)
class JobSeen:
    """A job as the queue had it when it was asked; `alive`: it waits, runs, or comes back by itself."""

    job: str  # as squeue shows it, like 12_3
    state: str  # SLURM's word, like PENDING, or `CANCELLED by 0`
    alive: bool
    reason: str = ""  # SLURM's word, like Resources
    exit: str = ""  # `exit 3` or `signal 9`, if it has ended by one
    node: str = ""  # where it runs or ran last
    log: Path | None = None  # what the job printed, also before it was Python
    since: float = 0.0  # when it was submitted, or requeued, last; seconds since 1970
    ended: float = 0.0  # seconds since 1970; 0 if it has not, or this is not known

    @property
    def begun(self) -> bool:
        """Whether it has a node."""
        return self.alive and self.state not in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "COMPLETING")

    @property
    def held(self) -> bool:
        """Whether it waits until somebody releases it."""
        return self.alive and (self.reason in HELD or self.state in ("REQUEUE_HOLD", "SPECIAL_EXIT"))

    @property
    def cancelled(self) -> bool:
        return not self.alive and self.state.startswith("CANCELLED")

    @property
    def waits_for_another(self) -> bool:
        return self.alive and self.reason == "Dependency"

    def __str__(self) -> str:
        advice = f"scontrol release {self.job}" if self.held else ""
        why = [part for part in (self.reason, self.exit, advice) if part not in UNSAID]
        place = f" on {self.node}" if self.node else ""
        return f"job {self.job} {self.state}{place}" + (f" ({', '.join(why)})" if why else "")
