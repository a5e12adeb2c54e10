"""The W&B server of these tests."""

from collections.abc import Iterator

import pytest

from tests.tracking.fake_wandb import FakeWandb


@pytest.fixture
def wandb_server() -> Iterator[FakeWandb]:
    with FakeWandb() as server:
        yield server
