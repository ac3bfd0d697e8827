"""The phantoms' bodies: what tissues look like in CT, and the trunk with its skeleton.

Arrays are `(x, y, z)` and RAS: +x to the patient's right, +y anterior, +z superior, in mm, with z = 0 at the
top of the right diaphragm. Things are painted in turn, the later ones over the earlier ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation

from .painting import Scene, ellipsoid, join, power, wobble

# Mean HU by contrast phase; "veins" are the caval, hepatic and portal veins.
ORGANS = ("liver", "spleen", "aorta", "veins", "heart", "kidney", "pancreas", "gut", "muscle")
PHASES = {
    "native": (57, 49, 42, 41, 42, 34, 40, 42, 55),
    "arterial": (78, 112, 270, 82, 220, 165, 100, 85, 58),
    "portal": (107, 116, 152, 158, 145, 182, 95, 88, 64),
    "late": (96, 94, 112, 115, 108, 160, 78, 74, 63),
}
AIR, LUNG, FAT, WATER, BONE = -1000, -850, -102, 8, 330

Tissue = dict[str, float]  # HU by organ


def draw_tissue(rng: np.random.Generator, phases: Sequence[str]) -> Tissue:
    """HU of one patient's organs in one of the contrast `phases`."""
    values = rng.uniform(0.88, 1.12) * np.array(PHASES[rng.choice(phases)]) + rng.normal(0, 4, len(ORGANS))
    return dict(zip(ORGANS, values.tolist(), strict=True))


@dataclass(frozen=True)
class Body:
    """One patient's frame.

    Organs are placed at (u, v, z): u and v in half widths and half depths of the trunk's cavity, z in mm.
    """

    rng: np.random.Generator
    width: float  # mm, half axes of the cavity inside ribs and abdominal wall
    depth: float
    squareness: float  # exponent of the trunk's outline: 2 is an ellipse
    wall: float  # mm, thickness of the muscle wall
    fat: float  # mm, of the subcutaneous fat
    gap: float  # mm of visceral fat between liver and bowel
    # (u, v, top, spread) of the diaphragm: right, left and the tendon under the heart
    domes: tuple[Sequence[float], ...]
    turns: np.ndarray  # degrees by which the patient lies turned about x, y and z
    stretch: np.ndarray  # of the whole body, per axis

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Body:
        width, slimness = rng.uniform(115, 140), rng.uniform(0.66, 0.8)
        right, left, tendon = rng.uniform(
            ((0.39, -0.08, 0, 0.56), (-0.55, -0.05, -30, 0.5), (-0.07, 0.3, -26, 0.6)),
            ((0.49, 0.18, 0, 0.68), (-0.47, 0.1, -6, 0.6), (0.02, 0.3, -16, 0.6)),
        ).tolist()
        return cls(
            rng,
            width,
            slimness * width,
            squareness=rng.uniform(2, 2.5),
            wall=rng.uniform(13, 24),
            fat=float(rng.choice((rng.uniform(4, 14), rng.uniform(10, 34)))),
            gap=float(rng.choice((rng.uniform(0, 4), rng.uniform(4, 12)))),
            domes=(right, left, tendon),
            turns=rng.normal(0, (2, 2, 5)).clip((-4, -4, -12), (4, 4, 12)),
            stretch=rng.uniform(0.92, 1.08, 3),
        )

    @property
    def spine(self) -> float:
        """y of the vertebral bodies in mm."""
        return -0.56 * self.depth

    @property
    def pose(self) -> np.ndarray:
        """Affine map (3, 4) from the body's coordinates to the scanner's."""
        turned = Rotation.from_euler("xyz", self.turns, degrees=True).as_matrix()
        return np.hstack([turned * self.stretch, np.zeros((3, 1))])

    def size(self, u: float, v: float, z: float, spread: float = 0.0) -> np.ndarray:
        """Half axes (3,) in mm, each up to `spread` larger or smaller than named."""
        factors = self.rng.uniform(1 - spread, 1 + spread, 3)
        return np.array([u * self.width, v * self.depth, z]) * factors

    def place(self, u: float, v: float, z: float) -> np.ndarray:
        """A point (3,) in mm near the one named: organs lie centimetres apart between patients."""
        return self.size(u, v, z) + self.rng.normal(0, (6, 5, 7)).clip(-14, 14)

    def cava(self) -> np.ndarray:
        """The inferior vena cava: from the pelvis through the liver's back into the heart."""
        course = (27, -420), (27, -300), (29, -90), (33, -12), (48, 25)
        return np.array([(19, self.spine + y, z) for y, z in course])


def paint_trunk(scene: Scene, body: Body, tissue: Tissue) -> tuple[np.ndarray, np.ndarray]:
    """Paint skin to lungs.

    Returns the signed distances (x, y, z) of the trunk's cavity and of the space below the diaphragm.
    """
    taper = 1 - 0.09 * np.square((scene.z + 90) / 140).clip(0, 1.5)
    u, v = scene.x / body.width, scene.y / body.depth
    total = power(np.abs(u), body.squareness) + power(np.abs(v), body.squareness)
    radius = power(total, 1 / body.squareness) / taper
    radius += wobble(scene, body.rng, 260, 0.02)
    cavity = (1 - radius) * (body.width * body.depth) ** 0.5
    height, steepness = np.float32(-999), body.rng.uniform(65, 115)
    for dome_u, dome_v, top, spread in body.domes:
        fall = ((u - dome_u) / spread) ** 2 + ((v - dome_v) / (spread + 0.4)) ** 2
        height = join(top - steepness * fall, height, 12)
    below = 0.7 * (height - scene.z)

    scene.paint(cavity + body.wall + body.fat, FAT)
    scene.paint(cavity + body.wall, tissue["muscle"])
    scene.paint(cavity, FAT)
    scene.paint(np.minimum(cavity, 3 - np.abs(below)), tissue["muscle"])
    mediastinum = ellipsoid(scene, body.size(-0.06, 0.1, 60), (34, 0.85 * body.depth, 400))
    lungs = np.minimum(np.minimum(cavity, -below) - 1, -mediastinum)
    scene.paint(lungs, LUNG + wobble(scene, body.rng, 30, 25))
    level = (scene.z + 0.55 * scene.y + body.rng.uniform(0, 26)) % 26 - 13  # ribs slope down to the front
    arch = scene.z + 140 - 0.9 * scene.y
    ribs = 4.5 - np.sqrt(np.square(cavity + 0.4 * body.wall) + np.square(0.85 * level))
    scene.paint(np.minimum(ribs, arch), BONE)
    return cavity, below


def paint_spine(scene: Scene, body: Body, tissue: Tissue) -> None:
    low, high = float(scene.z.min()), float(scene.z.max())
    part = scene.crop(scene.box((-60, body.spine - 70, low), (60, body.spine + 20, high)))
    column = replace(part, z=np.zeros_like(part.z))  # alike at all heights
    back = body.spine - 26
    for side in (-27, 27):
        column.paint(ellipsoid(column, (side, back - 8, 0), (27, 21, 27)), tissue["muscle"])
    column.paint(ellipsoid(column, (0, back, 0), (17, 14, 17)), BONE)
    column.paint(ellipsoid(column, (0, back - 24, 0), (5, 17, 5)), BONE)
    level = (part.z + body.rng.uniform(0, 31)) % 31
    disc_or_bone = np.where(level < 7, 95, np.where((level < 11) | (level > 27), BONE + 150, BONE - 140))
    column.paint(ellipsoid(column, (0, body.spine, 0), (21, 17, 21)), disc_or_bone)
    column.paint(ellipsoid(column, (0, back + 1, 0), (10, 8, 10)), 25)


def paint_pelvis(scene: Scene, body: Body, tissue: Tissue, cavity: np.ndarray) -> None:
    """Psoas muscles beside the spine, iliac wings and what a full bladder holds."""
    for side in (-1, 1):
        course = (28, -4, -110), (38, 2, -220), (52, 22, -330), (62, 50, -430)
        psoas = np.array([(side * x, body.spine + y, z) for x, y, z in course])
        scene.paint_tubes(psoas, (9, 18, 20), tissue["muscle"])
    wing = np.minimum(5 - np.abs(cavity - 2), -235 - scene.z - 0.5 * np.abs(scene.y + 10))
    scene.paint(np.minimum(wing, np.abs(scene.x) - 0.4 * body.width), BONE - 60)
    scene.paint_ellipsoid(body.place(0, 0.2, -400), body.size(0.35, 0.4, 35, 0.2), (0, 0, 0), WATER)


def paint_arms(scene: Scene, body: Body, tissue: Tissue) -> None:
    """Arms at times lie beside the trunk, cut off by the edge of the field of view."""
    for side in (-1, 1):
        x = side * (body.width + body.wall + body.fat + body.rng.uniform(36, 48))
        y = body.rng.uniform(-40, 20)
        if body.rng.random() < 0.12:
            for radius, value in ((40, FAT), (33, tissue["muscle"]), (11, BONE + 200), (6, 60)):
                scene.paint_tubes(np.array([(x, y, -450), (x, y - 10, 150)]), radius, value)


def paint_table(scene: Scene, body: Body) -> None:
    """The table, flat or hollow, stays level however the patient lies on it."""
    x, y, _ = scene.grid
    depth = body.stretch[1] * (body.depth + 0.85 * (body.wall + body.fat)) + body.rng.uniform(8, 22)
    depth = np.float32(depth) + y - np.float32(body.rng.uniform(0, 1 / 1200)) * x**2
    for offset, half, value in ((9, 9, -820), (2, 3, 80), (16, 3, 80)):
        scene.paint(np.minimum(half - np.abs(depth + offset), 190 - np.abs(x)), value)
