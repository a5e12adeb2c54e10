"""The one promise of the claim protocol, whoever is stopped wherever: no two results, and no epoch twice.

Several actors make one step with the code of the product, each in a thread that goes on only when it is its turn, and
gives its turn back before each call that others may see. All look like processes of other machines to each other.
"""

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pruning import tracking
from pruning.env import Env
from pruning.execution import execute
from pruning.execution.recorder import RunRecorder
from pruning.execution.stop import StopRequest
from pruning.files import read_json, read_lines, write_whole
from pruning.processes import identity
from pruning.runs import Run, Step, claims, holders
from tests.runs.steps import DENSE, figures

EPOCHS = 2
ACTORS = 3
OLD = 1000.0  # seconds; more than PATIENCE
SKEWS = (0.0, -100_000.0, 100_000.0)  # seconds
TURNS = 3000  # more than a few actors need that go on in turn
VISIBLE = ((os, "link"), (os, "utime"), (Path, "replace"), (Path, "unlink"), (claims, "newest"), (claims, "done"))
HELD = threading.local()


class Killed(BaseException):
    """As SIGKILL: it does nothing more, also no cleaning up."""


class Silent(tracking.Reporter):
    def row(self, metrics: Any, epochs: int) -> None:
        pass

    def note(self, text: str) -> None:
        pass


class Actor:
    """A process that makes the step; `turn` lets it go on to the next moment that matters to others."""

    def __init__(self, number: int, runs: Path, lose: set[int]) -> None:
        self.number, self.runs, self.lose = number, runs, lose
        self.links, self.killed, self.ended = 0, False, False
        self.error: BaseException | None = None
        self.tokens: list[str] = []
        self.published = 0
        self.go, self.back = threading.Semaphore(0), threading.Semaphore(0)
        threading.Thread(target=self.live, daemon=True).start()

    def live(self) -> None:
        HELD.actor = self
        self.go.acquire()
        try:
            env = Env(runs=self.runs)
            while execute.try_run_step(DENSE, env, Silent(), StopRequest()) is None:
                self.pause()
        except BaseException as error:
            self.error = error
        self.ended = True
        self.back.release()

    def pause(self) -> None:
        if self.killed:
            raise Killed
        self.back.release()
        self.go.acquire()
        if self.killed:
            raise Killed

    def turn(self) -> None:
        if not self.ended:
            self.go.release()
            self.back.acquire()

    def kill(self) -> None:
        self.killed = True
        while not self.ended:
            self.turn()

    def silence(self) -> None:
        """Have it given no sign of life for long."""
        for path in Run.for_step(DENSE, self.runs).path.glob("claim-*"):
            seen = holders.look(path)
            if seen and not seen.released and seen.holder["claim"] in self.tokens:
                REAL["utime"](path, (time.time() - OLD,) * 2)


REAL: dict[str, Callable[..., Any]] = {name: getattr(owner, name) for owner, name in VISIBLE}
CLOCK = time.time


def current() -> Actor | None:
    return getattr(HELD, "actor", None)


def seen(name: str) -> Callable[..., Any]:
    """Return the call, before which an actor gives its turn back."""

    def call(*args: Any, **options: Any) -> Any:
        if actor := current():
            actor.pause()
        return REAL[name](*args, **options)

    return call


def link(source: Path, target: Path) -> None:
    """Link, and perhaps lose the answer: the network asks again, and what it is told is that the name exists."""
    actor = current()
    assert actor
    actor.pause()
    REAL["link"](source, target)
    actor.pause()
    actor.links += 1
    if actor.links in actor.lose:
        raise FileExistsError


def of_actor() -> dict[str, Any]:
    holder = identity()
    if actor := current():
        actor.tokens.append(holder["claim"])
        holder["host"] = f"machine{actor.number}"
    return holder


def stage(step: Step, _: Env, recorder: RunRecorder) -> None:
    """Make the step as `_run_stage` does."""
    try:
        recorder.begin({})
        for epoch in range(len(recorder.rows) + 1, EPOCHS + 1):
            recorder.row({"epoch": epoch, "by": int(recorder.claim.token[:8], 16)})
            recorder.save({"epoch": epoch})
        recorder.claim.check()
        write_whole(recorder.run.model, b"a model")
        recorder.finish(figures(step) | {"made": recorder.rows})  # type: ignore[arg-type]
        if actor := current():
            actor.published += 1
    finally:
        recorder.close()


@contextmanager
def world() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in VISIBLE:
            patch.setattr(owner, name, seen(name))
        patch.setattr(os, "link", link)
        patch.setattr(claims, "identity", of_actor)
        patch.setattr("pruning.processes.identity", lambda: {**identity(), "host": f"reader{id(current())}"})
        patch.setattr(claims.Claim, "_live", lambda _: None)  # a heartbeat is what the drawn schedule says
        patch.setattr(execute, "_run_stage", stage)
        patch.setattr(time, "time", lambda: CLOCK() + (SKEWS[actor.number] if (actor := current()) else 0.0))
        yield


def play(runs: Path, moves: list[tuple[int, str, int]], lose: list[set[int]]) -> None:
    """Let the actors do what was drawn, and then go on until all have ended."""
    actors = [Actor(number, runs, lose[number]) for number in range(ACTORS)]
    for number, what, count in moves:
        actor = actors[number]
        if what == "kill":
            actor.kill()
        if what == "silence":
            actor.silence()
        for _ in range(count if what == "go" else 0):
            actor.turn()
    last = Actor(0, runs, set())
    for one in actors:
        one.silence()
    turns = 0
    while not all(actor.ended for actor in [last, *actors]):
        for actor in (last, *actors):
            actor.turn()
        turns += 1
        if turns % 200 == 0:  # who was killed is silent by now
            for actor in actors:
                if actor.killed:
                    actor.silence()
        assert turns < TURNS
    for actor in (last, *actors):
        assert actor.error is None or (actor.killed and isinstance(actor.error, Killed)), actor.error
    published = sum(actor.published for actor in (last, *actors))  # who is killed may not have lived to count it
    assert published == 1 or (published == 0 and any(actor.killed for actor in actors))


def kept(folder: Path) -> None:
    """Assert the promise."""
    made = (read_json(folder / "result.json") or {})["made"]
    rows = read_lines(folder / "metrics.jsonl")
    assert [row["epoch"] for row in rows] == list(range(1, EPOCHS + 1))
    assert rows == made
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json", "metrics.jsonl", "model.safetensors", "result.json"
    ]  # fmt: skip


MOVE = st.tuples(st.integers(0, ACTORS - 1), st.sampled_from(["go", "go", "go", "silence", "kill"]), st.integers(1, 60))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(MOVE, max_size=25), st.tuples(*[st.sets(st.integers(1, 4), max_size=2)] * ACTORS))
def test_no_two_results_and_no_epoch_twice(moves: list[tuple[int, str, int]], lose: tuple[set[int], ...]) -> None:
    with tempfile.TemporaryDirectory() as home, world():
        runs = Path(home)
        play(runs, moves, list(lose))
        kept(Run.for_step(DENSE, runs).path)


def test_who_is_overtaken_at_any_moment_changes_nothing() -> None:
    with world():
        for moment in range(60):
            with tempfile.TemporaryDirectory() as home:
                play(Path(home), [(0, "go", moment), (0, "silence", 1), (1, "go", 400)], [set()] * ACTORS)
                kept(Run.for_step(DENSE, Path(home)).path)
