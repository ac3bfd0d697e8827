"""The table of query strategies, and the names on the command line."""

import pytest

from uss_bench.runtime.errors import InputError
from uss_bench.study.pool import SCORES
from uss_bench.study.strategies import PAPER, STRATEGIES, named


def test_the_papers_four_in_the_order_of_the_paper():
    assert PAPER == ("UVS", "RVS", "USS", "RSS")
    assert tuple(STRATEGIES)[:4] == PAPER
    assert all(name == strategy.name for name, strategy in STRATEGIES.items())


def test_what_ships_beside_them():
    further = "PVS FRS BRS ESS USS-S BSS PSS SBS OSS"
    assert " ".join(list(STRATEGIES)[4:]) == further
    assert all(STRATEGIES[name].rule for name in further.split())
    assert {name for name, strategy in STRATEGIES.items() if not strategy.by_slices} == {"UVS", "RVS", "PVS"}
    assert {name for name, strategy in STRATEGIES.items() if strategy.by_uncertainty} == {
        "UVS", "USS", "PVS", "USS-S", "BSS", "PSS", "SBS"
    }  # fmt: skip
    assert [name for name, strategy in STRATEGIES.items() if strategy.is_oracle] == ["OSS"]
    assert {score for strategy in STRATEGIES.values() for score in strategy.needs} <= set(SCORES)


def test_names_in_any_case_of_letters_each_once_in_the_order_of_the_table():
    assert [strategy.name for strategy in named(["rss", "UVS", "Rss"])] == ["UVS", "RSS"]
    assert [strategy.name for strategy in named(["all"])] == list(PAPER)
    assert [strategy.name for strategy in named(["uss", "ALL"])] == list(PAPER)
    assert [strategy.name for strategy in named(["frs", "all", "uss-s"])] == [*PAPER, "FRS", "USS-S"]
    assert [strategy.name for strategy in named(["extended", "uss"])] == list(STRATEGIES)


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(
        InputError,
        match=r"--strategy bald x: unknown; choose all, extended, FILE.py:NAME, or any of UVS, RVS, USS, RSS",
    ):
        named(["uss", "bald", "x"])
