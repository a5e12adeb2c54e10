"""The table of a sweep while it runs: redrawn in a terminal, one line for each step that ends elsewhere."""

import sys
from collections.abc import Sequence
from typing import Any

from pruning.errors import printable


class LiveTable:
    """Plain lines: what has ended."""

    def show(self, ended: Sequence[str], running: Sequence[tuple[str, str, str]], summary: str) -> None:
        """Show lines of what has ended since the last call, (step, how far, figures) of what runs, and a summary."""
        for line in ended:
            print(printable(line), flush=True)

    def close(self) -> None:
        """Nothing more will come."""


class RichLiveTable(LiveTable):
    """A table of what runs below the lines of what has ended."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self.console = Console()
        self.live: Any = Live(console=self.console, auto_refresh=False, transient=True)
        self.live.start()

    def show(self, ended: Sequence[str], running: Sequence[tuple[str, str, str]], summary: str) -> None:
        from rich.table import Table
        from rich.text import Text

        for line in ended:
            self.console.print(printable(line), highlight=False, markup=False, soft_wrap=True)
        table = Table("running", "how far", "figures", title=Text(printable(summary)), title_justify="left")
        for row in running:
            table.add_row(*(Text(printable(cell)) for cell in row))
        self.live.update(table, refresh=True)

    def close(self) -> None:
        self.live.stop()


def live_table() -> LiveTable:
    """Return a live table on a terminal, lines elsewhere."""
    return RichLiveTable() if sys.stdout.isatty() else LiveTable()
