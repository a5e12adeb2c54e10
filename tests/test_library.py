"""The face: what `import pruning` offers, how cheaply, and docs/library.md, whose code runs."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pruning
from pruning import CRITERIA
from tests.commands import ROOT
from tests.docs import run

LIBRARY = ROOT / "docs" / "library.md"


def test_the_documentation_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        names = run(LIBRARY)
    finally:
        CRITERIA.pop("magnitude_power", None)
    assert f"{pruning.sparsity(names['same']):.2f}" == "0.90"


def test_the_documentation_names_what_there_is() -> None:
    for name in re.findall(r"pruning\.([A-Za-z_]+)\(", LIBRARY.read_text()):
        assert name in pruning.__all__, name


def test_every_name_is_there_and_listed() -> None:
    assert dir(pruning) == sorted([*pruning.__all__, "__version__"])
    assert all(getattr(pruning, name) is not None for name in pruning.__all__)
    with pytest.raises(AttributeError, match="no attribute 'prunes'"):
        _ = pruning.prunes  # type: ignore[attr-defined]


def test_importing_it_does_not_wait_for_torch() -> None:
    code = (
        "import sys, pruning; dir(pruning); print('torch' in sys.modules); pruning.prune; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "True"]


def test_what_is_wrong_is_a_value_error_that_names_the_parameter() -> None:
    network = pruning.build("resnet20", 10)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"sparsity": 1.5}, r"^sparsity must be in \[0, 1\], got 1.5"),
        ({"sparsity": 0.5, "scope": "layers"}, "^scope must be one of .*did you mean layer"),
        ({"sparsity": 0.5, "criterion": "magnitud"}, "^criterion must be one of .*did you mean magnitude"),
        ({"sparsity": 0.5, "layers": "convs"}, "^layers must be one of"),
    ]
    for arguments, error in wrong:
        with pytest.raises(ValueError, match=error):
            pruning.prune(network, **arguments)
    with pytest.raises(ValueError, match=r"^lr must be > 0, got -1"):
        pruning.TrainRecipe(epochs=1, batch_size=1, lr=-1.0)
    with pytest.raises(ValueError, match=r"^val_fraction must be in"):
        pruning.DatasetSettings(name="digits", val_fraction=2.0)


def test_results_are_flat_rows(tmp_path: Path) -> None:
    assert pruning.results(tmp_path) == []
    assert pruning.results(tmp_path / "nothing") == []
