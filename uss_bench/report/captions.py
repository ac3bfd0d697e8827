"""The words of the figures: alt text that says what is to be seen, and captions.

Captions say what the figure itself does not: no legend, title or table is repeated there.

A `describe_` function takes the results and the arrays of `results/slices.npz`, and returns alt text and
caption in Markdown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from ..study.keys import DATA_POOL, INITIAL, ModelKey
from ..study.querying import slices_apart
from ..study.strategies import FEATURED
from .effort import equivalent_slices
from .results import Results
from .statistics import MEAN_CASES
from .tables import many
from .words import listed, plural, span, value_text

FEW_CASES = 10  # below this number, box plots show every case
UNLIKELY = 0.05  # liver probability below which the heat map is transparent
ROLES = {"best": "best case", "worst": "worst case", "disagreement": "disagreement"}
ORIENTATION = "The patient's right is on the left."

Arrays = Mapping[str, np.ndarray]
Texts = tuple[str, str]


def describe_effort(results: Results, slices: Arrays) -> Texts:
    """Key figure: mean DICE and HD against effort."""
    ends = listed(
        f"{key.strategy} {_mean(results, key, 'DICE')} and {_mean(results, key, 'HD')} mm "
        f"with {equivalent_slices(results, key):.0f}"
        for key in _last_iteration(results)
    )
    alt = (
        "Line plots of mean DICE and mean HD against equivalent slices. "
        f"At iteration {results.last}: {ends} slices."
    )
    initial, pool = (equivalent_slices(results, key) for key in (INITIAL, DATA_POOL))
    caption = (
        f"Mean DICE and HD of the iterations' models over n = {len(results.cases)} test cases, against "
        f"equivalent slices, beginning with the initial model at {initial:.0f}. Horizontal lines: initial "
        f"model (dotted) and data pool model (dash-dotted, {pool:.0f} equivalent slices)."
    )
    if len(results.cases) >= MEAN_CASES:
        intervals = "Band" if many(results.strategies) else "Whiskers, and band"
        caption += (
            f" {intervals} of the data pool model: 95% interval of the paired "
            "difference from the initial model (bootstrap over cases), about the mean. This compares no "
            "strategies and leaves out retraining."
        )
    if results.twins:
        caption += " Grey crosses: the initial annotations, retrained under other weights and batches."
    return alt, caption


def describe_profile(results: Results, slices: Arrays) -> Texts:
    """Figure 2: slice uncertainty along a volume."""
    candidates, chosen = slices["profile_candidates"], slices["profile_chosen"]
    liver = np.flatnonzero(slices["profile_liver"])
    extent = f"slices {liver[0]} to {liver[-1]}" if len(liver) else "no slice"
    settings = results.provenance["config"]
    distance = settings["query"]["min_distance_mm"]
    apart = plural(slices_apart(distance, settings["data"]["spacing"][0]), "slice")
    alt = (
        f"Line plot of slice uncertainty over the {len(slices['profile'])} slices of case "
        f"{slices['profile_case']}: {len(candidates)} candidates, {len(chosen)} of them chosen, "
        f"liver in {extent}."
    )
    caption = (
        f"Slice uncertainty of pool case {slices['profile_case']}, which holds the highest scored slice of "
        f"the first {FEATURED} iteration: predictive entropy of the initial model "
        f"({settings['inference']['samples']} Monte Carlo dropout passes), averaged over the "
        f"slice. Circles: candidates, local maxima at least {distance:g} mm apart (here {apart}); "
        f"filled: the {len(chosen)} among the {slices['query_count']} of highest uncertainty in the "
        f"whole pool (dotted line: the lowest of these). Shaded: {extent}, with liver in the reference. "
        "Slices of the working grid, counted from 0."
    )
    return alt, caption


def describe_iterations(results: Results, slices: Arrays) -> Texts:
    """Figure 3: box plots over the iterations."""
    alt = (
        "Box plots of DICE, RVE, MSD and HD by iteration; median DICE from "
        f"{_median(results, INITIAL, 'DICE')} (initial) to {_median(results, DATA_POOL, 'DICE')} (data pool)."
    )
    caption = (
        "Scores of the models of each iteration, between the initial and the data pool model. "
        f"{_box_text(results)} Horizontal lines: medians of the initial (dotted) and data pool (dash-dotted) "
        "models."
    )
    return alt, caption + _missed_text(results, results.limited_models)


def describe_queries(results: Results, slices: Arrays) -> Texts:
    """Figure 4: queried slices."""
    queries = zip(slices["query_case"], slices["query_slice"], slices["query_score"], strict=True)
    shown = listed(f"{case} slice {z} ({score:.3f} nats)" for case, z, score in queries)
    count = len(slices["query_case"])
    alt = f"CT, liver probability and entropy of {count} queried slices: {shown}."
    which = "the three of highest and the one of lowest slice uncertainty" if count > 3 else "all"
    samples = results.provenance["config"]["inference"]["samples"]
    caption = (
        f"Slices that {FEATURED} chose in its first iteration, {which} of {slices['query_count']}, with the "
        "reference liver in green. Middle row: mean liver probability of the initial model over "
        f"{samples} Monte Carlo dropout passes (below {UNLIKELY} transparent); bottom row: its predictive "
        f"entropy, at most ln 2 = 0.69 nats. Slices of the working grid, counted from 0. {ORIENTATION}"
    )
    return alt, caption + _variants_text(results, slices["query_case"])


def describe_cases(results: Results, slices: Arrays) -> Texts:
    """Figure 5: segmentations of test cases."""
    models = [str(model) for model in slices["case_models"]]
    shown_cases = zip(slices["case_role"], slices["case_id"], strict=True)
    cases = listed(f"{ROLES[str(role)]} {case_id}" for role, case_id in shown_cases)
    alt = f"CT slices with reference and predicted liver contours: {cases}."
    strategies = "the strategies" if len(models) > 2 else models[0]
    ran, shown = len(results.strategies), len(models) - 1
    left_out = f" Shown are the first {shown} of {ran} strategies." if shown < ran else ""
    worst = "and the worst " if "worst" in slices["case_role"] else ""
    roles = [f"the best {worst}case by mean DICE of {strategies}"]
    if "disagreement" in slices["case_role"]:
        roles.append("among the others the case in which the strategies' DICE differ most")
    caption = (
        f"Test cases under the final models: {listed(roles)}. Shown is the slice on which predictions and "
        "reference differ in most voxels, summed over the models, cut to a box around the liver and all "
        "predictions (slices of the CT's own grid, counted from 0); below it, DICE and HD of the whole case."
        f"{left_out} {ORIENTATION}"
    )
    return alt, caption + _variants_text(results, slices["case_id"])


def describe_converged(results: Results, slices: Arrays) -> Texts:
    """Figure 6: box plots of the last iteration's models and of the final ones."""
    last, final = results.last, results.final_models
    medians = [_median(results, final[strategy], "DICE") for strategy in results.strategies]
    alt = (
        f"Box plots of DICE, RVE, MSD and HD of the models of iteration {last} and of the final models, "
        f"whose median DICE is {span(min(medians), max(medians))}."
    )
    ended = "until convergence (filled)"
    if stopped := [key for key in results.stopped if key != DATA_POOL]:
        limit = results.provenance["config"]["training"]["converged_max_steps"]
        of_all = f"{len(stopped)} of {len(results.strategies)}"
        ended = f"until convergence or {limit} steps (filled; {of_all} were stopped there)"
    trained = f"with the iterations' limit of training (white) and {ended}"
    if results.retrained:
        trained = "in the iteration (white) and once more under other batches, for as many steps (filled)"
    caption = (
        f"Models trained on the annotations of iteration {last}: {trained}; and the data pool model, its "
        "median as a line. "
        f"Boxes as in Figure 3, on the same n = {len(results.cases)} test cases."
    )
    return alt, caption + _missed_text(results, [*_last_iteration(results), *final.values()])


def case_text(results: Results, model: str, case_id: str) -> str:
    """Scores of a test case under one of the final models, in a few words."""
    scores = _case_scores(results, model, case_id)
    if case_id in results.missed[results.final_models[model]]:
        return "missed"
    return f"DICE {scores['DICE']:.3f}, HD {scores['HD']:.0f} mm"


def _case_scores(results: Results, model: str, case_id: str) -> dict[str, float]:
    place = results.cases.index(case_id)
    return {metric: values[place] for metric, values in results.scores[results.final_models[model]].items()}


def _variants_text(results: Results, case_ids: Iterable[str]) -> str:
    """Variants of the cases shown, of which one may be a mirrored body; empty where the manifest has none."""
    variants = {row["case_id"]: row.get("variant", "") for row in results.volumes}
    shown = [f"{name} {variants[name]}" for name in dict.fromkeys(map(str, case_ids)) if variants.get(name)]
    return f" Variants: {listed(shown)}." if shown else ""


def _box_text(results: Results) -> str:
    cases = len(results.cases)
    rest = "every case as a dot" if cases < FEW_CASES else "circles for cases beyond"
    return (
        f"Each box is one model on n = {cases} test cases: quartiles, median, whiskers to the last case "
        f"within 1.5 box lengths, {rest}."
    )


def _last_iteration(results: Results) -> list[ModelKey]:
    """Keys of the strategies' models of the last iteration."""
    return [results.curve(strategy)[-1] for strategy in results.strategies]


def _mean(results: Results, key: ModelKey, metric: str) -> str:
    return value_text(metric, results.scores[key][metric].mean())


def _median(results: Results, key: ModelKey, metric: str) -> str:
    return value_text(metric, np.median(results.scores[key][metric]))


def _missed_text(results: Results, keys: Iterable[ModelKey]) -> str:
    """A sentence on missed livers of the models shown, empty without any."""
    shown = [len(results.missed[key]) for key in keys]
    if not sum(shown):
        return ""
    total = len(shown) * len(results.cases)
    return f" {sum(shown)} of the {total} results missed the liver altogether (see Missed livers)."
