import itertools
import random

import numpy as np
import torch

from pruning import rng

PURPOSES = ("init", "reinit", "order", "augment", "criterion", "val split")


def draw(seed: int, purpose: str, *place: int) -> list[float]:
    return torch.rand(8, generator=rng.generator(seed, purpose, *place), dtype=torch.float64).tolist()


def test_no_two_streams_are_the_same() -> None:
    places = [(), (0,), (1,), (0, 0), (0, 1), (1, 0), (11,), (1, 1)]
    keys = list(itertools.product((0, 1, 11), PURPOSES, places))
    assert len({rng.stream_seed(seed, purpose, *place) for seed, purpose, place in keys}) == len(keys)
    drawn = [number for seed, purpose, place in keys for number in draw(seed, purpose, *place)]
    assert len(set(drawn)) == len(drawn)


def test_a_stream_depends_on_nothing_but_its_name() -> None:
    first = draw(3, "order", 5)
    torch.rand(1000), draw(3, "order", 4)
    assert draw(3, "order", 5) == first


def test_streams_are_pinned() -> None:
    """Another value here means that no run can be made again."""
    assert rng.stream_seed(0, "init") == 0x31F0D4C0BBBFDBD7
    assert rng.stream_seed(1, "order", 2) == 0x7B2C6B6664B60DBD


def test_seeds_fit_torch() -> None:
    seeds = [rng.stream_seed(seed, "init") for seed in range(1000)]
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**62


def test_the_global_random_state_is_untouched_and_the_generator_on_the_cpu() -> None:
    def state() -> tuple[list[int], object, list[int]]:
        return (
            torch.get_rng_state().tolist(),
            random.getstate(),
            np.random.get_state(legacy=False)["state"]["key"].tolist(),
        )

    before, stream = state(), rng.generator(0, "init")
    torch.rand(100, generator=stream)
    assert state() == before
    assert stream.device.type == "cpu"
