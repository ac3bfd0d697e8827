"""Synthetic abdominal CT, so that the whole benchmark runs without a download.

A phantom is painted organ by organ in the patient's coordinates (`anatomy`, `livers`, `variants`) and stored
the way its "site" stores its scans: five sites differ in spacing, scan range, noise, contrast phases and file
orientation. The volumes are coarse (a few mm) to keep a run short.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from nibabel import orientations
from scipy.ndimage import gaussian_filter1d

from ..runtime.errors import InputError
from ..runtime.seeding import generator
from . import anatomy, organs
from .anatomy import AIR, WATER, Body, Tissue
from .livers import Lobes, draw_lobes, paint_vessels, shape_liver
from .nifti import write_nifti
from .nifti_header import read_header
from .painting import Ellipsoid, Scene, wobble
from .variants import VARIANTS, draw_fluid, vary_liver, vary_lobes, vary_tissue

if TYPE_CHECKING:
    from .manifest import Case


@dataclass(frozen=True)
class Protocol:
    """How one site scans and stores. Pairs are the ranges of uniform draws."""

    orientation: str  # axis codes of the file, as nibabel.aff2axcodes gives them
    matrix: int  # pixels along each in-plane axis; the field of view follows the patient
    slice_spacing: tuple[float, float]  # mm
    above: tuple[float, float]  # mm, scan start above the liver
    below: tuple[float, float]  # mm, scan end below the liver: the largest show the pelvis
    phases: tuple[str, ...]  # contrast phases in use
    noise: tuple[float, float]  # HU, standard deviation
    blur: float  # pixels, in-plane correlation length of the noise


MARK = "uss-bench phantom: "  # begins the description in the headers of their files
NATIVE, ARTERIAL, PORTAL, LATE = "native", "arterial", "portal", "late"
SITES = {
    "north": Protocol("LPS", 96, (4.5, 5.0), (15, 50), (20, 110), (PORTAL, PORTAL, LATE), (4, 7), 0.8),
    "east": Protocol("RAS", 104, (4.2, 4.6), (10, 45), (30, 120), (ARTERIAL, PORTAL), (6, 9), 0.5),
    "south": Protocol("LAS", 88, (5.4, 6.0), (15, 60), (120, 250), (NATIVE, PORTAL, PORTAL), (4, 6), 1.0),
    "west": Protocol("RPI", 100, (3.8, 4.3), (5, 30), (10, 60), (LATE, PORTAL, ARTERIAL), (6, 10), 0.7),
    "island": Protocol("ASR", 84, (4.6, 5.2), (5, 35), (90, 240), (PORTAL, NATIVE), (3, 5), 0.9),
}


def scan_range(rng: np.random.Generator, protocol: Protocol, bottom: float) -> tuple[float, float]:
    """z in mm of a scan's ends for a liver from z = `bottom` to 0; some scans miss a part of it."""
    above, below, missed = rng.uniform(*protocol.above), rng.uniform(*protocol.below), rng.uniform(8, 45)
    cut = rng.choice(("nowhere", "dome", "tip"), p=(0.76, 0.12, 0.12))
    return bottom + missed if cut == "tip" else bottom - below, -missed if cut == "dome" else above


def open_scene(protocol: Protocol, body: Body, bottom: float) -> tuple[Scene, np.ndarray]:
    """Air on the grid that the site would scan for a liver down to z = `bottom`, and its affine."""
    rng = body.rng
    patient = body.stretch[0] * 2.1 * (body.width + 1.25 * (body.wall + body.fat))
    spacing = rng.uniform(1, 1.2) * (patient + 16) / protocol.matrix
    slice_spacing = rng.uniform(*protocol.slice_spacing)
    steps = (np.arange(protocol.matrix) - (protocol.matrix - 1) / 2) * spacing
    x, y = steps + rng.uniform(-14, 14), steps + rng.uniform(-18, 6)
    low, high = scan_range(rng, protocol, bottom * body.stretch[2])
    z = np.arange(low, high, slice_spacing)
    affine = np.diag([spacing, spacing, slice_spacing, 1])
    affine[:3, 3] = x[0], y[0], z[0]
    hu = np.full((len(x), len(y), len(z)), AIR, np.float32)
    grid = np.ix_(*(axis.astype(np.float32) for axis in (x, y, z)))
    return Scene.of(hu, grid, body.pose, float(spacing + slice_spacing) / 2), affine


def begin_case(
    protocol: Protocol, variant: str, rng: np.random.Generator, variant_rng: np.random.Generator
) -> tuple[Body, Tissue, Lobes, list[Ellipsoid], Scene, np.ndarray]:
    """Draw a patient up to what decides the grid.

    Returns frame, tissues, lobes of a healthy liver, kidneys, the open scene and its affine.
    """
    body = Body.draw(rng)
    tissue = vary_tissue(variant, anatomy.draw_tissue(rng, protocol.phases), variant_rng)
    healthy, kidneys = draw_lobes(body), organs.draw_kidneys(body)
    return body, tissue, healthy, kidneys, *open_scene(protocol, body, healthy.bottom)


def paint_case(
    protocol: Protocol, variant: str, rng: np.random.Generator, variant_rng: np.random.Generator
) -> tuple[Scene, np.ndarray, np.ndarray]:
    """Paint a patient. Returns the scene, the signed distance (x, y, z) of its liver, and the affine."""
    body, tissue, healthy, kidneys, scene, affine = begin_case(protocol, variant, rng, variant_rng)
    scene = scene.bent(rng, 330, 4)
    soft = scene.bent(rng, 170, 6)  # how the liver bends beyond that

    cavity, below = anatomy.paint_trunk(scene, body, tissue)
    room = np.minimum(cavity - 1, below - 3)
    liver = shape_liver(soft, body, vary_lobes(variant, healthy, variant_rng), kidneys[0])
    liver, inclusions = vary_liver(variant, scene, liver, room, tissue, variant_rng)
    if (fluid := draw_fluid(variant, scene, body, liver, cavity, variant_rng)) is not None:
        scene.paint(np.minimum(fluid, room), WATER)
    organs.paint_viscera(scene, body, tissue, np.minimum(room, -liver), healthy.bottom)
    soft.paint_ellipsoid(*healthy.gallbladder, WATER + 4)
    organs.paint_kidneys(scene, tissue, kidneys)
    anatomy.paint_pelvis(scene, body, tissue, cavity)
    anatomy.paint_spine(scene, body, tissue)
    organs.paint_heart_and_vessels(scene, body, tissue, below)
    anatomy.paint_arms(scene, body, tissue)
    anatomy.paint_table(scene, body)

    scene.paint(liver, tissue["liver"] + wobble(scene, rng, 45, 3))
    paint_vessels(soft, body, tissue, liver)
    for item in inclusions:
        item.paint(scene, liver)
    return scene, liver, affine


def add_noise(scene: Scene, protocol: Protocol, rng: np.random.Generator) -> None:
    """Noise of a filtered back projection: correlated in plane, not between slices, weaker in air."""
    noise = rng.standard_normal(scene.hu.shape, np.float32)
    for axis in (0, 1):
        noise = gaussian_filter1d(noise, protocol.blur, axis, truncate=3)
    strength = float(rng.uniform(*protocol.noise) / noise.std(dtype=np.float64))
    scene.hu[...] += strength * noise * np.where(scene.hu < -900, np.float32(0.5), np.float32(1))


def make_phantom(case_id: str, site: str, variant: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make one case.

    Parameters
    ----------
    case_id : str
        Names all random draws: the variants of one case id share anatomy and noise.
    site, variant : str
        A key of `SITES` and one of `VARIANTS`.

    Returns
    -------
    hu : int16 array in HU, axes as in the site's files
    mask : uint8 array of the same shape, 1 in the liver (lesions and cysts included)
    affine : (4, 4) array, voxel index to RAS mm
    """
    check_phantom(case_id, site, variant)
    protocol = SITES[site]
    rng, variant_rng, noise_rng = _generators(case_id)
    scene, liver, affine = paint_case(protocol, variant, rng, variant_rng)
    add_noise(scene, protocol, noise_rng)

    hu = np.clip(np.rint(scene.hu), -1024, 3071).astype(np.int16)
    mask = (liver > 0).astype(np.uint8)
    if variant == "mirrored":
        hu, mask = hu[::-1], mask[::-1]
    turn = orientations.ornt_transform(
        orientations.axcodes2ornt("RAS"), orientations.axcodes2ornt(protocol.orientation)
    )
    affine = affine @ orientations.inv_ornt_aff(turn, hu.shape)
    return orientations.apply_orientation(hu, turn), orientations.apply_orientation(mask, turn), affine


def phantom_grid(case_id: str, site: str, variant: str) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Shape and voxel size in mm, both `(z, y, x)` from inferior, posterior and left, without painting."""
    check_phantom(case_id, site, variant)
    rng, variant_rng, _ = _generators(case_id)
    *_, scene, affine = begin_case(SITES[site], variant, rng, variant_rng)
    return scene.hu.shape[::-1], tuple(affine.diagonal()[2::-1].tolist())


def _generators(case_id: str) -> list[np.random.Generator]:
    purposes = ("phantom", "phantom variant", "phantom noise")
    return [generator(0, purpose=purpose, case=case_id) for purpose in purposes]


def check_phantom(case_id: str, site: str, variant: str) -> None:
    """Raise InputError where there is no such site or variant."""
    instead = "or leave the column phantom empty"
    if site not in SITES:
        raise InputError(
            f"case {case_id}: no phantom has the site {site!r}; use {', '.join(SITES)}, {instead}"
        )
    if variant not in VARIANTS:
        raise InputError(
            f"case {case_id}: phantom {variant!r} is unknown; use {', '.join(VARIANTS)}, {instead}"
        )


def phantom_problems(case: Case) -> list[str]:
    """What is wrong with a file that is there: it may be the phantom of another row, made before this one."""
    mark, problems = _mark(case), []
    for path in (case.image, case.label):
        if not path.exists():
            continue
        try:
            found = read_header(path).stored["descrip"].item().decode("latin-1")
        except InputError as error:
            problems.append(f"case {case.case_id}: {error}")
            continue
        if found.startswith(MARK) and found != mark:
            problems.append(
                f"case {case.case_id}: {path} is another phantom, {found.removeprefix(MARK)}, and the "
                f"manifest asks for {mark.removeprefix(MARK)}; delete it, or give other paths"
            )
    return problems


def _mark(case: Case) -> str:
    """What the header of a phantom's files says of it, in the 80 bytes that there are."""
    return f"{MARK}{case.extra['phantom']} at {case.site}, {case.case_id}".encode()[:80].decode("latin-1")


def phantom_files(cases: Iterable[Case]) -> list[Path]:
    """Images and labels of the phantoms among `cases`."""
    return [path for case in cases if case.extra.get("phantom") for path in (case.image, case.label)]


def is_unmade_phantom(case: Case) -> bool:
    """Whether a case is a phantom that lacks a file."""
    return bool(case.extra.get("phantom")) and not (case.image.exists() and case.label.exists())


def write_missing_phantom(case: Case) -> None:
    """Write what a phantom (a variant in the manifest column `phantom`) lacks of its files.

    Raises
    ------
    InputError
        The row asks for what `check_phantom` refuses.
    """
    if not is_unmade_phantom(case):
        return
    hu, mask, affine = make_phantom(case.case_id, case.site, case.extra["phantom"])
    for path, array in ((case.image, hu), (case.label, mask)):
        if not path.exists():
            write_nifti(path, array, affine, _mark(case))
