"""The record of what is annotated, and the counts of Table 2."""

import numpy as np
import pytest

from uss_bench.study.annotation import Annotations, effort, slice_budget

# Table 2 of the paper: annotated liver slices of the initial data and after each iteration.
UVS = [501, 1045, 1537, 2224, 2761, 3382]
RVS = [501, 1070, 1608, 2150, 2687, 3292]


def test_adding_gives_a_new_record_and_leaves_the_old_one():
    empty = Annotations()
    first = empty.add("b", [3, 1])
    second = first.add("a", iter(range(2))).add("b", np.array([2]))
    assert (empty.as_dict(), first.as_dict()) == ({}, {"b": [1, 3]})
    assert second.as_dict() == {"a": [0, 1], "b": [1, 2, 3]}
    assert list(second) == ["a", "b"]
    assert second.of("b") == {1, 2, 3}
    assert second.of("c") == frozenset()


def test_a_second_annotation_of_a_slice_is_an_error_that_names_it():
    record = Annotations({"b": [1, 3, 5]})
    with pytest.raises(ValueError, match=r"case b: slices \[3, 5\] are annotated already"):
        record.add("b", [2, 3, 5])
    assert record.add("a", [3]).of("a") == {3}


def test_a_case_without_slices_is_not_in_the_record():
    assert list(Annotations({"a": [], "b": [0]}).add("c", [])) == ["b"]


def test_a_record_survives_its_dictionary():
    record = Annotations({"b": (4, 2), "a": {7}})
    assert Annotations(record.as_dict()).as_dict() == record.as_dict() == {"a": [7], "b": [2, 4]}
    assert all(type(z) is int for z in Annotations().add("a", np.arange(3)).as_dict()["a"])


def test_effort_counts_slices_liver_slices_and_patients():
    record = Annotations({"a": [0, 1, 2], "b": [5], "c": [0, 9]})
    liver = {("a", 1), ("a", 2), ("b", 6), ("c", 9)}
    asked = []

    def shows_liver(case_id, z):
        asked.append((case_id, z))
        return (case_id, z) in liver

    counts = effort(record, shows_liver, {"a": "p1", "b": "p2", "c": "p1", "d": "p3"})
    assert counts == {"annotated_slices": 6, "annotated_liver_slices": 3, "unique_patients": 2}
    assert sorted(asked) == [
        ("a", 0),
        ("a", 1),
        ("a", 2),
        ("b", 5),
        ("c", 0),
        ("c", 9),
    ]  # annotated slices and no other
    assert effort(Annotations(), shows_liver, {}) == {
        "annotated_slices": 0,
        "annotated_liver_slices": 0,
        "unique_patients": 0,
    }


@pytest.mark.parametrize(
    ("liver_slices", "expected"),
    [
        (UVS, 192),  # (3382 - 501) / 5 / 3 = 192.07, which the paper rounds to 200
        (RVS, 186),  # 186.07
        ([0, 30], 10),
        ([10, 20, 31], 4),  # 3.5, to the even neighbour
        ([7, 7, 7], 1),  # at least one
    ],
)
def test_slice_budget_are_a_third_of_the_liver_slices_added(liver_slices, expected):
    assert slice_budget(liver_slices) == expected
