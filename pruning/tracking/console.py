"""The terminal: one progress bar per step, or plain lines where there is no terminal."""

import sys
import time
from importlib import import_module
from typing import Any

from pruning.errors import printable

WIDE, NARROW = 160, 112  # columns of a terminal: below these names are short, and only the test accuracy is shown


def load_torch() -> None:
    """Import torch, which takes seconds, before anything else does, and say so on a terminal."""
    seen = sys.stdout.isatty()
    if seen:
        print("loading torch ...", end="\r", flush=True)
    import_module("torch")
    if seen:
        print("\x1b[2K", end="\r", flush=True)


class Reporter:
    """Plain lines, one per epoch."""

    def note(self, text: str) -> None:
        print(lines(text), flush=True)

    def begin(self, name: str, images: int, done: int) -> None:
        """A step of `images` image passes starts, `done` of them in an earlier attempt."""
        self.note(f"{name}: " + ("starts" if not done else f"continues at {done / max(images, 1):.0%}"))

    def length(self, images: int) -> None:
        """The step takes that many image passes in all, other than was thought when it began."""

    def batch(self, images: int) -> None:
        """One more batch of `images` was given to the device."""

    def row(self, metrics: dict[str, Any], epochs: int) -> None:
        self.note(
            f"  epoch {metrics['epoch']}/{epochs}  {figures(metrics)}  {metrics['images_per_second']:.0f} images/s"
        )

    def work(self, label: str, done: int, total: int) -> None:
        """`done` of `total` parts of a long preparation are finished; printed every tenth."""
        if done == total or done * 10 // total > (done - 1) * 10 // total:
            self.note(f"  {label}: {done}/{total}")

    def end(self) -> None:
        """The step is over, one way or another."""


class RichReporter(Reporter):
    """Live bars: epochs, images/s, loss, accuracy, time left."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.console = Console()
        self.short, self.narrow = self.console.width < WIDE, self.console.width < NARROW
        bar = BarColumn(10 if self.short else 24)
        columns = ("{task.description}", bar, "{task.percentage:>3.0f}%", "{task.fields[text]}")
        self.bars = Progress(
            *(TextColumn(c, markup=False) if isinstance(c, str) else c for c in columns),
            TimeRemainingColumn(),
            console=self.console,
        )
        self.task: Any = None
        self.text, self.since, self.images = "", 0.0, 0

    def note(self, text: str) -> None:
        self.console.print(lines(text), highlight=False, markup=False, soft_wrap=True)

    def begin(self, name: str, images: int, done: int) -> None:
        self.bars.start()
        shown = f"{name[:9]}…{name[-13:]}" if self.short and len(name) > 24 else name  # stage, and id
        self.task = self.bars.add_task(shown, total=images or None, completed=done, text="")
        self.text, self.since, self.images = "", time.monotonic(), 0

    def length(self, images: int) -> None:
        self.bars.update(self.task, total=images)

    def batch(self, images: int) -> None:
        self.images += images
        rate = self.images / max(time.monotonic() - self.since, 1e-9)
        self.bars.update(self.task, advance=images, text=self.beside(rate))

    def row(self, metrics: dict[str, Any], epochs: int) -> None:
        self.text = f"epoch {metrics['epoch']}/{epochs} {figures(metrics)}"
        if self.narrow:
            self.text = f"{metrics['epoch']}/{epochs} test {metrics['test_top1']:.2f} %"
        self.bars.update(self.task, text=self.beside(metrics["images_per_second"]))

    def beside(self, rate: float) -> str:
        """Return what stands beside the bar: the test accuracy always, the speed where there is room for it."""
        return self.text if self.narrow and self.text else f"{rate:.0f} images/s {self.text}"

    def work(self, label: str, done: int, total: int) -> None:
        if self.task is None:
            self.begin(label, total, 0)
        self.bars.update(self.task, description=label, completed=done, total=total)
        if done >= total:
            self.end()

    def end(self) -> None:
        if self.task is not None:
            if self.bars.tasks[-1].total is None and sys.exc_info()[0] is None:  # nothing to count, and done
                self.bars.update(self.task, total=1, completed=1)
            self.bars.stop()
            self.bars.remove_task(self.task)
            self.task = None


def lines(text: str) -> str:
    """Return lines in which every character can be seen."""
    return "\n".join(map(printable, text.split("\n")))


def figures(metrics: dict[str, Any]) -> str:
    """Return the figures of an epoch in a few words."""
    return f"loss {metrics['train_loss']:.3f} train {metrics['train_top1']:.2f} % test {metrics['test_top1']:.2f} %"


def reporter() -> Reporter:
    """Return bars on a terminal, lines elsewhere."""
    return RichReporter() if sys.stdout.isatty() else Reporter()
