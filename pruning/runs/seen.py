"""What a batch system said of the job that was submitted for a step, in its own words; no one is asked here."""

from dataclasses import dataclass
from pathlib import Path

HELD = ("JobHeldUser", "JobHeldAdmin", "JobHoldMaxRequeue")
NEVER = "DependencyNeverSatisfied"
UNSAID = ("", "None", "(null)", "NonZeroExitCode")  # reasons that say no more than the state does


@dataclass(frozen=True, kw_only=True)
class JobSeen:
    """A job as the queue had it when it was asked; `alive`: it waits, runs, or comes back by itself."""

    job: str  # as squeue shows it, like 12_3
    state: str  # SLURM's word, like PENDING, or `CANCELLED by 0`
    alive: bool
    reason: str = ""  # SLURM's word, like Resources
    exit: str = ""  # `exit 3` or `signal 9`, if it has ended by one
    log: Path | None = None  # what the job printed, also before it was Python
    since: float = 0.0  # when it was submitted, or requeued, last; seconds since 1970

    @property
    def held(self) -> bool:
        """Whether it waits until somebody releases it."""
        return self.alive and self.reason in HELD

    @property
    def succeeded(self) -> bool:
        return self.state == "COMPLETED"

    @property
    def waits_for_another(self) -> bool:
        return self.alive and self.reason == "Dependency"

    def __str__(self) -> str:
        why = [part for part in (self.reason, self.exit) if part not in UNSAID]
        advice = f"; scontrol release {self.job}" if self.held else ""
        return f"job {self.job} {self.state}" + (f" ({', '.join(why)}{advice})" if why else "")
