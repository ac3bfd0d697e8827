"""Tables of the made-up run in `data/report` against a second computation.

It reads the files with the standard library alone.
"""

import csv
import math
import re
import statistics
from functools import cache
from pathlib import Path

import pytest

from uss_bench.report import tables
from uss_bench.report.results import read_results

REPORT = Path(__file__).parent / "data" / "report"
STRATEGIES = ("UVS", "RVS", "USS", "RSS")
HIGHER_IS_BETTER = {"DICE": True, "RVE": False, "MSD": False, "HD": False}
DECIMALS = {"DICE": 3, "RVE": 2, "MSD": 2, "HD": 1}
MODELS = [(f"iter. {k}", "iteration", strategy, str(k)) for k in (1, 2) for strategy in STRATEGIES]
REFERENCES = [("initial", "initial", "", "0"), ("data pool", "data pool", "", "")]
CELL = re.compile(r"(\*\*)?([\d.]+) ± ([\d.]+) \(([\d.]+)\)(\*\*)?((?:\\\*)*)")


@pytest.fixture(scope="module")
def results():
    return read_results(REPORT)


@cache
def rows_of(name):
    with open(REPORT / "results" / f"{name}.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def diagonal(case_id):
    volume = next(row for row in rows_of("volumes") if row["case_id"] == case_id)
    return math.hypot(*(float(volume[f"size_{axis}"]) * float(volume[f"spacing_{axis}"]) for axis in "zyx"))


def values_of(metric, model, strategy, iteration):
    """`{case_id: value}`, with the volume's diagonal for a distance that is infinite."""
    found = {}
    for row in rows_of("cases"):
        if (row["model"], row["strategy"], row["iteration"]) == (model, strategy, iteration):
            found[row["case_id"]] = diagonal(row["case_id"]) if row[metric] == "inf" else float(row[metric])
    assert len(found) == 8
    return found


def percentile(values, share):
    """Linear interpolation between the two neighbours in order."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def best_of(metric, model, iteration):
    means = {
        strategy: statistics.fmean(values_of(metric, model, strategy, iteration).values())
        for strategy in STRATEGIES
    }
    return (max if HIGHER_IS_BETTER[metric] else min)(means, key=means.get)  # of equal ones the first


def comparison(metric, model, strategy, iteration):
    """Number of zeros and effect size of a strategy against the best."""
    sample, best = (
        values_of(metric, model, name, iteration) for name in (strategy, best_of(metric, model, iteration))
    )
    sign = 1 if HIGHER_IS_BETTER[metric] else -1
    differences = [round(sign * (sample[case_id] - best[case_id]), 9) for case_id in sample]
    ranks = [
        statistics.fmean(
            place
            for place, other in enumerate(sorted(map(abs, differences)), start=1)
            if other == abs(difference)
        )
        for difference in differences
    ]
    won, lost = (
        sum(rank for rank, x in zip(ranks, differences, strict=True) if side * x > 0) for side in (1, -1)
    )
    return differences.count(0), (won - lost) / (won + lost) if won + lost else 0.0


@cache
def found_tests(metric, model):
    return tables.paired_tests(read_results(REPORT), metric, model)


def stars(p):
    return "***" if p < 0.001 else "**" if p < 0.01 else "*" if p < 0.05 else ""


def parsed(table):
    """Header and rows of a Markdown table, as lists of cells."""
    lines = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table.splitlines()]
    return lines[0], lines[2:]


def cells_of(table):
    rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in table.splitlines()]
    return [rows[0], *rows[2:]]
