"""Synthetic abdominal CT, so that the whole benchmark runs without a download.

A phantom is painted organ by organ on a grid in patient coordinates and stored the way its "site" stores its scans: five sites
differ in spacing, scan range, noise, contrast phase and file orientation. The volumes are coarse (a few mm) to keep a run short.

Here alone, arrays are `(x, y, z)` and RAS: +x to the patient's right, +y anterior, +z superior, in mm, with z = 0 at the
top of the right diaphragm.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from nibabel import orientations
from scipy.ndimage import gaussian_filter1d

from ..runtime.errors import InputError
from ..runtime.seeding import generator
from .nifti import write_nifti
from .painting import Scene, ellipsoid, join, tube, wobble


@dataclass(frozen=True)
class Protocol:
    """How one site scans and stores. Pairs are the ranges of uniform draws."""

    orientation: str  # axis codes of the file, as nibabel.aff2axcodes gives them
    matrix: int  # pixels along each in-plane axis; the field of view follows the patient
    slice_spacing: tuple  # mm
    top: tuple  # mm, scan start above the right diaphragm
    bottom: tuple  # mm, scan end below it
    phases: tuple  # contrast phases in use
    noise: tuple  # HU, standard deviation
    blur: float  # pixels, in-plane correlation length of the noise


SITES = {
    "north": Protocol("LPS", 96, (4.5, 5.0), (30, 50), (215, 235), ("portal",), (10, 16), 0.8),
    "east": Protocol("RAS", 104, (4.2, 4.6), (25, 45), (205, 225), ("arterial", "portal"), (14, 22), 0.5),
    "south": Protocol("LAS", 88, (5.4, 6.0), (60, 85), (230, 250), ("native",), (9, 14), 1.0),
    "west": Protocol("RPI", 100, (3.8, 4.3), (20, 35), (200, 215), ("late", "portal"), (16, 24), 0.7),
    "island": Protocol("ASR", 84, (4.6, 5.2), (15, 25), (195, 210), ("portal",), (8, 11), 0.9),
}
VARIANTS = ("normal", "lesions", "cysts", "resected", "fatty")

# Mean HU by contrast phase; "veins" are the caval, hepatic and portal veins.
ORGANS = ("liver", "spleen", "aorta", "veins", "heart", "kidney", "pancreas", "gut")
PHASES = {
    "native": (57, 49, 42, 41, 42, 34, 40, 42),
    "arterial": (70, 112, 270, 82, 220, 165, 100, 85),
    "portal": (108, 118, 152, 165, 145, 182, 92, 80),
    "late": (90, 94, 112, 115, 108, 160, 75, 68),
}
AIR, LUNG, FAT, WATER, MUSCLE, BONE = -1000, -850, -102, 8, 56, 330


@dataclass(frozen=True)
class Body:
    """One patient's frame. Organs are placed at (u, v, z): u and v in half widths and half depths of the trunk's cavity, z in mm."""

    rng: np.random.Generator
    width: float  # mm, half axes of the cavity inside ribs and abdominal wall
    depth: float
    wall: float  # mm, thickness of the muscle wall
    fat: float  # mm, of the subcutaneous fat
    left_dome: float  # mm, top of the left diaphragm

    @property
    def spine(self):
        """y of the vertebral bodies in mm."""
        return -0.56 * self.depth

    def size(self, u, v, z, spread=0.0):
        """Half axes (3,) in mm, each up to `spread` larger or smaller than named."""
        return np.float32([u * self.width, v * self.depth, z]) * self.rng.uniform(
            1 - spread, 1 + spread, 3
        ).astype(np.float32)

    def place(self, u, v, z):
        """A point (3,) in mm near the one named: organs lie several mm apart between patients."""
        return self.size(u, v, z) + self.rng.normal(0, (5, 4, 6)).clip(-10, 10).astype(np.float32)

    def cava(self):
        """The inferior vena cava: from the pelvis through the liver's back into the heart."""
        return np.float32([(19, self.spine + y, z) for y, z in ((27, -300), (29, -90), (33, -12), (48, 25))])


def open_scene(protocol, body):
    """An image of air on the grid that the site would scan, and its affine."""
    field_of_view = 2.1 * (body.width + 1.25 * (body.wall + body.fat)) + 16
    spacing = field_of_view / protocol.matrix
    slice_spacing = body.rng.uniform(*protocol.slice_spacing)
    steps = (np.arange(protocol.matrix) - (protocol.matrix - 1) / 2) * spacing
    x, y = steps + body.rng.uniform(-6, 6), steps + body.rng.uniform(-12, 0)
    z = np.arange(-body.rng.uniform(*protocol.bottom), body.rng.uniform(*protocol.top), slice_spacing)
    affine = np.diag([spacing, spacing, slice_spacing, 1])
    affine[:3, 3] = x[0], y[0], z[0]
    hu = np.full((len(x), len(y), len(z)), AIR, np.float32)
    x, y, z = np.ix_(*(axis.astype(np.float32) for axis in (x, y, z)))
    return Scene(hu, x, y, z, (spacing + slice_spacing) / 2), affine


def paint_trunk(scene, body):
    """Paint skin to lungs. Returns the signed distances (x, y, z) of the trunk's cavity and of the space below the diaphragm."""
    taper = 1 - 0.09 * np.square((scene.z + 90) / 140).clip(0, 1.5)
    radius = np.hypot(scene.x / (body.width * taper), scene.y / (body.depth * taper))
    radius += wobble(scene, body.rng, 260, 0.012)
    cavity = (1 - radius) * (body.width * body.depth) ** 0.5
    height = -999.0  # of the diaphragm: a high right dome, a lower left one, and the tendon under the heart
    for u, v, top, spread in (
        (0.45, 0.1, 0, 0.62),
        (-0.5, 0.05, body.left_dome, 0.55),
        (-0.02, 0.3, -18, 0.6),
    ):
        dome = top - 90 * (
            ((scene.x / body.width - u) / spread) ** 2 + ((scene.y / body.depth - v) / (spread + 0.4)) ** 2
        )
        height = join(dome, height, 12)
    below = 0.7 * (height - scene.z)

    scene.paint(cavity + body.wall + body.fat, FAT)
    scene.paint(cavity + body.wall, MUSCLE)
    scene.paint(cavity, FAT)
    scene.paint(np.minimum(cavity, 3 - np.abs(below)), MUSCLE)
    mediastinum = ellipsoid(scene, body.size(-0.06, 0.1, 60), (34, 0.85 * body.depth, 400))
    scene.paint(
        np.minimum(np.minimum(cavity, -below) - 1, -mediastinum), LUNG + wobble(scene, body.rng, 30, 25)
    )
    level = (scene.z + 0.55 * scene.y + body.rng.uniform(0, 26)) % 26 - 13  # ribs slope down to the front
    arch = scene.z + 140 - 0.9 * scene.y
    scene.paint(np.minimum(4.5 - np.hypot(cavity + 0.5 * body.wall, 0.85 * level), arch), BONE)
    return cavity, below


def paint_spine(scene, body):
    part = scene.crop(scene.box((-60, body.spine - 70, -999), (60, body.spine + 20, 999)))
    column = Scene(part.hu, part.x, part.y, np.zeros_like(part.z), part.edge)  # the same shape in every slice
    back = body.spine - 26
    for side in (-27, 27):
        column.paint(ellipsoid(column, (side, back - 8, 0), (27, 21, 27)), MUSCLE)
    column.paint(ellipsoid(column, (0, back, 0), (17, 14, 17)), BONE)
    column.paint(ellipsoid(column, (0, back - 24, 0), (5, 17, 5)), BONE)
    level = (part.z + body.rng.uniform(0, 31)) % 31
    disc_or_bone = np.where(level < 7, 95, np.where((level < 11) | (level > 27), BONE + 150, BONE - 140))
    column.paint(ellipsoid(column, (0, body.spine, 0), (21, 17, 21)), disc_or_bone)
    column.paint(ellipsoid(column, (0, back + 1, 0), (10, 8, 10)), 25)


def paint_gut(scene, body, tissue, room):
    """Bowel, colon, pancreas and stomach, all soft: they take the `room` that the liver leaves."""
    rng, inner = body.rng, room - 4
    for _ in range(26):
        centre = body.size(rng.uniform(-0.7, 0.7), rng.uniform(-0.2, 0.75), rng.uniform(-260, -125))
        radii, turns = rng.uniform((12, 12, 14), (20, 18, 38)), rng.uniform(-60, 60, 3)
        scene.paint_ellipsoid(centre, radii, turns, tissue["gut"], room)
        scene.paint_ellipsoid(
            centre,
            radii - 4,
            turns,
            rng.choice((AIR + 150, 15, 30, 45, 220), p=(0.15, 0.25, 0.3, 0.2, 0.1)),
            inner,
        )
    bends = (
        (-0.8, -0.25, -260),
        (-0.78, -0.2, -125),
        (-0.3, 0.7, -140),
        (0.55, 0.55, -165),
        (0.75, -0.1, -260),
    )
    colon = [body.place(*bend) for bend in bends]
    scene.paint_tubes(colon, 17, tissue["gut"], room)
    scene.paint_tubes(colon, 13, rng.choice((-300, -60, 25)), inner)
    pancreas = [body.place(*bend) for bend in ((0.2, -0.02, -125), (-0.05, 0.1, -112), (-0.5, -0.2, -92))]
    scene.paint_tubes(pancreas, 11, tissue["pancreas"], room)

    fundus = body.place(-0.45, 0.05, -58), body.size(0.27, 0.46, 42, 0.2)
    antrum = body.place(-0.3, 0.45, -100), body.size(0.28, 0.32, 37, 0.2)
    bubble = np.minimum(
        inner, scene.y - rng.uniform(0.25, 0.6) * body.depth
    )  # lying on the back, gas collects in front
    for shrink, value, where in (
        (0, tissue["gut"], room),
        (4, rng.uniform(5, 65), inner),
        (4, AIR + 30, bubble),
    ):
        for centre, radii in (fundus, antrum):
            scene.paint_ellipsoid(centre, radii - shrink, (0, 0, 0), value, where)


def paint_kidneys(scene, body, tissue, kidneys):
    for side, (centre, radii, turns) in zip((1, -1), kidneys, strict=True):
        scene.paint_ellipsoid(centre, radii, turns, tissue["kidney"])
        scene.paint_ellipsoid(centre, radii - 8, turns, 0.75 * tissue["kidney"])
        scene.paint_ellipsoid(centre - np.float32([side * 11, -4, 0]), (12, 8, 24), turns, FAT + 40)


def paint_heart_and_vessels(scene, body, tissue, below):
    centre, turns = body.size(-0.17, 0.29, 32), (0, 15, -25)
    scene.paint_ellipsoid(
        centre, body.size(0.44, 0.48, 50), turns, 0.3 * MUSCLE + 0.7 * tissue["heart"], -below - 3
    )
    scene.paint_ellipsoid(centre, body.size(0.32, 0.34, 38), turns, tissue["heart"], -below - 9)
    scene.paint_tubes(body.cava(), 12, tissue["veins"])
    scene.paint_tubes(
        np.float32([(-14, body.spine + 28, -300), (-17, body.spine + 24, 200)]), 11, tissue["aorta"]
    )


def paint_table(scene, body):
    depth = body.depth + 0.85 * (body.wall + body.fat) + 9 + scene.y - scene.x**2 / 1500
    for offset, half, value in ((9, 9, -820), (2, 3, 80), (16, 3, 80)):
        scene.paint(np.minimum(half - np.abs(depth + offset), 190 - np.abs(scene.x)) + 0 * scene.z, value)


def shape_liver(scene, body, room, kidney, gallbladder):
    """Signed distance (x, y, z) of a healthy liver. `room` is what wall and diaphragm leave to it."""
    rng = body.rng
    scale, reach = rng.uniform(0.88, 1.1), rng.uniform(0.4, 0.66)
    right = body.place(0.46, -0.02, -72), body.size(0.58, 0.95, 84, 0.07) * scale, (0, rng.uniform(-8, 12), 0)
    left = (
        body.place(0.2 - 0.6 * reach, 0.45, -48),
        body.size(reach, 0.42, 38, 0.12),
        (0, rng.uniform(-20, 0), 8),
    )
    hilum = body.place(-0.12, -0.1, -122), body.size(0.5, 0.62, 76, 0.1), (0, rng.uniform(-5, 20), 0)
    fissure = body.place(-0.03, 0.75, -88), (5, 26, 24), (0, 0, rng.uniform(-15, 15))
    spine = (0, body.spine, -90), (34, 32, 600)
    distance = join(ellipsoid(scene, *right), ellipsoid(scene, *left), 25) + wobble(scene, rng, 130, 3.5)
    for hollow, gap, blend in (
        (hilum, 0, 18),
        (spine, 2, 12),
        (kidney, 5, 10),
        (fissure, 0, 3),
        (gallbladder, 1, 2),
    ):
        distance = -join(-distance, ellipsoid(scene, *hollow) + gap, blend)
    for start, end in pairwise(body.cava()):
        distance = np.minimum(distance, -tube(scene, start, end, 13))
    return np.minimum(distance, room)


def resect(scene, body, liver, rng):
    """What a right or left resection leaves of the liver, cut along a slightly bent plane."""
    side, cut = (1, rng.uniform(0.36, 0.5)) if rng.random() < 0.5 else (-1, rng.uniform(0.12, 0.25))
    plane = scene.x - cut * body.width + 0.25 * (scene.y + rng.uniform(-20, 20)) + wobble(scene, rng, 110, 3)
    return np.minimum(liver, -side * plane)


def draw_balls(scene, liver, rng, count, radii):
    """`count` roundish shapes centred in the liver: a box and the signed distance in it, each."""
    inside = np.argwhere(liver > 4)
    for i, j, k in inside[rng.integers(len(inside), size=count)]:
        centre = np.float32([scene.x[i, 0, 0], scene.y[0, j, 0], scene.z[0, 0, k]])
        radius = rng.uniform(*radii) * rng.uniform(0.8, 1.25, 3)
        box = scene.box(centre - radius.max(), centre + radius.max())
        yield box, ellipsoid(scene.crop(box), centre, radius, rng.uniform(-40, 40, 3))


def paint_liver_vessels(scene, body, tissue, liver):
    hepatic_veins = [
        (body.cava()[2], body.place(*goal)) for goal in ((0.8, -0.1, -80), (0.45, 0.6, -70), (-0.2, 0.5, -42))
    ]
    hilum, right, left = body.place(0.1, 0.08, -88), body.place(0.4, 0, -78), body.place(-0.04, 0.4, -58)
    portal_veins = [
        (hilum, right, body.place(*goal))
        for goal in ((0.65, 0.45, -60), (0.72, -0.4, -105), (0.5, 0.1, -135))
    ]
    for path in (*hepatic_veins, *portal_veins, (hilum, left, body.place(-0.3, 0.5, -52))):
        scene.paint_tubes(path, 4.5, tissue["veins"], liver)


def paint_liver(scene, body, tissue, liver, room, variant, variant_rng):
    """Paint a healthy `liver` as `variant`. Returns the signed distance (x, y, z) of what then is liver, lesions and cysts included."""
    balls = ()
    if variant == "resected":
        liver = resect(scene, body, liver, variant_rng)
    if variant == "lesions":
        balls = list(draw_balls(scene, liver, variant_rng, variant_rng.integers(3, 10), (6, 22)))
    if variant == "cysts":
        balls = list(draw_balls(scene, liver, variant_rng, variant_rng.integers(14, 32), (7, 24)))
        bulge = np.minimum(room, liver + 8)  # cysts at the surface push it out
        for box, ball in balls:
            liver[box] = np.maximum(liver[box], np.minimum(ball, bulge[box]))
    scene.paint(liver, tissue["liver"] + wobble(scene, body.rng, 45, 3))
    paint_liver_vessels(scene, body, tissue, liver)
    for box, ball in balls:
        rim, core = (
            (WATER, WATER)
            if variant == "cysts"
            else tissue["liver"] - variant_rng.uniform((15, 40), (35, 65))
        )
        scene.crop(box).paint(np.minimum(ball, liver[box]), rim)
        scene.crop(box).paint(np.minimum(ball - 5, liver[box]), core)
    return liver


def add_noise(scene, protocol, rng):
    """Noise as filtered back projection leaves it: correlated in plane, independent between slices, weaker in air."""
    noise = rng.standard_normal(scene.hu.shape, np.float32)
    for axis in (0, 1):
        noise = gaussian_filter1d(noise, protocol.blur, axis, truncate=3)
    strength = rng.uniform(*protocol.noise) / noise.std()
    scene.hu[...] += noise * np.where(scene.hu < -900, 0.5 * strength, strength)


def make_phantom(case_id, site, variant):
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
    purposes = ("phantom", "phantom variant", "phantom noise")
    rng, variant_rng, noise_rng = (generator(0, purpose=purpose, case=case_id) for purpose in purposes)
    width, slimness = rng.uniform(122, 146), rng.uniform(0.64, 0.74)
    body = Body(
        rng,
        width,
        slimness * width,
        wall=rng.uniform(10, 14),
        fat=rng.uniform(7, 32),
        left_dome=rng.uniform(-28, -8),
    )
    values = rng.uniform(0.88, 1.12) * np.array(PHASES[rng.choice(protocol.phases)]) + rng.normal(
        0, 3, len(ORGANS)
    )
    tissue = dict(zip(ORGANS, values, strict=True))
    if variant == "fatty":
        tissue["liver"] -= variant_rng.uniform(38, 52)
    scene, affine = open_scene(protocol, body)

    cavity, below = paint_trunk(scene, body)
    room = np.minimum(cavity - 2, below - 4)
    kidneys = [
        (
            body.place(side * 0.44, -0.5, z),
            rng.uniform((23, 22, 46), (29, 27, 58)),
            (rng.uniform(-12, 0), side * rng.uniform(-15, -5), 0),
        )
        for side, z in ((1, -155), (-1, -138))
    ]
    gallbladder = body.place(0.34, 0.42, -122), rng.uniform((11, 14, 20), (17, 24, 30)), (25, 0, 0)
    spleen = body.place(-0.68, -0.38, -68), body.size(0.26, 0.5, 48, 0.17), (0, rng.uniform(-20, 5), 20)
    liver = shape_liver(scene, body, room, kidneys[0], gallbladder)
    paint_gut(scene, body, tissue, np.minimum(room, -liver))
    scene.paint_ellipsoid(*spleen, tissue["spleen"], room)
    scene.paint_ellipsoid(*gallbladder, WATER + 4)
    paint_kidneys(scene, body, tissue, kidneys)
    paint_spine(scene, body)
    paint_heart_and_vessels(scene, body, tissue, below)
    paint_table(scene, body)
    liver = paint_liver(scene, body, tissue, liver, room, variant, variant_rng)
    add_noise(scene, protocol, noise_rng)

    hu = np.clip(np.rint(scene.hu), -1024, 3071).astype(np.int16)
    mask = (liver > 0).astype(np.uint8)
    turn = orientations.ornt_transform(
        orientations.axcodes2ornt("RAS"), orientations.axcodes2ornt(protocol.orientation)
    )
    affine = affine @ orientations.inv_ornt_aff(turn, hu.shape)
    return orientations.apply_orientation(hu, turn), orientations.apply_orientation(mask, turn), affine


def check_phantom(case_id, site, variant):
    if site not in SITES:
        raise InputError(
            f"case {case_id}: no phantom has the site {site!r}; use {', '.join(SITES)}, or leave the column phantom empty"
        )
    if variant not in VARIANTS:
        raise InputError(
            f"case {case_id}: phantom {variant!r} is unknown; use {', '.join(VARIANTS)}, or leave the column phantom empty"
        )


def write_missing_phantoms(cases):
    """Write the phantoms among `cases` (a variant in the manifest column `phantom`) that lack a file.

    Files that exist are left alone, and every row is checked before the first file is written. Returns the number of cases written.
    """
    phantoms = [case for case in cases if case.extra.get("phantom")]
    for case in phantoms:
        check_phantom(case.case_id, case.site, case.extra["phantom"])
    incomplete = [case for case in phantoms if not (case.image.exists() and case.label.exists())]
    for case in incomplete:
        hu, mask, affine = make_phantom(case.case_id, case.site, case.extra["phantom"])
        for path, array in ((case.image, hu), (case.label, mask)):
            if not path.exists():
                write_nifti(path, array, affine)
    return len(incomplete)
