"""Numbers, lists and tables as text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..study.metrics import METRICS
from ..study.strategies import ORACLES


def markdown_table(header: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table with a left-aligned first column and right-aligned others.

    >>> print(markdown_table(["Site", "n"], [["Leeds", 3]]))
    | Site | n |
    | --- | ---: |
    | Leeds | 3 |
    """
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", r"\|") for cell in line) + " |" for line in lines
    )


def turned_table(header: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A table with rows and columns in each other's place.

    >>> print(turned_table(["Site", "A", "B"], [["x", 1, 2]]))
    | Site | x |
    | --- | ---: |
    | A | 1 |
    | B | 2 |
    """
    first, *others = zip(header, *rows, strict=True)
    return markdown_table(first, others)


def turned_tables(header: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A turned table per value of the first column, which stands in its corner.

    >>> print(turned_tables(["Metric", "Site", "A"], [["HD", "x", 1], ["HD", "y", 3]]))
    | HD, Site | x | y |
    | --- | ---: | ---: |
    | A | 1 | 3 |
    """
    parts: dict[object, list[Sequence[object]]] = {}
    for first, *others in rows:
        parts.setdefault(first, []).append(others)
    _, corner, *names = header
    return "\n\n".join(turned_table([f"{first}, {corner}", *names], part) for first, part in parts.items())


def titled(metric: str) -> str:
    """A metric with its unit.

    >>> titled("HD"), titled("DICE")
    ('HD [mm]', 'DICE')
    """
    unit = METRICS[metric].unit
    return f"{metric} [{unit}]" if unit else metric


def value_text(metric: str, value: float) -> str:
    """A value of a metric to its number of decimals; what rounds to zero has no sign.

    >>> value_text("DICE", 0.9), value_text("HD", 12.34), value_text("HD", -0.01)
    ('0.900', '12.3', '0.0')
    """
    text = f"{value:.{METRICS[metric].decimals}f}"
    return text if float(text) else text.lstrip("-")


def signed(value: float, pattern: str) -> str:
    """A number with its sign; what rounds to zero has none.

    >>> signed(0.0123, ".3f"), signed(-0.0001, ".3f")
    ('+0.012', '0.000')
    """
    text = f"{value:+{pattern}}"
    return text if float(text) else text[1:]


def interval_text(low: float, high: float, decimals: int, sign: str = "+") -> str:
    """An interval whose ends show on which side of zero they lie, where it takes up to three more decimals.

    >>> interval_text(-0.00048, 0.12, 3), interval_text(0.00048, 0.12, 3, sign="")
    ('[-0.0005, +0.120]', '[0.0005, 0.120]')
    """
    ends = []
    for end in (low, high):
        texts = [f"{end:{sign}.{decimals + more}f}" for more in range(4)]
        ends.append(next(filter(float, texts), f"{0:.{decimals}f}"))
    return f"[{', '.join(ends)}]"


def p_text(p_value: float | None) -> str:
    """A p value to three decimals, bounded below, with more where they show on which side of 0.05 it lies.

    Empty where there is none.

    >>> p_text(0.0625), p_text(0.0002), p_text(0.0496)
    ('0.062', '<0.001', '0.0496')
    """
    if p_value is None:
        return ""
    if p_value < 0.001:
        return "<0.001"
    texts = [f"{p_value:.{decimals}f}" for decimals in (3, 4, 5)]
    return next((text for text in texts if (float(text) < 0.05) == (p_value < 0.05)), texts[-1])


def escaped(marks: str) -> str:
    """Stars that Markdown prints as they are."""
    return marks.replace("*", r"\*")


def marked(text: str) -> str:
    """A text in which a dagger follows the name of every oracle.

    Code is left as it is.

    >>> marked("USS and OSS; OSS†"), marked("CROSS-OSS-3"), marked("`OSS.csv`")
    ('USS and OSS†; OSS†', 'CROSS-OSS-3', '`OSS.csv`')
    """
    name = rf"(?<![\w-])(?:{'|'.join(ORACLES)})(?![\w†-])"
    return re.sub(rf"(`+)[\s\S]*?\1|{name}", lambda found: found[0] if found[1] else f"{found[0]}†", text)


def oracle_note(names: Iterable[str]) -> str:
    """What a dagger means, where there is an oracle among strategies; else empty."""
    if not set(ORACLES).intersection(names):
        return ""
    return (
        "† An oracle, not a usable strategy: it reads labels before anybody has annotated the slices, and "
        "shows what is to be gained."
    )


def listed(parts: Iterable[str]) -> str:
    """At least one part, with commas and an "and".

    >>> listed(["A"]), listed(["A", "B", "C"])
    ('A', 'A, B and C')
    """
    parts = list(parts)
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def span(low: object, high: object) -> str:
    """A range, or the one value that it is.

    >>> span(1, 1), span(1, 3)
    ('1', '1–3')
    """
    return str(low) if low == high else f"{low}–{high}"


def ordinal(number: int) -> str:
    """A number as a rank.

    >>> ordinal(1), ordinal(12), ordinal(23)
    ('1st', '12th', '23rd')
    """
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def plural(count: int, noun: str) -> str:
    """A count with its noun.

    >>> plural(1, "case"), plural(3, "case")
    ('1 case', '3 cases')
    """
    return f"{count} {noun}{'s' * (count != 1)}"


def better_direction(metric: str) -> str:
    """Which values of a metric are good, in words."""
    return "higher is better" if METRICS[metric].higher_is_better else "lower is better"


def commit_text(git: Mapping[str, Any] | None) -> str:
    """Commit of a provenance, and whether the code was changed since.

    >>> commit_text({"commit": "1a2b", "changed": True}), commit_text(None)
    ('1a2b, with uncommitted changes', 'not a checkout')
    """
    if not git:
        return "not a checkout"
    return f"{git['commit']}{', with uncommitted changes' if git['changed'] else ''}"
