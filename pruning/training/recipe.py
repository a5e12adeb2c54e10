"""How long and how to train."""

from dataclasses import dataclass
from typing import ClassVar

from pruning.env import PRECISIONS
from pruning.errors import UserError
from pruning.settings import Axes, Settings, setting
from pruning.training.optimizers import OPTIMIZERS
from pruning.training.schedules import SCHEDULES


@dataclass(frozen=True, kw_only=True)
class TrainRecipe(Settings):
    """The settings of one training; rates, fractions and shapes as `schedules.learning_rate` reads them."""

    ADVICE: ClassVar = " or choose a recipe"

    epochs: int = setting(least=0)
    batch_size: int = setting(least=1)
    lr: float = setting(above=0)  # the peak
    precision: str = setting("auto", among=PRECISIONS)
    optimizer: str = "sgd"
    momentum: float = setting(0.0, least=0, below=1)
    nesterov: bool = False
    betas: tuple[float, ...] = setting((0.9, 0.999), least=0, below=1)
    weight_decay: float = setting(0.0, least=0)
    schedule: str = "constant"
    warmup: float = setting(0.0, least=0, below=1)
    start: float = setting(0.0, least=0)
    end: float = setting(0.0, least=0)
    milestones: tuple[float, ...] = setting((0.5, 0.75), least=0, most=1)
    decay: float = setting(0.1, above=0)
    label_smoothing: float = setting(0.0, least=0, below=1)

    @classmethod
    def axes(cls) -> Axes:
        return {"optimizer": OPTIMIZERS, "schedule": SCHEDULES}

    @property
    def length(self) -> int:
        """The epochs that such a training makes; where that comes out on the way, at most."""
        return self.epochs

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and "nesterov" not in self.idle() and not self.momentum:
            raise UserError("nesterov=true needs a momentum above 0", "nesterov")
        if len(self.betas) != 2:
            raise UserError(f"betas must be two numbers like [0.9,0.999], got {list(self.betas)}", "betas")

    def idle(self) -> set[str]:
        return super().idle() | (set() if self.warmup else {"start"})
