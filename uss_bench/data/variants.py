"""What befalls some of the phantoms' livers: the variants that the manifest's column `phantom` names.

Coordinates as in `anatomy`. Draws come from a generator of their own, so all variants of a case share the
rest of its anatomy. (A `mirrored` phantom is the finished image turned over.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from .anatomy import WATER, Body, Tissue
from .livers import Lobes, mould, one_piece
from .painting import Scene, ellipsoid, wobble

COMMON = ("normal", "lesions", "cysts", "fatty")
RARE = ("resected", "tumour", "cirrhotic", "ascites", "embolized", "mirrored")
VARIANTS = COMMON + RARE


@dataclass(frozen=True)
class Inclusion:
    """Something in the liver, from rim to core."""

    box: tuple[slice, ...]  # of the scene, that it lies in
    distance: np.ndarray  # signed, in that box
    layers: tuple[tuple[float, float | np.ndarray], ...]  # (depth in mm, HU) of each, the outermost first

    def paint(self, scene: Scene, liver: np.ndarray) -> None:
        for depth, value in self.layers:
            scene.crop(self.box).paint(np.minimum(self.distance - depth, liver[self.box]), value)


def vary_tissue(variant: str, tissue: Tissue, rng: np.random.Generator) -> Tissue:
    """HU of the organs: a fatty liver is darker."""
    return tissue | {"liver": tissue["liver"] - rng.uniform(38, 52)} if variant == "fatty" else tissue


def vary_lobes(variant: str, lobes: Lobes, rng: np.random.Generator) -> Lobes:
    """Cirrhosis shrinks the right lobe and swells the left and the caudate lobe."""
    if variant != "cirrhotic":
        return lobes
    right, left, caudate = (
        (centre, axes * rng.uniform(low, high), turns)
        for (centre, axes, turns), low, high in (
            (lobes.right, (0.8, 0.75, 0.72), (0.92, 0.9, 0.85)),
            (lobes.left, (1.0, 1.1, 1.1), (1.2, 1.4, 1.4)),
            (lobes.caudate, (1.2, 1.2, 1.2), (1.6, 1.6, 1.6)),
        )
    )
    return replace(lobes, right=right, left=left, caudate=caudate, tongue=None)


def vary_liver(
    variant: str,
    scene: Scene,
    liver: np.ndarray,
    room: np.ndarray,
    tissue: Tissue,
    rng: np.random.Generator,
) -> tuple[np.ndarray, list[Inclusion]]:
    """Shape a liver as its variant does.

    Returns its signed distance, which then holds lesions, cysts and tumours too, and the `Inclusion`s to be
    painted in it.
    """
    if variant == "cirrhotic":
        liver = liver + np.maximum(wobble(scene, rng, 30, 5), 0) - 2
    if variant == "ascites":
        room = room - rng.uniform(7, 18) - wobble(scene, rng, 120, 3)  # the fluid floats it off the wall
    liver = mould(liver, room)
    if variant == "resected":
        liver = resect(scene, liver, rng)
    liver, inclusions = one_piece(liver), []
    if variant in GROWTHS:
        inclusions, bulge = GROWTHS[variant](scene, liver, tissue, rng)
        swollen = np.minimum(room, liver + bulge)  # what grows at the surface pushes it out
        for item in inclusions if bulge else ():
            liver[item.box] = np.maximum(liver[item.box], np.minimum(item.distance, swollen[item.box]))
    return liver, inclusions


def resect(scene: Scene, liver: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a right or left resection leaves of the liver, cut along a slightly bent plane."""
    along = float(rng.choice((-1, 1))) * (scene.x + 0.25 * scene.y + wobble(scene, rng, 110, 3))
    cut = np.quantile(along[liver > 0].astype(np.float64), rng.uniform(0.3, 0.7))
    return np.minimum(liver, float(cut) - along)


def draw_balls(
    scene: Scene,
    liver: np.ndarray,
    rng: np.random.Generator,
    count: int | np.integer,
    radii: tuple[float, float],
    depth: float = 4,
) -> Iterator[tuple[tuple[slice, ...], np.ndarray]]:
    """Box and signed distance in it of `count` roundish shapes, centred `depth` mm deep in the liver."""
    inside = np.argwhere(liver > min(depth, 0.8 * float(liver.max())))
    for voxel in inside[rng.integers(len(inside), size=count)]:
        centre = np.array([float(axis[tuple(voxel)]) for axis in (scene.x, scene.y, scene.z)])
        radius = rng.uniform(*radii) * rng.uniform(0.8, 1.25, 3)
        box = scene.box(centre - radius.max(), centre + radius.max())
        yield box, ellipsoid(scene.crop(box), centre, radius, rng.uniform(-40, 40, 3))


def lesions(
    scene: Scene, liver: np.ndarray, tissue: Tissue, rng: np.random.Generator
) -> tuple[list[Inclusion], float]:
    balls = list(draw_balls(scene, liver, rng, rng.integers(3, 10), (6, 22)))
    rim, core = tissue["liver"] - rng.uniform((15, 40), (35, 65))
    return [Inclusion(*ball, ((0, rim), (5, core))) for ball in balls], 0


def cysts(
    scene: Scene, liver: np.ndarray, tissue: Tissue, rng: np.random.Generator
) -> tuple[list[Inclusion], float]:
    balls = draw_balls(scene, liver, rng, rng.integers(10, 26), (7, 22))
    return [Inclusion(*ball, ((0, WATER),)) for ball in balls], 8


def tumour(
    scene: Scene, liver: np.ndarray, tissue: Tissue, rng: np.random.Generator
) -> tuple[list[Inclusion], float]:
    """One large tumour, necrotic inside, that bulges out of the liver."""
    ((box, distance),) = draw_balls(scene, liver, rng, 1, (40, 62), depth=12)
    distance = distance + wobble(scene.crop(box), rng, 60, 2.5)
    rim = tissue["liver"] + rng.choice((-1, 1), p=(0.7, 0.3)) * rng.uniform(14, 40)
    core = wobble(scene.crop(box), rng, 30, 8) + rng.uniform(25, 50)
    return [Inclusion(box, distance, ((0, rim), (rng.uniform(8, 25), core)))], 25


def embolized(
    scene: Scene, liver: np.ndarray, tissue: Tissue, rng: np.random.Generator
) -> tuple[list[Inclusion], float]:
    """Treated tumours, patchily filled with iodized oil, and a coil in a vessel."""
    rim, inclusions = tissue["liver"] - 40, []
    for box, distance in list(draw_balls(scene, liver, rng, rng.integers(2, 5), (11, 26))):
        oil = 900 + wobble(scene.crop(box), rng, 22, 450)
        inclusions.append(Inclusion(box, distance, ((0, rim), (2, np.maximum(oil, rim)))))
    ((box, coil),) = draw_balls(scene, liver, rng, 1, (5, 8))
    return [*inclusions, Inclusion(box, coil, ((0, 2600),))], 0


GROWTHS = {"lesions": lesions, "cysts": cysts, "tumour": tumour, "embolized": embolized}


def draw_fluid(
    variant: str,
    scene: Scene,
    body: Body,
    liver: np.ndarray,
    cavity: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray | None:
    """Signed distance (x, y, z) of free fluid around the liver and along the flanks, if there is any."""
    share = {"ascites": 1.0, "cirrhotic": 0.4}.get(variant, 0.0)
    around, flank = rng.uniform((18, 16), (40, 40)).tolist()
    if rng.random() >= share:
        return None
    reach = np.maximum(around + liver, flank - cavity)
    kidneys = -0.4 * body.depth + wobble(scene, rng, 90, 4)  # which lie behind the fluid
    return np.minimum(reach, scene.y - kidneys)
