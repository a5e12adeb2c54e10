"""The wish to stop: signals become a request that the training loop reads between batches."""

import signal
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)


class StopRequest:
    """As a context, turns signals into a request to stop at the next batch; a second Ctrl-C ends the process."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        # nohup ignores SIGHUP, so that the end of a terminal is not that of the run
        nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        asking = [number for number in SIGNALS if number != signal.SIGHUP or not nohup]
        self.before = {number: signal.signal(number, self.ask) for number in asking}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def ask(self, number: int, _frame: object) -> None:
        if self.signal == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number
