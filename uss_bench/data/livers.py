"""The phantoms' livers: drawn lobe by lobe and moulded by their neighbours.

Coordinates as in `anatomy`; a liver is a signed distance `(x, y, z)` in mm, positive inside.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from .painting import Ellipsoid, Scene, Triple, ellipsoid, join, tube, wobble

if TYPE_CHECKING:
    from .anatomy import Body, Tissue


@dataclass(frozen=True)
class Lobes:
    """What a liver is made of. Each is an ellipsoid: centre, half axes and turns."""

    right: Ellipsoid
    left: Ellipsoid
    caudate: Ellipsoid
    tongue: Ellipsoid | None  # a Riedel lobe, which hangs down at the right
    hilum: Ellipsoid  # hollows from here on: from below, beside segment IV, and for the gallbladder
    fissure: tuple[np.ndarray, Triple, Triple]
    gallbladder: Ellipsoid

    @property
    def bottom(self) -> float:
        """z in mm near the lower edge."""
        lowest = self.right, self.tongue or self.right
        return min(float(centre[2] - 0.95 * axes[2]) for centre, axes, _ in lowest)


def draw_lobes(body: Body) -> Lobes:
    """Lobes of a healthy liver. They differ in every proportion, as patients' do."""
    rng = body.rng
    wide, deep, high = rng.uniform(0.5, 0.68), rng.uniform(0.78, 1.0), rng.uniform(74, 102)
    right = body.place(0.96 - 0.9 * wide, rng.uniform(-0.15, 0.12), -0.9 * high)
    reach, notch = rng.uniform(0.3, 0.66), rng.uniform(-0.14, 0.06)
    left = body.place(0.25 - 0.6 * reach, rng.uniform(0.3, 0.55), rng.uniform(-70, -36))
    tongue = body.place(0.66, 0.05, right[2] - 0.95 * high), body.size(0.26, 0.42, 62, 0.2), (0, 0, 0)
    hilum, hollow = body.place(notch, -0.1, right[2] - 52), body.size(0.46, 0.56, rng.uniform(42, 70), 0.15)
    at_the_edge = hilum + hollow * np.array([0.6, 0.55, 0.3])
    thick = rng.uniform(0.34, 0.52), rng.uniform(32, 50)
    return Lobes(
        right=(right, body.size(wide, deep, high), rng.uniform((-9, -9, -10), (9, 12, 10))),
        left=(left, body.size(reach, *thick), rng.uniform((0, -24, -10), (0, 6, 25))),
        caudate=(body.place(0.16, -0.18, -62), body.size(0.2, 0.26, 34, 0.2), (0, 0, 0)),
        tongue=tongue if rng.random() < 0.12 else None,
        hilum=(hilum, hollow, (0, rng.uniform(-10, 25), 0)),
        fissure=(body.place(notch + 0.1, 0.75, hilum[2] + 38), (5, 26, 24), (0, 0, rng.uniform(-25, 25))),
        gallbladder=(at_the_edge, rng.uniform((10, 12, 18), (19, 26, 34)), (25, 0, 0)),
    )


def shape_liver(scene: Scene, body: Body, lobes: Lobes, kidney: Ellipsoid) -> np.ndarray:
    """Signed distance (x, y, z) of a liver that wall and diaphragm do not yet confine, bent as `scene` is."""
    spine = (0, body.spine - 22, -90), (36, 54, 600)
    distance = join(ellipsoid(scene, *lobes.right), ellipsoid(scene, *lobes.left), 25)
    if lobes.tongue:
        distance = join(distance, ellipsoid(scene, *lobes.tongue), 25)
    distance = -join(-distance, ellipsoid(scene, *lobes.hilum), 18)
    distance = join(distance, ellipsoid(scene, *lobes.caudate), 20) + wobble(scene, body.rng, 110, 2.5)
    centre, axes, turns = kidney
    behind = centre + np.array([0, -14, -18]), axes * np.array([1.05, 1.5, 1.3]), turns
    hollows = (spine, 2, 12), (behind, body.gap / 2, 10), (lobes.fissure, 0, 3), (lobes.gallbladder, 1, 2)
    for hollow, gap, blend in hollows:
        distance = -join(-distance, ellipsoid(scene, *hollow) + gap, blend)
    for start, end in pairwise(body.cava()):
        distance = np.minimum(distance, -tube(scene, start, end, 13))
    return distance


def mould(liver: np.ndarray, room: np.ndarray, reach: float = 16) -> np.ndarray:
    """The liver confined to its `room`, to whose walls it clings where it comes within `reach` mm of them."""
    return np.minimum(liver + reach * (1 - room / 30).clip(0, 1), room)


def one_piece(liver: np.ndarray) -> np.ndarray:
    """The liver without what its hollows, or a surgeon, cut off from the largest piece."""
    labels, count = ndimage.label(liver > 0)
    if count < 2:
        return liver
    largest = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
    kept = ndimage.binary_dilation(largest, iterations=2) & (largest | (labels == 0))
    return np.where(kept, liver, np.minimum(liver, -10))


def paint_vessels(scene: Scene, body: Body, tissue: Tissue, liver: np.ndarray) -> None:
    hepatic_veins = [
        (body.cava()[3], body.place(*goal)) for goal in ((0.8, -0.1, -80), (0.45, 0.6, -70), (-0.2, 0.5, -42))
    ]
    hilum, right, left = body.place(0.1, 0.08, -88), body.place(0.4, 0, -78), body.place(-0.04, 0.4, -58)
    portal_veins = [
        (hilum, right, body.place(*goal))
        for goal in ((0.65, 0.45, -60), (0.72, -0.4, -105), (0.5, 0.1, -135))
    ]
    for path in (*hepatic_veins, *portal_veins, (hilum, left, body.place(-0.3, 0.5, -52))):
        scene.paint_tubes(path, body.rng.uniform(3.5, 5.5), tissue["veins"], liver)
