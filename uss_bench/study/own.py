"""Query strategies of one's own: loaded from a file, checked on a tiny pool, and again on every query.

A strategy of one's own is a `Strategy` in a Python file, named on the command line as `FILE.py:NAME`. It is
handed a `Pool`, from which no label can be reached. Each time it is asked twice, with equal generators and
copies of the pool that it may change, and must answer the same.
"""

from __future__ import annotations

import copy
import math
import sys
import traceback
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ..runtime.errors import InputError
from .pool import OF_ORACLES, SCORES, Pool, PoolCase, Query, pack_mask
from .strategies import Origin, Strategy, free_name

COUNTS = (1, 4, 1000)  # that it is asked for in the check: one, some, and more than there are
CORRECT = "nothing that was finished is lost: correct the file, and the same command continues"
EXAMPLE = "uss_bench.Strategy(name, 'slices', function)"


def is_reference(name: str) -> bool:
    """Whether a name that the user gave is meant to be `FILE.py:NAME`."""
    return ":" in name or name.endswith(".py")


def load(reference: str) -> Strategy:
    """The strategy `FILE.py:NAME`, sound as far as a tiny pool can show.

    Raises
    ------
    InputError
        The file is missing, does not import or lacks the name; what it names is no strategy, or answers as
        none may: see `asked`.
    """
    file, _, name = reference.rpartition(":")
    if not (file.endswith(".py") and name.isidentifier()):
        raise InputError(f"--strategy {reference}: name a strategy in a file, as my_strategy.py:NAME")
    free_name(name, f"--strategy {reference}")
    path = Path(file)
    origin = Origin.read(path, f"--strategy {reference}")
    found = _imported(path, origin.text).get(name)
    _refuse_wrong(found, path, name)
    strategy = replace(found, name=name, needs=tuple(found.needs), origin=origin)
    for count in COUNTS:
        asked(strategy, path, tiny_pool(strategy), count, np.random.default_rng(count), "on a tiny pool")
    return replace(strategy, choose=partial(asked, strategy, path))


def _imported(path: Path, text: str) -> dict[str, Any]:
    """Names that a file defines."""
    module = ModuleType(f"own_{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # where dataclasses look it up
    try:
        exec(compile(text, str(path), "exec", dont_inherit=True), vars(module))
    except (Exception, SystemExit) as error:
        raise InputError(f"{_place(path, error)}; correct the file") from None
    return vars(module)


def _place(path: Path, error: BaseException) -> str:
    """An error in a file, in one line: file, line, and what is wrong."""
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)
    ]
    line = error.lineno if isinstance(error, SyntaxError) and error.filename == str(path) else None
    line = line or (lines[-1] if lines else None)
    text = " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())
    return f"{path}{f', line {line}' if line else ''}: {type(error).__name__}{text and f': {text}'}"


def _refuse_wrong(found: Any, path: Path, name: str) -> None:
    """Refuse what is no strategy, or one that claims what a strategy of one's own cannot have."""
    if found is None:
        raise InputError(f"{path}: has no {name}; define {name} = {EXAMPLE} there")
    if not isinstance(found, Strategy):
        raise InputError(f"{path}: {name} is a {type(found).__name__}; make it {name} = {EXAMPLE}")
    problems = []
    if found.asks_for not in ("volumes", "slices"):
        problems.append(f"asks_for is {found.asks_for!r}; it must be 'volumes' or 'slices'")
    if not callable(found.choose):
        problems.append(f"choose is {found.choose!r}; it must be a function of pool, count, generator")
    open_to_all = [score for score in SCORES if score != OF_ORACLES]
    needs = found.needs if isinstance(found.needs, (tuple, list)) else ()
    if needs is not found.needs or not all(name in open_to_all for name in needs):
        reads_labels = f" ({OF_ORACLES} are read from labels)" if OF_ORACLES in needs else ""
        problems.append(
            f"needs is {found.needs!r}{reads_labels}; it must be a tuple of any of {', '.join(open_to_all)}"
        )
    if found.until_liver:
        problems.append("until_liver counts by labels; leave it out")
    if found.replays:
        problems.append("replays is for lists of queries; leave it out, and use --queries for these")
    if problems:
        raise InputError(f"{path}: {name}: {'; '.join(problems)}")


def asked(
    strategy: Strategy,
    path: Path,
    pool: Pool,
    count: int,
    generator: np.random.Generator,
    place: str = "",
) -> list[Query]:
    """Queries of a strategy of one's own.

    Parameters
    ----------
    strategy : Strategy
        As its file has it.
    path : Path
        Of the file.
    pool, count, generator
        As for `Strategy.choose`.
    place : str
        Where that is, in words; by default the iteration.

    Raises
    ------
    InputError
        It raises an error, or returns what no strategy may: other than queries, unknown cases, slices out of
        range or annotated, anything twice, more than `count`, or another answer to the same question.
    """
    place = place or f"in iteration {pool.iteration}"
    question = f"{strategy.name}, asked for {count} {strategy.asks_for} {place}"
    answers = []
    for random in (copy.deepcopy(generator), generator):
        try:
            shown = copy.deepcopy(pool)
            answers.append([_query(item) for item in strategy.choose(shown, count, random)])
        except (Exception, SystemExit) as error:
            raise InputError(f"{_place(path, error)} ({question}); {CORRECT}") from None
    fault = next(_faults(strategy, pool, count, answers[0]), None)
    if fault is None and answers[0] != answers[1]:
        fault = "another answer to the same question; let nothing but the given generator draw"
    if fault:
        raise InputError(f"{path}: {question}: {fault}; {CORRECT}")
    return answers[0]


def _query(item: Any) -> Query:
    """A query of plain Python types."""
    if not (isinstance(item, tuple) and item and isinstance(item[0], str)):
        raise TypeError(f"{item!r} is not a Query(case_id, z, score)")
    case_id, z, score = Query(*item)
    if not (z is None or isinstance(z, (int, np.integer))) or isinstance(z, bool):
        raise TypeError(f"{item!r}: the slice is not a whole number")
    try:
        finite = score is None or math.isfinite(score)
    except TypeError:
        finite = False
    if not finite:
        raise ValueError(f"{item!r}: the score is not a finite number")
    return Query(str(case_id), None if z is None else int(z), None if score is None else float(score))


def _faults(strategy: Strategy, pool: Pool, count: int, queries: list[Query]) -> Iterator[str]:
    """What is wrong with queries, one by one."""
    cases, seen = {case.case_id: case for case in pool.cases}, set()
    if len(queries) > count:
        yield f"{len(queries)} queries, more than the budget"
    for case_id, z, _ in queries:
        what = f"slice {z} of {case_id}" if strategy.by_slices else f"volume {case_id}"
        if case_id not in cases:
            yield f"{case_id} is not in the pool"
        elif (z is not None) != strategy.by_slices:
            yield f"a query for a {'volume' if z is None else 'slice'} among {strategy.asks_for}"
        elif (case_id, z) in seen:
            yield f"{what} twice"
        elif (z is None and cases[case_id].annotated) or z in cases[case_id].annotated:
            yield f"{what} is annotated already"
        elif z is not None and not 0 <= z < cases[case_id].slices:
            yield f"{what} does not exist; there are {cases[case_id].slices}, counted from 0"
        seen.add((case_id, z))


def tiny_pool(strategy: Strategy) -> Pool:
    """Five volumes with made-up scores; one is annotated throughout, another in part."""
    random, cases = np.random.default_rng(0), []
    for number, slices in enumerate((12, 20, 9, 15, 11)):
        annotated = {0: range(12), 1: (3, 4, 10)}.get(number, ())
        known = {
            "volume": float(random.uniform(0, 0.6)),
            "disagreement": float(random.uniform()),
            "profile": random.uniform(0, 0.6, slices),
            "information": random.uniform(0, 0.3, slices),
            "liver": random.integers(0, 60, slices),
            "mask": pack_mask(random.uniform(size=(slices, 8, 8)) < 0.3),
        }
        scores = {name: known[name] for name in strategy.needs} if number else {}
        cases.append(PoolCase(f"tiny-{number}", slices, frozenset(annotated), scores))
    return Pool(cases, min_distance=2)
