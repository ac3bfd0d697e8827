"""Painting soft-edged shapes into a volume: what the phantoms are made with.

Arrays are `(x, y, z)`. Shapes are signed distances in mm, positive inside; they are exact for tubes and good near the surface for the
rest, which is all that painting with soft edges needs.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.spatial.transform import Rotation


@dataclass(frozen=True)
class Scene:
    """An image being painted, `hu` of shape (x, y, z) in HU, and the open coordinate grid it lies on, in mm."""

    hu: np.ndarray
    x: np.ndarray  # (x, 1, 1)
    y: np.ndarray  # (1, y, 1)
    z: np.ndarray  # (1, 1, z)
    edge: float  # mm over which a surface fades: the partial volume of a voxel

    def box(self, lower, upper):
        """Slices of the grid between two points, with room for a soft edge."""
        axes = zip(
            (self.x, self.y, self.z),
            np.subtract(lower, 2 * self.edge),
            np.add(upper, 2 * self.edge),
            strict=True,
        )
        return tuple(slice(*np.searchsorted(axis.ravel(), (low, high))) for axis, low, high in axes)

    def crop(self, box):
        """The same scene seen through a box: what is painted there shows here."""
        i, j, k = box
        return Scene(self.hu[box], self.x[i], self.y[:, j], self.z[:, :, k], self.edge)

    def paint(self, distance, value):
        self.hu[...] += np.clip(distance / self.edge + 0.5, 0, 1) * (value - self.hu)

    def paint_ellipsoid(self, centre, radii, turns, value, room=None):
        """`room`, a signed distance (x, y, z), clips what is painted."""
        box = self.box(centre - np.max(radii), centre + np.max(radii))
        distance = ellipsoid(self.crop(box), centre, radii, turns)
        self.crop(box).paint(distance if room is None else np.minimum(distance, room[box]), value)

    def paint_tubes(self, points, radius, value, room=None):
        for start, end in pairwise(points):
            box = self.box(np.minimum(start, end) - radius, np.maximum(start, end) + radius)
            distance = tube(self.crop(box), start, end, radius)
            self.crop(box).paint(distance if room is None else np.minimum(distance, room[box]), value)


def ellipsoid(scene, centre, radii, turns=(0, 0, 0)):
    """Signed distance (x, y, z) to an ellipsoid whose axes are turned by `turns` degrees about x, y and z."""
    axes = Rotation.from_euler("xyz", turns, degrees=True).as_matrix()
    form = (axes / np.square(radii) @ axes.T).astype(np.float32)
    dx, dy, dz = scene.x - centre[0], scene.y - centre[1], scene.z - centre[2]
    in_plane = form[0, 0] * dx * dx + form[1, 1] * dy * dy + 2 * form[0, 1] * dx * dy
    slope = 2 * (form[0, 2] * dx + form[1, 2] * dy)
    radius = np.sqrt(np.maximum(in_plane + dz * (slope + form[2, 2] * dz), 0))
    return (1 - radius) * float(np.prod(radii)) ** (1 / 3)


def tube(scene, start, end, radius):
    """Signed distance (x, y, z) to a round-ended tube."""
    along = end - start
    dx, dy, dz = scene.x - start[0], scene.y - start[1], scene.z - start[2]
    t = np.clip((dx * along[0] + dy * along[1] + dz * along[2]) / (along @ along), 0, 1)
    return radius - np.sqrt((dx - t * along[0]) ** 2 + (dy - t * along[1]) ** 2 + (dz - t * along[2]) ** 2)


def wobble(scene, rng, wavelength, amplitude):
    """Smooth random field (x, y, z) with a standard deviation near `amplitude`."""
    field = 0.0
    for _ in range(4):
        lengths, shifts = wavelength * rng.uniform(0.7, 1.6, 3), rng.uniform(0, 2 * np.pi, 3)
        waves = zip((scene.x, scene.y, scene.z), lengths, shifts, strict=True)
        x, y, z = (np.sin(axis * float(2 * np.pi / length) + float(shift)) for axis, length, shift in waves)
        field = field + x * y * z
    return field * (amplitude * 2**0.5)


def join(first, second, blend):
    """Union of two signed distances, with a fillet of about `blend` mm where they meet."""
    overlap = np.maximum(blend - np.abs(first - second), 0)
    return np.maximum(first, second) + overlap * overlap / (4 * blend)
