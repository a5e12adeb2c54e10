"""One launch at a time submits for a directory of runs: the next one then sees what was submitted."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pruning.errors import UserError
from pruning.runs import claims
from pruning.runs.records import FOLDER

LOCK = "submitting"
POLL = 0.5  # seconds between attempts


@contextmanager
def turn(runs: Path) -> Iterator[claims.Claim]:
    """Wait until no other process, here or elsewhere, is in this block for `runs`; who died in it is not waited for.

    It is a claim, which works on network file systems. Whoever was silent for so long that it was taken for dead finds
    `check()` to raise LostClaim: call it before each submission.
    """
    folder, noted = runs / FOLDER / LOCK, False
    while (claim := claims.take(folder)) is None:
        if not noted:
            print(f"waiting: {claims.describe(folder, 'another process')} is submitting for {runs}", flush=True)
        noted = True
        time.sleep(POLL)
    # the newest number stays, so that nobody who looked before can take a number that was in use already
    for path in folder.glob("claim-*"):
        if path.name.removeprefix("claim-").isdigit() and int(path.name.removeprefix("claim-")) < claim.number:
            with suppress(OSError):
                path.unlink()
    try:
        yield claim
    except claims.LostClaim:
        raise UserError(f"another process submits for {runs} since this one slept; give the command again") from None
    finally:
        claim.release()
