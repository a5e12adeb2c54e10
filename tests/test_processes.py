import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pruning import processes
from tests.helpers import slow
from tests.namespaces import NOBODY, inside, privileged

HERE = processes.identity()
LOOK = "print(repr(claims.started({})), os.getpid())"


@pytest.fixture
def sleeper() -> Iterator[int]:
    """A process of root's."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process.pid
        process.kill()


def test_a_process_is_told_from_all_others_and_each_claim_from_all_others_of_it() -> None:
    assert (HERE["pid"], HERE["started"]) == (os.getpid(), processes.started(os.getpid()))
    assert processes.lives(HERE)
    assert processes.lives(HERE | {"started": "1"}) is False  # another process has its number by now
    for key in ("host", "boot", "processes"):
        assert processes.lives(HERE | {key: "other"}) is None
    assert processes.identity()["claim"] != HERE["claim"]


def test_a_process_that_has_ended_lives_no_more(sleeper: int) -> None:
    assert processes.started(sleeper)
    assert processes.started(2**22 + 1) is None  # more than Linux ever gives out
    assert processes.lives(HERE | {"pid": 2**22 + 1}) is False
    os.kill(sleeper, 9)
    os.waitid(os.P_PID, sleeper, os.WEXITED | os.WNOWAIT)
    assert processes.started(sleeper) is None  # a zombie, which nobody has waited for


@slow
@privileged
def test_a_process_of_another_user_that_hidepid_hides_is_not_a_dead_one(sleeper: int) -> None:
    # a mount of its own: remounting /proc would hide the processes of the whole machine
    hidden = "mount -t proc -o hidepid=2 proc /proc"
    for user, seen in ((0, processes.started(sleeper)), (NOBODY, "")):
        assert inside(hidden, LOOK.format(sleeper), user=user).split()[0] == repr(seen)
        assert inside(hidden, LOOK.format(2**22 + 1), user=user).split()[0] == "None"


@slow
@privileged
def test_the_proc_of_another_container_says_nothing() -> None:
    namespace = ("--pid", "--fork")
    assert inside("true", LOOK.format("os.getpid()"), *namespace).split()[0] == "''"  # /proc is the outer one's
    assert inside("true", LOOK.format(2**22 + 1), *namespace).split()[0] == "None"
    own = inside("mount -t proc proc /proc", LOOK.format("os.getpid()"), *namespace).split()
    assert (own[0].strip("'").isdecimal(), own[1]) == (True, "1")


WRONG: list[tuple[str, list[object]]] = [
    ("host", [None, 5, [], "two\nlines", "\ud800"]),
    ("boot", [None, 1, {}]),
    ("processes", [None, True]),
    ("pid", [None, "7", True, 1.5, 0, -1, 10**30]),
    ("started", [3]),
    ("job", [12, ["a"]]),
    ("claim", [{}, 0]),
]


@pytest.mark.parametrize(("key", "values"), WRONG)
def test_what_is_no_identity_is_told(key: str, values: list[object]) -> None:
    of_key: list[object] = [HERE | {key: value} for value in values]
    for value in [None, 1, "text", [], {}, {"released": True}, *of_key]:
        assert not processes.is_identity(value)


def test_an_identity_is_told_also_as_earlier_versions_wrote_it(tmp_path: Path) -> None:
    early = {key: value for key, value in HERE.items() if key != "claim"}
    for value in (HERE, early, early | {"released": True}, HERE | {"started": None, "job": "12_3"}):
        assert processes.is_identity(value)
