"""Run the Python blocks of a Markdown file, one after the other: `python tests/docs.py FILE`, from any directory."""

import re
import sys
from pathlib import Path
from typing import Any


def blocks(path: Path) -> list[str]:
    """Return the code of each block, on the lines where it stands in the file."""
    text = path.read_text()
    found = re.finditer(r"^```python\n(.*?)^```", text, re.M | re.S)
    return ["\n" * text.count("\n", 0, match.start(1)) + match.group(1) for match in found]


def run(path: Path) -> dict[str, Any]:
    """Run all blocks in one namespace and return it."""
    names: dict[str, Any] = {"__name__": path.stem}
    for block in blocks(path):
        exec(compile(block, str(path), "exec"), names)
    return names


if __name__ == "__main__":
    run(Path(sys.argv[1]))
