"""What strategies see: masks in few characters."""

import json

import numpy as np
import pytest

from uss_bench.study.pool import PoolCase, pack_mask, unpack_mask


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (2, 8, 8)])
def test_a_mask_survives_packing_and_json(shape):
    mask = np.random.default_rng(0).random(shape) < 0.3
    found = unpack_mask(json.loads(json.dumps(pack_mask(mask))))
    assert found.dtype == bool
    np.testing.assert_array_equal(found, mask)


def test_a_ball_takes_few_characters():
    z, y, x = np.mgrid[:60, :200, :200]
    ball = (z - 30) ** 2 + ((y - 90) / 3) ** 2 + ((x - 110) / 3) ** 2 < 400
    assert len(json.dumps(pack_mask(ball))) < ball.size / 100


def test_a_case_unpacks_its_mask():
    mask = np.eye(3, dtype=bool)[None]
    np.testing.assert_array_equal(PoolCase("a", 1, scores={"mask": pack_mask(mask)}).mask, mask)
    with pytest.raises(KeyError, match="mask"):
        PoolCase("a", 1).mask  # noqa: B018
