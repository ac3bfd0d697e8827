"""What real CTs have that phantoms lack, on nine patients of four sources that are no part of the project.

Slices of 5 mm, three orientations, tumours as a code of their own, an arterial phase, scans that end in the
liver, a header that lies about its spacing. Nibabel and the anatomy of a human body are the peers.
"""

import nibabel as nib
import numpy as np
import pytest
from builders import DATA
from scipy import ndimage, spatial

from uss_bench import config
from uss_bench.data.manifest import read_manifest
from uss_bench.data.nifti import read_nifti
from uss_bench.data.volumes import load_volume
from uss_bench.network.uncertainty import volume_uncertainty
from uss_bench.study.evaluation import evaluate_case
from uss_bench.study.metrics import segmentation_metrics

MANIFEST = DATA / "real" / "manifest_nine.csv"
CUT = {"chaos03": 0, "totalseg": -1}  # the last slice of the scan, at its lower or upper end, shows liver
CROPPED = "lits117"  # to the liver: no other organ tells where it lies

pytestmark = [
    pytest.mark.whole,
    pytest.mark.skipif(not MANIFEST.exists(), reason="the shared real CTs are not here"),
]
PATIENTS = {case.case_id: case for case in read_manifest(MANIFEST)} if MANIFEST.exists() else {}


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    """From a patient's id to the volume on the grid of `real`."""
    cache, spacing, loaded = tmp_path_factory.mktemp("cache"), config.resolve("real").data.spacing, {}

    def load(patient):
        if patient not in loaded:
            loaded[patient] = load_volume(PATIENTS[patient], spacing, cache)
        return loaded[patient]

    return load


def hausdorff(one, other, spacing):
    """Largest distance from a surface voxel of either mask to the other's, by a tree of the points."""
    points = [np.argwhere(mask & ~ndimage.binary_erosion(mask)) * spacing for mask in (one, other)]
    return max(spatial.cKDTree(a).query(b)[0].max() for a, b in (points, points[::-1]))


# One patient of each source; the others take their time.
FEW = ("ircadb01", "lits117", "totalseg", "chaos03", "radcttace-2022")
every_patient = pytest.mark.parametrize(
    "patient",
    [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in PATIENTS],
)


@every_patient
def test_the_liver_has_the_volume_that_nibabel_finds(volume, patient):
    case, found = PATIENTS[patient], volume(patient)
    image = nib.load(case.label)
    voxel = np.prod(case.spacing or np.linalg.norm(image.affine[:3, :3], axis=0))
    expected = np.isin(np.asarray(image.dataobj), case.label_values or [1]).sum() * voxel
    assert found.reference().sum() * np.prod(found.native_spacing) == pytest.approx(expected, rel=1e-5)
    assert found.label.sum() * np.prod(found.spacing) == pytest.approx(expected, rel=0.03)


@every_patient
def test_the_grid_of_the_preset_costs_little(volume, patient):
    """There and back again: what a perfect network would reach."""
    found = volume(patient)
    scores = evaluate_case(found.label.astype(np.float32), found)
    assert scores["DICE"] > 0.96 and scores["MSD"] < 1 and abs(scores["RVE"]) < 3 and not scores["missed"]


@every_patient
def test_every_body_lies_the_same_way_round(volume, patient):
    """Arrays run from feet to head, back to front, left to right: the liver lies towards the end of x, the
    spine towards the beginning of y."""
    if patient == CROPPED:
        pytest.skip("cropped to the liver")
    found = volume(patient)
    slices = np.flatnonzero(found.label.any(axis=(1, 2)))
    hu, liver = found.image[slices], found.label[slices] > 0
    body = np.argwhere(hu > -200).mean(axis=0)
    spine = np.argwhere(hu[: len(hu) // 2] > 300).mean(axis=0)
    centre = np.argwhere(liver).mean(axis=0)
    assert centre[2] > body[2] + 5 and spine[1] < body[1] - 5
    top, bottom = hu[-3:], hu[:3]
    assert (top < -500).mean() > (bottom < -500).mean() or patient in CUT  # lung


@pytest.mark.parametrize("patient", CUT)
def test_a_scan_may_end_in_the_liver(volume, patient):
    """The neighbourhood of its liver ends there too, and the cut is surface like any other."""
    found = volume(patient)
    liver = found.label > 0
    assert liver[CUT[patient]].any()
    entropy = np.where(liver, 0.5, 0.0).astype(np.float32)
    near = ndimage.binary_dilation(liver, np.ones((3, 5, 5)))
    assert volume_uncertainty(entropy, liver, (1, 2, 2)) == pytest.approx(entropy[near].mean(), rel=1e-5)
    whole = found.reference()
    shorter = whole.copy()
    shorter[CUT[patient]] = (
        False  # one slice less: the surfaces lie one slice apart there, and agree elsewhere
    )
    ours = segmentation_metrics(shorter, whole, found.native_spacing)
    assert ours["HD"] == pytest.approx(hausdorff(shorter, whole, found.native_spacing), rel=1e-6)
    assert ours["HD"] >= found.native_spacing[0]


def test_tumours_belong_to_the_liver(volume):
    """The same mask with the tumours filled in, in another orientation, is what the codes 1 and 2 make."""
    filled = read_nifti(DATA / "real" / "ircadb01" / "liver_LAS.nii.gz")[0] > 0
    coded = read_nifti(PATIENTS["ircadb01"].label)[0]
    assert (coded == 2).any()
    np.testing.assert_array_equal(volume("ircadb01").reference(), filled)
