"""Lists of queries: how they are named and read, and all that can be wrong with them."""

import re

import pytest

from uss_bench.runtime.errors import InputError
from uss_bench.study.pool import Pool
from uss_bench.study.replay import read_queries

HEADER = "strategy,iteration,case_id,slice,score\n"
POOL = {"a": 20, "b": 10, "c": 15}


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Callable that writes a list and reads it as the strategy THEIRS."""
    monkeypatch.chdir(tmp_path)

    def strategy(text, argument="THEIRS=q.csv", iterations=2):
        (tmp_path / "q.csv").write_text(text, encoding="utf-8")
        return read_queries(argument).as_strategy(POOL, ["c"], iterations)

    return strategy


def asked(strategy, iteration):
    return strategy.choose(Pool([], iteration=iteration), 99, None)


def test_slices_by_iteration(read):
    strategy = read(f"{HEADER}USS,1,a,3,0.25\nUSS,2,a,4,\nUSS,1,b,0,0.125\n")
    assert (strategy.name, strategy.asks_for, strategy.needs, strategy.replays) == (
        "THEIRS",
        "slices",
        (),
        "USS",
    )
    assert asked(strategy, 1) == [("a", 3, 0.25), ("b", 0, 0.125)]
    assert asked(strategy, 2) == [("a", 4, None)]
    assert strategy.origin.file == "q.csv"


def test_whole_volumes(read):
    strategy = read(f"{HEADER}UVS,1,a,,0.25\nUVS,2,b,,\n")
    assert strategy.asks_for == "volumes"
    assert asked(strategy, 1) == [("a", None, 0.25)]


def test_one_of_several_strategies(read):
    text = f"{HEADER}UVS,1,a,,\nUSS,1,a,3,\nUSS,2,a,4,\nUVS,2,b,,\n"
    assert asked(read(text, "THEIRS=q.csv:USS"), 2) == [("a", 4, None)]
    with pytest.raises(InputError, match=r"lists UVS, USS; choose one, as THEIRS=q\.csv:UVS"):
        read(text)
    with pytest.raises(InputError, match="lists no queries of RSS; choose one of UVS, USS"):
        read(text, "THEIRS=q.csv:RSS")


def test_a_byte_order_mark_and_further_columns_do_no_harm(read):
    strategy = read("\ufeffslice,case_id,iteration,strategy,score,note\r\n3,a,1,x,,why\r\n4,a,2,x,,\r\n")
    assert asked(strategy, 1) == [("a", 3, None)]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("q.csv", "write LABEL=FILE.csv"),
        ("THEIRS=q.txt", "write LABEL=FILE.csv"),
        ("1=q.csv", "write LABEL=FILE.csv"),
        ("my/label=q.csv", "write LABEL=FILE.csv"),
        ("run.json=q.csv", "write LABEL=FILE.csv"),  # a file of every run
        ("uss=q.csv", "the name uss is taken"),
        ("twin-1=q.csv", "the name twin-1 is taken"),
        ("THEIRS=absent.csv", "absent.csv cannot be read (No such file or directory)"),
    ],
)
def test_arguments_that_name_no_list(read, argument, message):
    with pytest.raises(InputError, match=f"^--queries {argument}: {re.escape(message)}"):
        read(HEADER, argument)


def test_all_that_is_wrong_comes_in_one_message(read):
    rows = [
        "x,1,a,3,0.5",
        "x,1,a,20,",  # a has slices 0 to 19
        "x,1,b,-1,",
        "x,1,d,1,",
        "x,1,c,1,",  # annotated from the beginning
        "x,4,a,3,",  # twice, and there are two iterations
        "x,one,a,5,",
        "x,1,a,high,",
        "x,1,a,6,much",
        "x,1,b,,",
    ]
    with pytest.raises(InputError) as refused:
        read(HEADER + "\n".join(rows) + "\n")
    assert str(refused.value).splitlines() == [
        "--queries THEIRS=q.csv: 11 problem(s)",
        "  line 8: iteration 'one' is not a whole number",
        "  line 9: slice 'high' is neither a whole number nor empty",
        "  line 10: score 'much' is neither a number nor empty",
        "  line 3: case a: slice 20 does not exist; on the working grid there are 0 to 19",
        "  line 4: case b: slice -1 does not exist; on the working grid there are 0 to 9",
        "  line 5: case d is not in the pool; take it out",
        "  line 6: case c is annotated from the beginning; take it out",
        "  line 7: case a: slice 3 is there twice, first in line 2; take one out",
        "  line 11: case b: whole volumes and slices in one list; list either",
        "  no queries for iteration(s) 2 of 2; add them",
        "  iteration(s) 4 beyond 1 to 2 (query.iterations); take them out, or change that setting",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the columns are none; they must be strategy, iteration, case_id, slice, score"),
        (
            "strategy,iteration,case,slice,score\n",
            "the columns are strategy, iteration, case, slice, score; they",
        ),
        (HEADER, "lists no queries"),
        (f"{HEADER}x,1\n", "line 2: case  is not in the pool"),
        (f"{HEADER}x,{'9' * 5000},a,3,\n", "is not a whole number"),
        (f"{HEADER}x,1,a,3,\nx,1,{'a' * 200_000},3,\n", "not a CSV file from line 3 on (field larger than"),
    ],
)
def test_lists_that_are_none(read, text, message):
    with pytest.raises(InputError, match=re.escape(message)):
        read(text)
