"""Commands in namespaces of their own: another machine, container or user, as far as a process can see."""

import os
import subprocess
import sys

import pytest

from tests.commands import ROOT
from tests.helpers import CI

NOBODY = 65534

privileged = pytest.mark.skipif(os.geteuid() != 0 and not CI, reason="needs root, to make namespaces")


def inside(setup: str, code: str, *flags: str, user: int = 0) -> str:
    """Return what `code` prints as `user`, `pruning` imported, in new namespaces (`flags` of unshare) after `setup`."""
    drop = f"os.setgroups([]); os.setgid({user}); os.setuid({user}); " if user else ""
    run = [sys.executable, "-c", f"import os; from pruning.runs import claims; {drop}{code}"]
    command = ["unshare", "--mount", *flags, "sh", "-c", f'{setup} && exec "$@"', "sh", *run]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
