"""The words of the figures: alt text that says what is to be seen, and captions that can be read alone.

A `describe_` function takes the results and the arrays of `results/slices.npz` and returns alt text and caption (Markdown).
"""

import numpy as np

from ..study.keys import DATA_POOL, INITIAL
from ..study.metrics import METRICS
from ..study.strategies import FEATURED
from .tables import value_text

FEW_CASES = 10  # below this number, box plots show every case
UNLIKELY = 0.05  # liver probability below which the heat map is transparent
ROLES = {"best": "best case", "worst": "worst case", "disagreement": "disagreement"}
ORIENTATION = "The patient's right is on the left."


def describe_effort(results, slices):
    ends = listed(
        f"{key.strategy} reaches DICE {_mean(results, key, 'DICE')} and HD {_mean(results, key, 'HD')} mm with "
        f"{results.effort[key]['annotated_liver_slices']}"
        for key in _last_iteration(results)
    )
    alt = f"Line plots of mean DICE and mean HD against annotated liver slices. At iteration {results.last}, {ends} liver slices."
    caption = (
        "Mean DICE (left) and Hausdorff distance HD (right) of the iterations' models on the test cases, against the annotated liver "
        f"slices behind them; {_points(results)}, starting at the initial model with "
        f"{results.effort[INITIAL]['annotated_liver_slices']} liver slices. Whiskers: bootstrap 95% confidence interval of the mean over the "
        f"n = {len(results.cases)} test cases. Horizontal lines: the initial model (dotted) and the model trained on the whole pool of "
        f"{results.effort[DATA_POOL]['annotated_liver_slices']} liver slices (dash-dotted, with its confidence interval as a band)."
    )
    return alt, caption + _missed_text(results, [key for key in results.scores if key.kind != "converged"])


def _points(results):
    if len(results.iterations) == 1:
        return "one line a query strategy, one iteration"
    return f"one line a query strategy, one point each of {len(results.iterations)} iterations"


def _box_text(results):
    cases = len(results.cases)
    rest = "every case as a dot" if cases < FEW_CASES else "circles for cases beyond"
    return f"Each box is one model on n = {cases} test cases: quartiles, median, whiskers to the last case within 1.5 box lengths, {rest}."


def describe_iterations(results, slices):
    last = results.last
    medians = listed(f"{key.strategy} {_median(results, key, 'DICE')}" for key in _last_iteration(results))
    alt = (
        f"Box plots of DICE, RVE, MSD and HD for the initial model, {last} iteration{'s' * (last > 1)} of {listed(results.strategies)}, "
        f"and the model of the whole pool. Median DICE goes from {_median(results, INITIAL, 'DICE')} to {medians} at iteration "
        f"{last}; data pool {_median(results, DATA_POOL, 'DICE')}."
    )
    caption = (
        "DICE, relative volume error RVE, mean surface distance MSD and Hausdorff distance HD of the models of each active learning "
        f"iteration, between the initial model and the model of the whole pool. {_box_text(results)} Horizontal lines: medians of the "
        "initial (dotted) and data pool (dash-dotted) models."
    )
    return alt, caption + _missed_text(results, [key for key in results.scores if key.kind != "converged"])


def describe_converged(results, slices):
    last = results.last
    changes = listed(
        f"{key.strategy} from {_median(results, key, 'DICE')} to {_median(results, results.final_models[key.strategy], 'DICE')}"
        for key in _last_iteration(results)
    )
    alt = f"Box plots of DICE, RVE, MSD and HD before and after training to convergence. Median DICE goes for {changes}."
    caption = (
        f"Models trained on the annotations of iteration {last}: with the iterations' limit of training (left of each pair, white) and "
        f"until convergence (right, filled), with the model of the whole pool. {_box_text(results)} Horizontal line: median of the data "
        "pool model."
    )
    return alt, caption + _missed_text(results, [*_last_iteration(results), *results.final_models.values()])


def describe_profile(results, slices):
    candidates, chosen, liver = (
        slices["profile_candidates"],
        slices["profile_chosen"],
        np.flatnonzero(slices["profile_liver"]),
    )
    extent = f"slices {liver[0]} to {liver[-1]}" if len(liver) else "no slice"
    inside = int(slices["profile_liver"][chosen].sum())
    settings = results.provenance["config"]
    alt = (
        f"Line plot of slice uncertainty over the {len(slices['profile'])} slices of case {slices['profile_case']}: {len(candidates)} "
        f"candidates, {len(chosen)} of them chosen, liver in {extent}."
    )
    caption = (
        f"Slice uncertainty of pool case {slices['profile_case']}, which holds the highest scored slice of the first {FEATURED} iteration: "
        f"predictive entropy of the initial model ({settings['inference']['samples']} Monte Carlo dropout passes), averaged over all "
        f"voxels of a slice. Circles: the {len(candidates)} candidates, local maxima at least {settings['query']['min_distance']} slices "
        f"apart; filled: the {len(chosen)} that are among the {slices['query_count']} of highest uncertainty in the whole pool (dotted "
        f"line: the lowest of these). Shaded: {extent}, where the reference shows liver; {inside} of the {len(chosen)} chosen lie there."
    )
    return alt, caption


def ordinal(number):
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def describe_queries(results, slices):
    shown = listed(
        f"{case} slice {z} ({score:.3f} nats)"
        for case, z, score in zip(
            slices["query_case"], slices["query_slice"], slices["query_score"], strict=True
        )
    )
    count = len(slices["query_case"])
    alt = f"CT, liver probability and entropy of {count} queried slices: {shown}."
    which = "the three of highest and the one of lowest slice uncertainty" if count > 3 else "all"
    caption = (
        f"Slices that {FEATURED} chose in its first iteration, {which} of {slices['query_count']}, with the green contour of the reference liver "
        "where the slice shows any. Middle row: mean liver probability of the initial model over "
        f"{results.provenance['config']['inference']['samples']} Monte Carlo dropout passes (below {UNLIKELY} transparent); bottom row: "
        "its predictive entropy, at most ln 2 = 0.69 nats. Above: rank, slice uncertainty (mean entropy of all voxels), case and slice. "
        f"{ORIENTATION}"
    )
    return alt, caption


def _case_scores(results, model, case_id):
    place = results.cases.index(case_id)
    return {metric: values[place] for metric, values in results.scores[results.final_models[model]].items()}


def case_text(results, model, case_id):
    scores = _case_scores(results, model, case_id)
    if scores["DICE"] == 0 and scores["RVE"] == 100:
        return "missed"
    return f"DICE {scores['DICE']:.3f}, HD {scores['HD']:.0f} mm"


def describe_cases(results, slices):
    models = [str(model) for model in slices["case_models"]]
    texts = []
    for role, case_id in zip(slices["case_role"], slices["case_id"], strict=True):
        dice = listed(f"{model} {_case_scores(results, model, str(case_id))['DICE']:.3f}" for model in models)
        texts.append(f"{ROLES[str(role)]} {case_id}: DICE {dice}")
    alt = f"CT slices with reference and predicted liver contours. {'; '.join(texts)}."
    strategies = "the strategies" if len(models) > 2 else models[0]
    roles = [
        f"the best {'and the worst ' if 'worst' in slices['case_role'] else ''}case by mean DICE of {strategies}"
    ]
    if "disagreement" in slices["case_role"]:
        roles.append("among the others the case in which the strategies' DICE differ most")
    caption = (
        f"Test cases under the converged models and the data pool model: {listed(roles)}. Reference in green, prediction in magenta, on "
        "the slice where predictions and reference differ in most voxels (summed over the models), cut to the liver. Below each panel: "
        f"DICE and HD of the whole case, not of the slice. {ORIENTATION}"
    )
    return alt, caption


def direction(metric):
    return "higher is better" if METRICS[metric].higher_is_better else "lower is better"


def _last_iteration(results):
    """Keys of the strategies' models of the last iteration."""
    return [results.curve(strategy)[-1] for strategy in results.strategies]


def _mean(results, key, metric):
    return value_text(metric, results.scores[key][metric].mean())


def _median(results, key, metric):
    return value_text(metric, np.median(results.scores[key][metric]))


def listed(parts):
    parts = list(parts)
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _missed_text(results, keys):
    """A sentence on missed livers of the models shown, empty without any."""
    shown = [results.missed[key] for key in keys]
    if not sum(shown):
        return ""
    return (
        f" {sum(shown)} of the {len(shown) * len(results.cases)} results missed the liver altogether: they count with DICE 0, RVE 100%, "
        "and the diagonal of the volume as MSD and HD."
    )
