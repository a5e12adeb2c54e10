import itertools
import random

import numpy as np
import pytest
import torch

from pruning import rng

PURPOSES = ("init", "reinit", "order", "augment", "criterion", "val split")


def draw(*key) -> list[float]:
    return torch.rand(8, generator=rng.generator(*key), dtype=torch.float64).tolist()


def test_no_two_streams_are_the_same():
    places = [(), (0,), (1,), (0, 0), (0, 1), (1, 0), (11,), (1, 1)]
    keys = list(itertools.product((0, 1, 11), PURPOSES, places))
    streams = [rng.stream_seed(seed, purpose, *place) for seed, purpose, place in keys]
    assert len(set(streams)) == len(keys)


@pytest.mark.parametrize("a, b", list(itertools.combinations(PURPOSES, 2)))
def test_purposes_draw_other_numbers(a, b):
    assert not set(draw(0, a)) & set(draw(0, b))


def test_a_stream_depends_on_nothing_but_its_name():
    first = draw(3, "order", 5)
    torch.rand(1000), draw(3, "order", 4)
    assert draw(3, "order", 5) == first


def test_streams_are_pinned():
    """Another value here means that no run can be made again."""
    assert rng.stream_seed(0, "init") == 0x31F0D4C0BBBFDBD7
    assert rng.stream_seed(1, "order", 2) == 0x7B2C6B6664B60DBD


def test_seeds_fit_torch():
    seeds = [rng.stream_seed(seed, "init") for seed in range(1000)]
    assert all(0 <= seed < 2**63 for seed in seeds) and max(seeds) > 2**62


def test_seed_0_is_a_seed():
    assert draw(0, "init") == draw(0, "init")
    assert draw(0, "init") != draw(1, "init")


def test_the_global_random_state_is_untouched():
    torch.manual_seed(7)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    torch.rand(100, generator=rng.generator(0, "init"))
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]


def test_a_generator_is_on_the_cpu():
    assert rng.generator(0, "init").device.type == "cpu"
