"""What is annotated in a simulated workflow, and the effort it stands for (section IV of the paper)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence


class Annotations:
    """Which axial slices of which cases are annotated. Immutable: adding gives a new record.

    Parameters
    ----------
    slices : mapping, optional
        `{case_id: slices}`, counted from 0 on the working grid; by default nothing is annotated.

    Examples
    --------
    >>> annotations = Annotations({"a": [3, 1]}).add("b", [0])
    >>> annotations.as_dict()
    {'a': [1, 3], 'b': [0]}
    """

    def __init__(self, slices: Mapping[str, Iterable[int]] | None = None):
        self._slices = {
            case_id: frozenset(indices) for case_id, indices in sorted((slices or {}).items()) if indices
        }

    def add(self, case_id: str, indices: Iterable[int]) -> Annotations:
        """Record with further slices of a case.

        Raises
        ------
        ValueError
            One of the slices is annotated already.
        """
        indices = frozenset(indices)
        repeated = self.of(case_id) & indices
        if repeated:
            raise ValueError(f"case {case_id}: slices {sorted(repeated)} are annotated already")
        return Annotations({**self._slices, case_id: self.of(case_id).union(indices)})

    def of(self, case_id: str) -> frozenset[int]:
        """Annotated slices of a case."""
        return self._slices.get(case_id, frozenset())

    def __iter__(self) -> Iterator[str]:
        """Ids of the cases with at least one annotated slice, sorted."""
        return iter(self._slices)

    def as_dict(self) -> dict[str, list[int]]:
        """`{case_id: sorted slices}`."""
        return {case_id: sorted(int(index) for index in indices) for case_id, indices in self._slices.items()}


CONTOURED = 3  # of so many slices of a whole volume one is contoured by hand (section IV-A)
COUNTS = ("annotated_slices", "annotated_liver_slices", "unique_patients")


def effort(
    annotations: Annotations, shows_liver: Callable[[str, int], bool], patient_of: Mapping[str, str]
) -> dict[str, int]:
    """Annotated slices, liver slices and patients, as in Table 2 of the paper.

    Parameters
    ----------
    annotations : Annotations
        What is annotated.
    shows_liver : callable
        Whether a slice `(case_id, z)` shows liver; called for annotated slices only.
    patient_of : mapping
        `{case_id: patient}`.

    Returns
    -------
    dict
        The numbers, under the names in `COUNTS`.

    Examples
    --------
    >>> effort(Annotations({"a": [1, 2], "b": [0]}), lambda case_id, z: z > 0, {"a": "p", "b": "p"})
    {'annotated_slices': 3, 'annotated_liver_slices': 2, 'unique_patients': 1}
    """
    slices = [(case_id, z) for case_id in annotations for z in sorted(annotations.of(case_id))]
    liver_slices = sum(shows_liver(case_id, z) for case_id, z in slices)
    patients = {patient_of[case_id] for case_id in annotations}
    return dict(zip(COUNTS, (len(slices), liver_slices, len(patients)), strict=True))


def slice_budget(liver_slices: Sequence[int]) -> int:
    """N_S of section IV-A: how many slices a slice strategy gets per iteration.

    It is a third of the mean number of liver slices that an iteration by volumes adds, rounded: contours are
    drawn on about every third slice of a volume and interpolated between.

    Parameters
    ----------
    liver_slices : sequence of int
        Annotated liver slices before the first iteration by volumes and after each one.

    Examples
    --------
    >>> slice_budget([10, 40, 70])
    10
    """
    iterations = len(liver_slices) - 1
    return max(1, round((liver_slices[-1] - liver_slices[0]) / iterations / CONTOURED))
