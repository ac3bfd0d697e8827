"""The body around the phantoms' livers: trunk, skeleton, bowel and the other organs.

Here, arrays are `(x, y, z)` and RAS: +x to the patient's right, +y anterior, +z superior, in mm, with z = 0 at the top of
the right diaphragm. Organs are painted in turn, the later ones over the earlier ones.
"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from .painting import Scene, ellipsoid, join, smooth_path, wobble

# Mean HU by contrast phase; "veins" are the caval, hepatic and portal veins.
ORGANS = ("liver", "spleen", "aorta", "veins", "heart", "kidney", "pancreas", "gut", "muscle")
PHASES = {
    "native": (57, 49, 42, 41, 42, 34, 40, 42, 55),
    "arterial": (73, 112, 270, 82, 220, 165, 100, 85, 58),
    "portal": (104, 116, 152, 158, 145, 182, 95, 88, 64),
    "late": (90, 94, 112, 115, 108, 160, 78, 74, 63),
}
AIR, LUNG, FAT, WATER, BONE = -1000, -850, -102, 8, 330


def draw_tissue(rng, phases):
    """HU of one patient's organs in one of the contrast `phases`."""
    values = rng.uniform(0.88, 1.12) * np.array(PHASES[rng.choice(phases)]) + rng.normal(0, 4, len(ORGANS))
    return dict(zip(ORGANS, values, strict=True))


@dataclass(frozen=True)
class Body:
    """One patient's frame. Organs are placed at (u, v, z): u and v in half widths and half depths of the trunk's cavity, z in mm."""

    rng: np.random.Generator
    width: float  # mm, half axes of the cavity inside ribs and abdominal wall
    depth: float
    squareness: float  # exponent of the trunk's outline: 2 is an ellipse
    wall: float  # mm, thickness of the muscle wall
    fat: float  # mm, of the subcutaneous fat
    gap: float  # mm of visceral fat between liver and bowel
    domes: tuple  # (u, v, top, spread) of the diaphragm: right, left and the tendon under the heart
    turns: np.ndarray  # degrees by which the patient lies turned about x, y and z
    stretch: np.ndarray  # of the whole body, per axis

    @classmethod
    def draw(cls, rng):
        width, slimness = rng.uniform(112, 142), rng.uniform(0.64, 0.84)
        right = rng.uniform(0.36, 0.52), rng.uniform(-0.15, 0.25), 0, rng.uniform(0.52, 0.72)
        left = (
            rng.uniform(-0.58, -0.45),
            rng.uniform(-0.1, 0.15),
            rng.uniform(-38, 2),
            rng.uniform(0.48, 0.62),
        )
        tendon = rng.uniform(-0.1, 0.04), 0.3, rng.uniform(-30, -12), 0.6
        return cls(
            rng,
            width,
            slimness * width,
            squareness=rng.uniform(2, 2.5),
            wall=rng.uniform(13, 24),
            fat=rng.choice((rng.uniform(4, 14), rng.uniform(10, 34))),
            gap=rng.choice((0, rng.uniform(0, 8))),
            domes=(right, left, tendon),
            turns=rng.normal(0, (2.5, 2.5, 6)).clip((-5, -5, -13), (5, 5, 13)),
            stretch=rng.uniform(0.9, 1.1, 3),
        )

    @property
    def spine(self):
        """y of the vertebral bodies in mm."""
        return -0.56 * self.depth

    @property
    def pose(self):
        """Affine map (3, 4) from the body's coordinates to the scanner's."""
        return np.hstack(
            [
                Rotation.from_euler("xyz", self.turns, degrees=True).as_matrix() * self.stretch,
                np.zeros((3, 1)),
            ]
        )

    def size(self, u, v, z, spread=0.0):
        """Half axes (3,) in mm, each up to `spread` larger or smaller than named."""
        return np.float32([u * self.width, v * self.depth, z]) * self.rng.uniform(
            1 - spread, 1 + spread, 3
        ).astype(np.float32)

    def place(self, u, v, z):
        """A point (3,) in mm near the one named: organs lie centimetres apart between patients."""
        return self.size(u, v, z) + self.rng.normal(0, (8, 6, 10)).clip(-18, 18).astype(np.float32)

    def cava(self):
        """The inferior vena cava: from the pelvis through the liver's back into the heart."""
        return np.float32(
            [(19, self.spine + y, z) for y, z in ((27, -420), (27, -300), (29, -90), (33, -12), (48, 25))]
        )


def paint_trunk(scene, body, tissue):
    """Paint skin to lungs. Returns the signed distances (x, y, z) of the trunk's cavity and of the space below the diaphragm."""
    taper = 1 - 0.09 * np.square((scene.z + 90) / 140).clip(0, 1.5)
    power = body.squareness
    radius = (
        np.abs(scene.x / (body.width * taper)) ** power + np.abs(scene.y / (body.depth * taper)) ** power
    ) ** (1 / power)
    radius += wobble(scene, body.rng, 260, 0.02)
    cavity = (1 - radius) * (body.width * body.depth) ** 0.5
    height, steepness = np.float32(-999), body.rng.uniform(65, 115)
    for u, v, top, spread in body.domes:
        dome = top - steepness * (
            ((scene.x / body.width - u) / spread) ** 2 + ((scene.y / body.depth - v) / (spread + 0.4)) ** 2
        )
        height = join(dome, height, 12)
    below = 0.7 * (height - scene.z)

    scene.paint(cavity + body.wall + body.fat, FAT)
    scene.paint(cavity + body.wall, tissue["muscle"])
    scene.paint(cavity, FAT)
    scene.paint(np.minimum(cavity, 3 - np.abs(below)), tissue["muscle"])
    mediastinum = ellipsoid(scene, body.size(-0.06, 0.1, 60), (34, 0.85 * body.depth, 400))
    scene.paint(
        np.minimum(np.minimum(cavity, -below) - 1, -mediastinum), LUNG + wobble(scene, body.rng, 30, 25)
    )
    level = (scene.z + 0.55 * scene.y + body.rng.uniform(0, 26)) % 26 - 13  # ribs slope down to the front
    arch = scene.z + 140 - 0.9 * scene.y
    scene.paint(np.minimum(4.5 - np.hypot(cavity + 0.4 * body.wall, 0.85 * level), arch), BONE)
    return cavity, below


def paint_spine(scene, body, tissue):
    low, high = float(scene.z.min()), float(scene.z.max())
    part = scene.crop(scene.box((-60, body.spine - 70, low), (60, body.spine + 20, high)))
    column = Scene(
        part.hu, part.x, part.y, np.zeros_like(part.z), part.grid, part.pose, part.slack, part.edge
    )
    back = body.spine - 26
    for side in (-27, 27):
        column.paint(ellipsoid(column, (side, back - 8, 0), (27, 21, 27)), tissue["muscle"])
    column.paint(ellipsoid(column, (0, back, 0), (17, 14, 17)), BONE)
    column.paint(ellipsoid(column, (0, back - 24, 0), (5, 17, 5)), BONE)
    level = (part.z + body.rng.uniform(0, 31)) % 31
    disc_or_bone = np.where(level < 7, 95, np.where((level < 11) | (level > 27), BONE + 150, BONE - 140))
    column.paint(ellipsoid(column, (0, body.spine, 0), (21, 17, 21)), disc_or_bone)
    column.paint(ellipsoid(column, (0, back + 1, 0), (10, 8, 10)), 25)


def paint_pelvis(scene, body, tissue, cavity):
    """Psoas muscles beside the spine, iliac wings and what a full bladder holds."""
    for side in (-1, 1):
        psoas = [
            (side * x, body.spine + y, z)
            for x, y, z in ((28, -4, -110), (38, 2, -220), (52, 22, -330), (62, 50, -430))
        ]
        scene.paint_tubes(np.float32(psoas), (9, 18, 20), tissue["muscle"])
    wing = np.minimum(5 - np.abs(cavity - 2), -235 - scene.z - 0.5 * np.abs(scene.y + 10))
    scene.paint(np.minimum(wing, np.abs(scene.x) - 0.4 * body.width), BONE - 60)
    scene.paint_ellipsoid(body.place(0, 0.2, -400), body.size(0.35, 0.4, 35, 0.2), (0, 0, 0), WATER)


def paint_viscera(scene, body, tissue, room, bottom):
    """Bowel, stomach and spleen, in the `room` that the liver leaves. `bottom`: z in mm of the liver's lower edge."""
    padded = room - body.gap
    paint_bowel(scene, body, tissue, padded)
    paint_colon(scene, body, tissue, padded, bottom)
    paint_stomach(scene, body, tissue, padded)
    spleen = body.place(-0.68, -0.38, -68), body.size(0.28, 0.5, 50, 0.25), (0, body.rng.uniform(-20, 5), 20)
    scene.paint_ellipsoid(*spleen, tissue["spleen"], room)


def paint_bowel(scene, body, tissue, room):
    """Small bowel with folds, and colon: both soft, they take the `room` that the liver leaves."""
    rng, inner = body.rng, room - 3
    for _ in range(42):
        start = body.size(rng.uniform(-0.75, 0.75), rng.uniform(-0.25, 0.8), rng.uniform(-330, -95))
        path = start + np.cumsum(rng.normal(0, (13, 9, 9), (6, 3)), axis=0)
        path = smooth_path(path, 9)
        radius, fold = rng.uniform(9, 17), rng.uniform(0, 4)
        content = rng.choice(
            (AIR + 150, 15, 35, 60, tissue["gut"], 220), p=(0.12, 0.2, 0.25, 0.2, 0.15, 0.08)
        )
        scene.paint_tubes(path, radius, tissue["gut"], room)
        scene.paint_tubes(path, radius - 3 - fold * (np.arange(len(path) - 1) % 2), content, inner)


def paint_colon(scene, body, tissue, room, bottom):
    """Colon with haustra. Its right bend often lies on the liver's lower edge, at z = `bottom`."""
    rng = body.rng
    right, middle = bottom + rng.uniform(-15, 45), rng.uniform(-190, -105)
    bends = (
        (-0.8, -0.25, -300),
        (-0.8, -0.2, -125),
        (-0.3, 0.7, middle),
        (0.3, 0.65, middle),
        (0.6, 0.35, right),
        (0.75, -0.1, -300),
    )
    path = smooth_path([body.place(*bend) for bend in bends], 16)
    radius = rng.uniform(13, 24) * (1 - 0.2 * (np.arange(len(path) - 1) % 2))  # haustra
    content = rng.choice((-600, -60, 25, 50, tissue["gut"]))
    scene.paint_tubes(path, radius, tissue["gut"], room)
    scene.paint_tubes(path, radius - 3.5, content, room - 3)


def paint_stomach(scene, body, tissue, room):
    """Stomach, collapsed or full, and pancreas behind it."""
    rng = body.rng
    pancreas = smooth_path(
        [body.place(*bend) for bend in ((0.2, -0.02, -125), (-0.05, 0.1, -112), (-0.5, -0.2, -92))], 20
    )
    scene.paint_tubes(pancreas, rng.uniform(9, 15), tissue["pancreas"], room)

    fullness, content = rng.uniform(0.55, 1.25), rng.choice((rng.uniform(5, 40), rng.uniform(40, 110)))
    parts = (
        (body.place(-0.45, 0.05, -55), body.size(0.32, 0.5, 48, 0.2) * fullness),
        (body.place(-0.32, 0.42, -90), body.size(0.28, 0.34, 38, 0.2) * fullness),
        (body.place(0.0, 0.5, -112), body.size(0.3, 0.24, 22, 0.2) * fullness),
    )
    # Patients lie on their backs: gas collects in front, whichever way they are turned.
    bubble = np.minimum(room - 4, scene.grid[1] - rng.uniform(0.2, 0.8) * body.depth)
    for shrink, value, where in ((0, tissue["gut"], room), (4, content, room - 4), (4, AIR + 30, bubble)):
        for centre, radii in parts:
            scene.paint_ellipsoid(centre, radii - shrink, (0, 0, 0), value, where)


def draw_kidneys(body):
    """Centre, half axes and turns of the right and the left kidney."""
    rng = body.rng
    return [
        (
            body.place(side * 0.44, -0.46, z),
            rng.uniform((22, 21, 44), (31, 29, 62)),
            (rng.uniform(-15, 3), side * rng.uniform(-18, -2), rng.uniform(-20, 20)),
        )
        for side, z in ((1, -150), (-1, -138))
    ]


def paint_kidneys(scene, tissue, kidneys):
    for side, (centre, radii, turns) in zip((1, -1), kidneys, strict=True):
        scene.paint_ellipsoid(centre, radii, turns, tissue["kidney"])
        scene.paint_ellipsoid(centre, radii - 8, turns, 0.75 * tissue["kidney"])
        scene.paint_ellipsoid(centre - np.float32([side * 11, -4, 0]), (12, 8, 24), turns, FAT + 40)


def paint_heart_and_vessels(scene, body, tissue, below):
    centre = body.place(-0.17, 0.29, 32)
    turns, wide = (0, 15, body.rng.uniform(-40, -10)), body.rng.uniform(0.85, 1.2)
    scene.paint_ellipsoid(
        centre,
        body.size(0.46, 0.5, 54) * wide,
        turns,
        0.3 * tissue["muscle"] + 0.7 * tissue["heart"],
        -below - 1,
    )
    scene.paint_ellipsoid(centre, body.size(0.32, 0.34, 38) * wide, turns, tissue["heart"], -below - 9)
    scene.paint_tubes(body.cava(), 12, tissue["veins"])
    scene.paint_tubes(
        np.float32([(-14, body.spine + 28, -420), (-14, body.spine + 28, -300), (-17, body.spine + 24, 200)]),
        11,
        tissue["aorta"],
    )


def paint_arms(scene, body, tissue):
    """At times an arm or both lie beside the trunk, cut off by the edge of the field of view."""
    for side in (-1, 1):
        x = side * (body.width + body.wall + body.fat + body.rng.uniform(36, 48))
        y, seen = body.rng.uniform(-40, 20), body.rng.random() < 0.12
        arm = np.float32([(x, y, -450), (x, y - 10, 150)])
        for radius, value in ((40, FAT), (33, tissue["muscle"]), (11, BONE + 200), (6, 60)) if seen else ():
            scene.paint_tubes(arm, radius, value)


def paint_table(scene, body):
    """The table, flat or hollow, stays level however the patient lies on it."""
    x, y, _ = scene.grid
    depth = body.stretch[1] * (body.depth + 0.85 * (body.wall + body.fat)) + body.rng.uniform(8, 22)
    depth = np.float32(depth) + y - np.float32(body.rng.uniform(0, 1 / 1200)) * x**2
    for offset, half, value in ((9, 9, -820), (2, 3, 80), (16, 3, 80)):
        scene.paint(np.minimum(half - np.abs(depth + offset), 190 - np.abs(x)) + 0 * scene.hu, value)
