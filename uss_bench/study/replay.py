"""Lists of queries, made by any tool, that are trained and evaluated as strategies of their own.

On the command line `LABEL=FILE.csv`, with the columns of `results/queries.csv`; where the file lists several
strategies, `LABEL=FILE.csv:STRATEGY` names the one to replay.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..runtime.errors import InputError, refuse
from .pool import Query
from .strategies import Origin, Strategy, free_name

QUERY_COLUMNS = ("strategy", "iteration", "case_id", "slice", "score")
ARGUMENT = re.compile(r"(?P<label>[A-Za-z][\w-]*)=(?P<file>.+\.csv)(?::(?P<strategy>[^:/\\]+))?")


@dataclass(frozen=True)
class Row:
    """A query of a list, and the line that it stands in."""

    line: int
    iteration: int
    query: Query


@dataclass(frozen=True)
class QueryList:
    """A list of queries, read and not yet held against the cases of a run.

    Attributes
    ----------
    label : str
        Name of the strategy that repeats it.
    path : Path
        Of the file.
    text : str
        What it says.
    strategy : str
        Whose queries they are, by the column of that name.
    rows : list of Row
        The queries, as far as they can be read.
    problems : list of str
        What cannot be read.
    """

    label: str
    path: Path
    text: str
    strategy: str
    rows: list[Row]
    problems: list[str]

    def as_strategy(self, slices: Mapping[str, int], initial: Collection[str], iterations: int) -> Strategy:
        """The strategy that repeats the list, on the pool that it is meant for.

        Parameters
        ----------
        slices : mapping
            `{case_id: number of slices on the working grid}`, of the pool.
        initial : collection of str
            Cases that are annotated from the beginning.
        iterations : int
            How many there are.

        Raises
        ------
        InputError
            With all that is wrong with the list.
        """
        problems = self.problems
        if self.rows:
            problems = [*problems, *self._faults(slices, initial), *self._gaps(iterations)]
        _refuse(self.label, self.path, problems)
        by_iteration: dict[int, list[Query]] = defaultdict(list)
        for row in self.rows:
            by_iteration[row.iteration].append(row.query)
        return Strategy(
            self.label,
            "volumes" if self.rows[0].query.z is None else "slices",
            lambda pool, count, generator: by_iteration[pool.iteration],
            origin=Origin(self.path.name, self.text),
            replays=self.strategy,
        )

    def _faults(self, slices: Mapping[str, int], initial: Collection[str]) -> Iterator[str]:
        """What is wrong with single queries."""
        first: dict[tuple[str, int | None], int] = {}
        whole = self.rows[0].query.z is None
        for row in self.rows:
            case_id, z, _ = row.query
            place = f"line {row.line}: case {case_id}"
            if case_id not in slices:
                yield f"{place} is not in the pool; take it out"
            elif case_id in initial:
                yield f"{place} is annotated from the beginning; take it out"
            elif z is not None and not 0 <= z < slices[case_id]:
                there = f"on the working grid there are 0 to {slices[case_id] - 1}"
                yield f"{place}: slice {z} does not exist; {there}"
            if (z is None) != whole:
                yield f"{place}: whole volumes and slices in one list; list either"
            before = first.setdefault((case_id, z), row.line)
            if before != row.line:
                what = "the volume" if z is None else f"slice {z}"
                yield f"{place}: {what} is there twice, first in line {before}; take one out"

    def _gaps(self, iterations: int) -> Iterator[str]:
        """What is wrong with the iterations."""
        there, expected = {row.iteration for row in self.rows}, set(range(1, iterations + 1))
        if missing := sorted(expected - there):
            yield f"no queries for iteration(s) {', '.join(map(str, missing))} of {iterations}; add them"
        if extra := sorted(there - expected):
            yield (
                f"iteration(s) {', '.join(map(str, extra))} beyond 1 to {iterations} (query.iterations); "
                "take them out, or change that setting"
            )


def read_queries(argument: str) -> QueryList:
    """The list that `LABEL=FILE.csv` or `LABEL=FILE.csv:STRATEGY` names.

    Raises
    ------
    InputError
        The argument has another form, the label is taken, or the file cannot be read.
    """
    match = ARGUMENT.fullmatch(argument)
    if not match:
        raise InputError(f"--queries {argument}: write LABEL=FILE.csv, or LABEL=FILE.csv:STRATEGY")
    label, path, wanted = match["label"], Path(match["file"]), match["strategy"]
    free_name(label, f"--queries {argument}")
    text = Origin.read(path, f"--queries {argument}").text
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        columns, lines = reader.fieldnames or (), [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        problem = f"not a CSV file from line {reader.line_num + 1} on ({error}); save it as plain CSV"
        _refuse(label, path, [problem])
    if not set(QUERY_COLUMNS) <= set(columns):
        there = ", ".join(columns) or "none"
        _refuse(label, path, [f"line 1: the columns are {there}; they must be {', '.join(QUERY_COLUMNS)}"])
    numbered = [(line, {name: row[name] or "" for name in QUERY_COLUMNS}) for line, row in lines]
    names = list(dict.fromkeys(row["strategy"] for _, row in numbered))
    if wanted is None and len(names) > 1:
        _refuse(label, path, [f"lists {', '.join(names)}; choose one, as {label}={path}:{names[0]}"])
    name = wanted or next(iter(names), "")
    chosen = [(line, row) for line, row in numbered if row["strategy"] == name]
    if not chosen:
        others = f" of {name}; choose one of {', '.join(names)}" if names else ""
        _refuse(label, path, [f"lists no queries{others}"])
    read = [_read_row(line, row) for line, row in chosen]
    rows, problems = [row for row, _ in read if row], [problem for _, found in read for problem in found]
    return QueryList(label, path, text, name or label, rows, problems)


def _refuse(label: str, path: Path, problems: Sequence[str]) -> None:
    refuse(f"--queries {label}={path}: {len(problems)} problem(s)", problems)


def _read_row(line: int, row: Mapping[str, str]) -> tuple[Row | None, list[str]]:
    """What a row asks for, if it can be read, and what is wrong with it."""
    problems = []
    iteration, z = (_whole_number(row[name]) for name in ("iteration", "slice"))
    if iteration is None:
        problems.append(f"line {line}: iteration {row['iteration']!r} is not a whole number")
    if z is None and row["slice"]:
        problems.append(f"line {line}: slice {row['slice']!r} is neither a whole number nor empty")
    try:
        score = float(row["score"]) if row["score"] else None
    except ValueError:
        score = math.nan
    if score is not None and not math.isfinite(score):
        problems.append(f"line {line}: score {row['score']!r} is neither a number nor empty")
    return None if problems else Row(line, iteration, Query(row["case_id"], z, score)), problems


def _whole_number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"-?[0-9]{1,9}", text) else None
