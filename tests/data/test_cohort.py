"""The embedded cohort, as the committed manifest gives it."""

import csv
from collections import Counter

import pytest
from builders import ROOT

from uss_bench.data.cohort import COLUMNS, default_cohort, spread
from uss_bench.data.phantoms import SITES, VARIANTS

MANIFEST = ROOT / "data_manifest.csv"
ROWS = default_cohort()
RARE = {"resected", "tumour", "cirrhotic", "ascites", "embolized", "mirrored"}  # in life


def rows_of(split):
    return [row for row in ROWS if row["split"] == split]


def test_the_committed_manifest_is_the_default_cohort():
    with open(MANIFEST, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        assert list(reader) == ROWS
    assert tuple(reader.fieldnames) == COLUMNS


def test_a_case_is_named_by_its_site_and_lies_where_its_name_says():
    assert len({row["case_id"] for row in ROWS}) == len(ROWS)
    for row in ROWS:
        assert row["site"] == row["case_id"].split("-")[0]
        assert row["image"] == f"data/phantoms/{row['case_id']}.nii.gz"
        assert row["label"] == f"data/phantoms/{row['case_id']}_liver.nii.gz"
    assert default_cohort("elsewhere")[0]["image"].startswith("elsewhere/")


def test_splits_are_large_enough_and_of_all_sites():
    assert Counter(row["split"] for row in ROWS) == {"pool": 36, "val": 8, "test": 45}
    for split in ("pool", "val", "test"):
        sizes = Counter(row["site"] for row in rows_of(split))
        assert set(sizes) == set(SITES)
        assert max(sizes.values()) >= 2 * min(sizes.values())


def test_the_pool_is_redundant_and_what_is_rare_in_life_is_rare_there():
    variants = Counter(row["phantom"] for row in rows_of("pool"))
    assert set(variants) == set(VARIANTS)
    assert variants["normal"] > 0.6 * len(rows_of("pool"))
    assert all(variants[name] == 1 for name in RARE)


def test_the_test_split_says_something_about_every_variant():
    test = rows_of("test")
    variants = Counter(row["phantom"] for row in test)
    assert all(variants[name] >= 3 for name in VARIANTS)
    assert 0.3 <= sum(variants[name] for name in RARE) / len(test) <= 0.4
    for name in VARIANTS:
        assert len({row["site"] for row in test if row["phantom"] == name}) > 1
    assert len({row["phantom"] for row in rows_of("val")}) > 3


@pytest.mark.parametrize("split", ["pool", "val", "test"])
def test_sites_do_not_differ_by_their_variants(split):
    """Normal cases as where site and variant are independent, give or take one; others as apart as can be."""
    rows = rows_of(split)
    sites, variants = (Counter(row[name] for row in rows) for name in ("site", "phantom"))
    pairs = Counter((row["site"], row["phantom"]) for row in rows)
    for site, size in sites.items():
        assert abs(pairs[site, "normal"] - variants["normal"] * size / len(rows)) <= 1
    assert all(count == 1 for (_, variant), count in pairs.items() if variants[variant] <= 3)


@pytest.mark.parametrize(("split", "count"), [("pool", 6), ("val", 2), ("test", 4)])
def test_the_first_rows_of_a_split_mix_sites_and_variants(split, count):
    first = rows_of(split)[:count]
    assert len({row["site"] for row in first}) >= min(3, count)
    variants = [row["phantom"] for row in first]
    assert 0 < variants.count("normal") < count


def test_names_are_spread_evenly():
    names = spread({"a": 6, "b": 3}, 0.6)
    assert Counter(names) == {"a": 6, "b": 3}
    assert all("b" in names[start : start + 4] for start in range(6))
