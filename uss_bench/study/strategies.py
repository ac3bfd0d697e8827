"""The query strategies: one table (section II-E).

Rules lie in `rules`, what they see and return in `pool`. A new strategy is a function there and a line of the
table here; one of your own needs neither, see `own`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..runtime.errors import InputError
from . import rules
from .pool import OF_ORACLES, UNCERTAINTIES, Pool, Query


@dataclass(frozen=True)
class Origin:
    """The file that a strategy comes from, if it is not one of the table.

    Attributes
    ----------
    file : str
        Its name, without folders.
    text : str
        What it says.
    """

    file: str
    text: str

    @classmethod
    def read(cls, path: Path, place: str) -> Origin:
        """The file at a path; raises InputError where it cannot be read, and `place` begins the message."""
        try:
            return cls(path.name, path.read_text(encoding="utf-8-sig"))
        except OSError as error:
            reason, advice = error.strerror, "correct the path"
        except UnicodeDecodeError as error:
            reason, advice = error, "save it as UTF-8"
        raise InputError(f"{place}: {path} cannot be read ({reason}); {advice}")

    @property
    def digest(self) -> str:
        """SHA-256 of the text, as hexadecimal text."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True)
class Strategy:
    """A query strategy.

    Attributes
    ----------
    name : str
        A few letters, for tables and figures.
    asks_for : str
        "volumes" or "slices".
    choose : callable
        `choose(pool, count, generator)` returns queries, the most wanted first, from a `Pool`, the number of
        volumes or slices to annotate, and a `numpy.random.Generator`.
    needs : tuple of str
        Names of `pool.SCORES` that it reads. If there are any, the previous model is trained first and scores
        the pool.
    until_liver : bool
        Whether queries are annotated in their order only until `count` of them show liver.
    colour, marker : str
        Of its lines in figures; read for strategies of the table alone, others get looks that are free.
    rule : str
        What the report says of it, as the rest of a sentence that begins with its name; likewise.
    origin : Origin, optional
        Where it comes from, if not from the table.
    replays : str
        Whose queries it repeats from a list, whatever the count; empty if it chooses itself. Its trainings
        draw under that name, so that equal queries give equal numbers.
    """

    name: str
    asks_for: str
    choose: Callable[[Pool, int, np.random.Generator], Iterable[Query]]
    needs: tuple[str, ...] = ()
    until_liver: bool = False
    colour: str = ""
    marker: str = ""
    rule: str = ""
    origin: Origin | None = None
    replays: str = ""

    @property
    def by_slices(self) -> bool:
        """Whether it asks for slices and not for volumes."""
        return self.asks_for == "slices"

    @property
    def by_uncertainty(self) -> bool:
        """Whether a model's uncertainty decides, and not chance, distance or error."""
        return any(score in UNCERTAINTIES for score in self.needs)

    @property
    def is_oracle(self) -> bool:
        """Whether it reads labels that nobody has paid for."""
        return OF_ORACLES in self.needs


# The paper's four in the order of its tables, then the others, the oracle last. Colours are Okabe and Ito's
# and Tol's; where eyes confuse them, markers do not.
STRATEGIES = {
    strategy.name: strategy
    for strategy in (
        Strategy(
            "UVS", "volumes", rules.most_uncertain_volumes, needs=("volume",), colour="#0072B2", marker="s",
            rule="asks late for volumes in which no liver is predicted: it then averages over all of them",
        ),
        Strategy("RVS", "volumes", rules.random_volumes, colour="#56B4E9", marker="s"),
        Strategy(
            "USS", "slices", rules.most_uncertain_slices, needs=("profile",), colour="#D55E00", marker="o",
            rule="adds exactly N_S candidates of highest slice uncertainty over the whole pool",
        ),
        Strategy(
            "RSS", "slices", rules.random_slices, until_liver=True, colour="#E69F00", marker="o",
            rule="adds random slices until N_S of them show liver",
        ),
        Strategy(
            "PVS", "volumes", rules.most_disagreed_volumes, needs=("disagreement",),
            colour="#332288", marker="D",
            rule="adds volumes of lowest mean pairwise DICE of the Monte Carlo samples (Roy et al. 2019)",
        ),
        Strategy(
            "FRS", "slices", rules.random_liver_slices, needs=("liver",), colour="#009E73", marker="^",
            rule="adds random slices on which the model predicts liver, others where these are too few",
        ),
        Strategy(
            "BRS", "slices", rules.random_slices_in_turn, colour="#999933", marker="v",
            rule="adds random slices, as many from every volume",
        ),
        Strategy(
            "ESS", "slices", rules.farthest_slices, colour="#661100", marker="<",
            rule="adds the slices farthest from everything annotated, volumes in turn",
        ),
        Strategy(
            "USS-S", "slices", rules.spread_uncertain_slices, needs=("profile",),
            colour="#CC79A7", marker="P",
            rule="is USS without candidates near an annotated slice, and with a fair share per volume",
        ),
        Strategy(
            "BSS", "slices", rules.most_informative_slices, needs=("information",),
            colour="#882255", marker="X",
            rule="is USS by mutual information instead of entropy (BALD; Gal et al. 2017)",
        ),
        Strategy(
            "PSS", "slices", rules.power_entropy_slices, needs=("profile",), colour="#44AA99", marker="*",
            rule="adds slices of highest log entropy plus Gumbel noise (PowerEntropy; Kirsch et al. 2023)",
        ),
        Strategy(
            "SBS", "slices", rules.stochastic_batch, needs=("profile",), colour="#117733", marker="p",
            rule=f"adds the most uncertain of {rules.BATCHES} random batches (Gaillochet et al. 2023)",
        ),
        Strategy(
            "OSS", "slices", rules.most_wrong_slices, needs=(OF_ORACLES,), colour="#666666", marker="h",
            rule="is USS by the error itself, an oracle: it reads labels, and shows what is to be gained",
        ),
    )
}  # fmt: skip
PAPER = ("UVS", "RVS", "USS", "RSS")
FEATURED = "USS"  # whose queries the figures show
BASELINE = "RSS"  # what a report across seeds holds the others against: slices by chance
BUDGET = "UVS"  # whose effort sets how many slices the slice strategies get
ORACLES = tuple(name for name, strategy in STRATEGIES.items() if strategy.is_oracle)
GROUPS = {"ALL": PAPER, "EXTENDED": tuple(STRATEGIES)}
# Folders of a run that belong to no strategy; see `keys.ModelKey.folder` and `runtime.paths`.
RESERVED = re.compile(r"initial|data-pool|twin-\d+|status|all|extended", re.IGNORECASE)


def in_order(names: Iterable[str]) -> list[str]:
    """Names of strategies, each once: those of the table in its order, then the others as they come.

    >>> in_order(["other", "USS", "UVS", "USS"])
    ['UVS', 'USS', 'other']
    """
    names = list(dict.fromkeys(names))
    return [
        *(name for name in STRATEGIES if name in names),
        *(name for name in names if name not in STRATEGIES),
    ]


def named(names: Iterable[str]) -> list[Strategy]:
    """Strategies by their names, each once, in the order of the table.

    `all` stands for the paper's four, `extended` for the whole table; upper and lower case are the same.

    Raises
    ------
    InputError
        A name is unknown.

    Examples
    --------
    >>> [strategy.name for strategy in named(["rss", "uvs"])]
    ['UVS', 'RSS']
    """
    asked = {name.upper(): name for name in names}
    chosen = {name for asked_for in asked for name in GROUPS.get(asked_for, (asked_for,))}
    unknown = [as_given for name, as_given in asked.items() if name in chosen - STRATEGIES.keys()]
    if unknown:
        raise InputError(
            f"--strategy {' '.join(unknown)}: unknown; choose all, extended, FILE.py:NAME, "
            f"or any of {', '.join(STRATEGIES)}"
        )
    return [strategy for name, strategy in STRATEGIES.items() if name in chosen]


def free_name(name: str, place: str) -> None:
    """Raise InputError where a name belongs to the table or to a folder of every run; `place` begins it."""
    if name.upper() in STRATEGIES or RESERVED.fullmatch(name):
        raise InputError(f"{place}: the name {name} is taken; choose another")
