"""Fixtures of sweeps made by hand."""

from pathlib import Path

import pytest

from pruning.pipeline.sweep import Sweep
from pruning.runs import records
from tests.pipeline.made import sweep_of


@pytest.fixture
def no_git(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the calls of git."""
    monkeypatch.setattr(records, "code_version", lambda: {"commit": None, "dirty": None})


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """One dense network, two ratios: 5 steps, 2 of them wanted."""
    return sweep_of([(0.3, 0, "finetune"), (0.5, 0, "finetune")], tmp_path / "runs", "night")
