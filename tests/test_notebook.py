"""docs/tour.ipynb runs from top to bottom, in an empty directory."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.commands import ROOT
from tests.helpers import slow

NOTEBOOK = json.loads((ROOT / "docs" / "tour.ipynb").read_text())


@slow
def test_each_cell_runs_after_the_other(tmp_path: Path) -> None:
    code = "\n".join("".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code")
    environ = os.environ | {"MPLBACKEND": "agg"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("% right after pruning") == 8
    assert (tmp_path / "model.sparse.safetensors").exists()


def test_what_it_shows_was_made_by_running_it() -> None:
    cells = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert [output for output in outputs if "image/png" in output.get("data", {})]
