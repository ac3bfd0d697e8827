"""The four query strategies (section II-E), as pure functions from scores or random numbers to what is annotated next.

Ties are broken by case id and slice index, so that a selection depends on nothing but its arguments.
"""

from scipy.signal import find_peaks

STRATEGIES = ("UVS", "RVS", "USS", "RSS")


def slice_candidates(profile, min_distance=5):
    """Sorted indices of the local maxima of a slice uncertainty profile that are at least `min_distance` slices apart.

    Of two closer maxima the higher stays; a plateau counts once, at its middle. The first and the last slice have only one neighbour
    and are never maxima.
    """
    peaks, _ = find_peaks(profile, distance=min_distance)
    return peaks


def most_uncertain_volumes(scores, count):
    """UVS: the `count` case ids of highest volume uncertainty, from `{case_id: score}`, the most uncertain first."""
    return sorted(scores, key=lambda case_id: (-scores[case_id], case_id))[:count]


def random_volumes(case_ids, count, generator):
    """RVS: `count` case ids without replacement."""
    return [str(case_id) for case_id in generator.choice(sorted(case_ids), size=count, replace=False)]


def most_uncertain_slices(profiles, annotations, count, min_distance=5):
    """USS: the `count` candidates `(case_id, z, score)` of highest slice uncertainty over the whole pool, the most uncertain first.

    `profiles` is `{case_id: (z,) array}`. Annotated slices are no candidates. Fewer come back where fewer exist.
    """
    candidates = [
        (case_id, int(z), float(profile[z]))
        for case_id, profile in profiles.items()
        for z in slice_candidates(profile, min_distance)
        if z not in annotations.of(case_id)
    ]
    return sorted(candidates, key=lambda candidate: (-candidate[2], *candidate[:2]))[:count]


def random_slices(slice_counts, annotations, count, shows_liver, generator):
    """RSS: unannotated slices `(case_id, z)` drawn without replacement until `count` of them show liver, in the order drawn.

    `slice_counts` is `{case_id: number of slices}`; `shows_liver(case_id, z)` is asked only for slices already drawn. Where the pool
    runs out first, all of it comes back.
    """
    remaining = [(case_id, z) for case_id in sorted(slice_counts) for z in range(slice_counts[case_id]) if z not in annotations.of(case_id)]
    drawn, with_liver = [], 0
    for index in generator.permutation(len(remaining)):
        if with_liver == count:
            break
        drawn.append(remaining[index])
        with_liver += bool(shows_liver(*remaining[index]))
    return drawn
