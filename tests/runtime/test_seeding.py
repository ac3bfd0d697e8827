"""Random draws are made by their name alone."""

from itertools import combinations

import pytest
import torch

from uss_bench.runtime.seeding import generator, integer_seed, torch_generator

NAME = {"seed": 3, "strategy": "USS", "iteration": 2, "purpose": "weights", "case": "north-01"}
OTHER = {"seed": 4, "strategy": "RSS", "iteration": 1, "purpose": "dropout", "case": "north-02"}
SOURCES = {
    "numpy": lambda **name: generator(**name).integers(2**62, size=4).tolist(),
    "integer": lambda **name: integer_seed(**name),
    "torch": lambda **name: torch.randint(2**62, (4,), generator=torch_generator(**name)).tolist(),
}


@pytest.mark.parametrize("draw", SOURCES.values(), ids=SOURCES)
def test_same_name_same_numbers_whatever_was_drawn_before(draw):
    first = draw(**NAME)
    draw(**OTHER)
    torch.rand(1)
    assert draw(**NAME) == first


@pytest.mark.parametrize("part", NAME)
@pytest.mark.parametrize("draw", SOURCES.values(), ids=SOURCES)
def test_every_part_of_the_name_matters(draw, part):
    assert draw(**{**NAME, part: OTHER[part]}) != draw(**NAME)


def test_parts_do_not_run_into_each_other():
    names = [
        {"seed": 1, "strategy": "ab", "purpose": "c"},
        {"seed": 1, "strategy": "a", "purpose": "bc"},
        {"seed": 11, "strategy": "", "purpose": "abc"},
        {"seed": 1, "iteration": 12},
        {"seed": 11, "iteration": 2},
        {"seed": 1, "purpose": "abc"},
        {"seed": 1, "case": "abc"},
    ]
    for first, second in combinations(names, 2):
        assert integer_seed(**first) != integer_seed(**second)


def test_numbers_are_the_same_on_every_machine_and_version():
    """Fixed once: a change here would change every published result."""
    assert integer_seed(0) == 4_861_231_861_190_039_540
    assert generator(0, "USS", 1, "query").integers(1000, size=5).tolist() == [384, 335, 231, 667, 521]


def test_integer_seeds_are_63_bit_and_spread():
    seeds = [integer_seed(number) for number in range(2000)]
    assert len(set(seeds)) == 2000
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert len({seed % 2**32 for seed in seeds}) == 2000  # the CPU generator of PyTorch uses the low 32 bits
    for bit in range(63):
        assert 850 < sum(seed >> bit & 1 for seed in seeds) < 1150


def test_the_global_streams_are_not_touched():
    state = torch.get_rng_state()
    for draw in SOURCES.values():
        draw(**NAME)
    assert torch.equal(torch.get_rng_state(), state)
