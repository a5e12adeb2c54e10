"""The wish to stop: signals become a request that the training loop reads between batches."""

import signal
from typing import Any

# Windows has BREAK, and neither HUP nor USR2
NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR2", "SIGBREAK")
SIGNALS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))


class StopRequest:
    """As a context, turns signals into a request to stop at the next batch; a second Ctrl-C ends the process."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        # nohup ignores SIGHUP, so that the end of a terminal is not that of the run
        hangup = getattr(signal, "SIGHUP", None)
        asking = [n for n in SIGNALS if n != hangup or signal.getsignal(n) != signal.SIG_IGN]
        self.before = {number: signal.signal(number, self.ask) for number in asking}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def ask(self, number: int, _frame: object) -> None:
        if self.signal == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number
