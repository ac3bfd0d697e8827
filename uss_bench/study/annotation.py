"""The annotation record of a simulated workflow, and the effort it stands for (section IV)."""


class Annotations:
    """Which axial slices of which cases are annotated. Immutable; adding gives a new record.

    A slice is `(case_id, z)` with z counted from 0 on the working grid.
    """

    def __init__(self, slices=None):
        self._slices = {
            case_id: frozenset(indices) for case_id, indices in sorted((slices or {}).items()) if indices
        }

    def add(self, case_id, indices):
        """Record with further slices of a case; annotating a slice a second time is a ValueError."""
        repeated = self.of(case_id).intersection(indices)
        if repeated:
            raise ValueError(f"case {case_id}: slices {sorted(repeated)} are annotated already")
        return Annotations({**self._slices, case_id: self.of(case_id).union(indices)})

    def of(self, case_id):
        """Annotated slices of a case, as a frozenset."""
        return self._slices.get(case_id, frozenset())

    def __iter__(self):
        """Ids of the cases with at least one annotated slice, sorted."""
        return iter(self._slices)

    def as_dict(self):
        return {case_id: sorted(int(index) for index in indices) for case_id, indices in self._slices.items()}


COUNTS = ("annotated_slices", "annotated_liver_slices", "unique_patients")


def effort(annotations, shows_liver, patient_of):
    """Counts of Table 2. `shows_liver(case_id, z)` is asked for annotated slices only; `patient_of` maps case ids to patients."""
    slices = [(case_id, z) for case_id in annotations for z in sorted(annotations.of(case_id))]
    liver_slices = sum(shows_liver(case_id, z) for case_id, z in slices)
    patients = {patient_of[case_id] for case_id in annotations}
    return dict(zip(COUNTS, (len(slices), liver_slices, len(patients)), strict=True))


def slice_budget(liver_slices):
    """N_S of section IV-A: a third of the mean count of liver slices that UVS adds in an iteration, rounded.

    `liver_slices` are the annotated liver slices before the first and after each UVS iteration. A third, because contours are drawn
    on about every third slice of a volume and interpolated between.
    """
    iterations = len(liver_slices) - 1
    return max(1, round((liver_slices[-1] - liver_slices[0]) / iterations / 3))
