"""The settings of hydra/launcher=slurm, checked before anything is submitted, and what sbatch is given of them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from pruning.env import PRECISIONS, Env
from pruning.errors import UserError, check_choice
from pruning.settings import Settings, setting

EARLY = 60  # seconds that SLURM may send a signal before its time
NAMES = ("partition", "account", "qos", "constraint", "exclude", "nodelist", "mail", "mail_type")
OWN = (  # what the launcher cannot do without, or what would hide the jobs from it
    *("array", "clusters", "dependency", "error", "job-name", "kill-on-invalid-dep", "open-mode", "output"),
    *("parsable", "quiet", "test-only", "wait", "wrap"),
)
SETTING_OF = {  # options of sbatch that are settings here
    **{name: name for name in ("partition", "account", "qos", "constraint", "exclude", "nodelist")},
    "mail-user": "mail",
    "mail-type": "mail_type",
    "time": "timeout_min",
    "mem": "mem_gb",
    "cpus-per-task": "cpus_per_task",
    "gpus-per-node": "gpus_per_task",
}
GPU_OPTIONS = ("gres", "gpus", "gpus-per-node", "gpus-per-task", "gpus-per-socket", "tres-per-task")
TIME = re.compile(
    r"(?:(?P<d>\d+)-(?P<h>\d+)(?::(?P<m>\d+))?(?::\d+)?)|(?:(?P<H>\d+):(?P<M>\d+):\d+)|(?:(?P<MM>\d+)(?::\d+)?)"
)


@dataclass(frozen=True, kw_only=True)
class SlurmSettings(Settings):
    """The node hydra.launcher of hydra/launcher=slurm; what each means stands in its YAML."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    nodelist: str | None = None
    exclude: str | None = None
    mail: str | None = None
    mail_type: str | None = None
    gpus_per_task: int = setting(1, least=0)
    cpus_per_task: int = setting(4, least=1)
    mem_gb: float | None = setting(16.0, above=0)
    timeout_min: int = setting(240, least=1)
    signal_delay_s: int = setting(120, least=0)
    max_requeues: int = setting(100, least=0)
    array_parallelism: int = setting(64, least=1)
    cells_per_task: int = setting(1, least=1)
    setup: tuple[str, ...] = ()
    additional: Mapping[str, Any] | None = None
    snapshot: bool = False
    wait: bool = False

    @classmethod
    def read(cls, node: Any, name: str) -> Self:
        """As all settings; names may be numbers, and several of them a list: `partition=[main,high]`."""
        if isinstance(node, Mapping):
            node = dict(node) | {key: words(node[key]) for key in NAMES if key in node}
        return super().read(node, name)

    def __post_init__(self) -> None:
        text: Any = self.timeout_min
        if isinstance(text, str) and (minutes := minutes_of(text)):
            raise UserError(
                f"timeout_min must be a whole number of minutes, got {text!r}; did you mean {minutes}?", "timeout_min"
            )
        super().__post_init__()
        if self.timeout_min * 60 <= self.signal_delay_s + EARLY:
            text = (
                f"timeout_min={self.timeout_min} must be more than a minute longer than signal_delay_s="
                f"{self.signal_delay_s}: SLURM may send the signal that much early, and a task would be stopped as "
                "soon as it starts"
            )
            raise UserError(text, "timeout_min")
        for name in NAMES:
            value = getattr(self, name)
            if value is not None and not re.fullmatch(r"[^\s'\"]+", value):
                raise UserError(f"{name} must be a word, or a list of words like [a,b], got {value!r}", name)
        if self.mail_type and not self.mail:
            raise UserError(f"mail_type={self.mail_type} needs an address: give mail=NAME@HOST too", "mail_type")
        for line in self.setup:
            if not line.isprintable():
                raise UserError(f"setup must be a list of shell lines, one each, got {line!r}", "setup")
        object.__setattr__(self, "additional", self._checked(self.additional or {}) or None)

    def _checked(self, additional: Mapping[str, Any]) -> dict[str, Any]:
        """Return the further options of sbatch under the names that it has for them; UserError for what cannot be."""
        found: dict[str, Any] = {}
        for given, value in additional.items():
            name, key = f"additional.{given}", str(given).replace("_", "-").removeprefix("--")
            if not re.fullmatch(r"[a-z][a-z0-9-]+", key):
                raise UserError(f"{name} must be an option of sbatch in full, like constraint", name)
            if key in OWN:
                raise UserError(f"{name} must not be given: the launcher sets or needs it itself", name)
            if (own := SETTING_OF.get(key)) and getattr(self, own) not in (None, 0):
                raise UserError(
                    f"{name} must not be given: use hydra.launcher.{own}, which is {getattr(self, own)}", name
                )
            value = words(value)
            if value is not None and (not isinstance(value, (str, bool, float)) or not str(value).isprintable()):
                raise UserError(f"{name} must be a word, a number, true or false, got {value!r}", name)
            found[key] = value
        return found

    @property
    def on_gpu(self) -> bool:
        """Whether the tasks ask for a GPU."""
        return self.gpus_per_task > 0 or any(key in GPU_OPTIONS for key in self.additional or {})

    def sbatch_options(self) -> dict[str, Any]:
        """Return the options of sbatch that have no parameter in submitit, or another one; a flag is True."""
        named = {"nodelist": self.nodelist, "exclude": self.exclude, "mail-user": self.mail}
        named |= {"constraint": self.constraint, "qos": self.qos}
        named["mail-type"] = self.mail_type or ("END,FAIL" if self.mail else None)
        found = {"requeue": True} | named | dict(self.additional or {})
        if found["requeue"] is False:
            found["no-requeue"] = True
        return {key: value for key, value in found.items() if value is not None and value is not False}


def words(value: Any) -> Any:
    """Return a list of words as SLURM has it, `a,b`, and a number as a word; else `value` as it is."""
    if isinstance(value, (list, tuple)) and all(type(part) in (str, int) for part in value):
        return ",".join(map(str, value)) or None
    return str(value) if type(value) is int else value


def minutes_of(text: str) -> int | None:
    """Return the minutes of a time as SLURM writes it, like 2-00:00:00; None if it is none."""
    if not (match := TIME.fullmatch(text.strip())):
        return None
    part = {key: int(value or 0) for key, value in match.groupdict().items()}
    return 24 * 60 * part["d"] + 60 * (part["h"] + part["H"]) + part["m"] + part["M"] + part["MM"]


def resolve_precision(wanted: str, env: Env, settings: SlurmSettings) -> str:
    """Return what "auto" means where the tasks will run."""
    gpu = re.fullmatch(r"cuda(:\d+)?", env.device)
    if gpu and not settings.on_gpu:
        raise UserError(f"hydra.launcher.gpus_per_task must be >= 1 for env.device={env.device}, got 0")
    # the login node rarely has the GPU that the tasks will have; those since 2020 compute in bf16
    if gpu or (settings.on_gpu and env.device == "auto"):
        return "bf16" if check_choice("precision", wanted, PRECISIONS) == "auto" else wanted
    return env.precision(wanted)
