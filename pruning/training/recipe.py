"""How long and how to train."""

from dataclasses import dataclass
from typing import Any, ClassVar

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
    momentum_cycle: tuple[float, ...] | None = setting(None, least=0, below=1)  # of one_cycle: high, low
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
        if self.momentum_cycle is not None and len(self.momentum_cycle) != 2:
            text = f"momentum_cycle must be two numbers like [0.95,0.85], got {list(self.momentum_cycle)}"
            raise UserError(text, "momentum_cycle")
        if self.nesterov and "nesterov" not in self.idle() and not self.of_optimizer()["momentum"]:
            raise UserError("nesterov=true needs a momentum above 0", "nesterov")
        if len(self.betas) != 2:
            raise UserError(f"betas must be two numbers like [0.9,0.999], got {list(self.betas)}", "betas")

    def idle(self) -> set[str]:
        idle = super().idle() | (set() if self.warmup else {"start"})
        return idle | ({"momentum"} if self.cycle else {"momentum_cycle"})

    @property
    def cycle(self) -> tuple[float, ...] | None:
        """The highest and the lowest momentum, in place of `momentum` and of the first of `betas`, if it is cycled."""
        return self.momentum_cycle if self.schedule == "one_cycle" else None

    def of_optimizer(self) -> dict[str, Any]:
        """Return the arguments that the optimizer is made with."""
        found = self.arguments("optimizer")
        return found | {"momentum": self.cycle[0]} if self.cycle and "momentum" in found else found
