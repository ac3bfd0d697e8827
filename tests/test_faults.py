"""A fault at every write, see faults.py: a handful of them here, hundreds with `-m slow`."""

import faults
import pytest

pytestmark = pytest.mark.whole


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    return faults.Experiment(tmp_path_factory.mktemp("faults"))


def test_a_write_that_fails_is_told_in_one_line_and_nothing_lost(experiment):
    pairs = experiment.pairs(4)
    assert {kind for _, kind in pairs} == set(faults.KINDS)
    assert faults.survey(experiment, pairs) == []


@pytest.mark.slow
def test_300_writes_that_fail_are_told_in_one_line_and_nothing_lost(experiment):
    pairs = experiment.pairs(faults.SAMPLE)
    assert len(pairs) >= 300
    assert faults.survey(experiment, pairs) == []
