"""Painting soft-edged shapes into a volume: what the phantoms are made with.

Arrays are `(x, y, z)`. Shapes are signed distances in mm, positive inside; they are exact for tubes and good
near the surface for the rest, which is all that painting with soft edges needs.

So that phantoms depend neither on the processor nor on the version of NumPy, images are float32 throughout,
meet plain numbers or float32 only, and use no function that is rounded in various ways, such as NumPy's own
float32 sine and power.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product

import numpy as np
from scipy.interpolate import make_interp_spline
from scipy.spatial.transform import Rotation

Triple = tuple[float, float, float] | np.ndarray  # one number each for x, y and z
Ellipsoid = tuple[np.ndarray, np.ndarray, Triple]  # centre and half axes in mm, turns in degrees


@dataclass(frozen=True)
class Scene:
    """An image being painted, and where each of its voxels lies in the body that is painted.

    Shapes are given in the body's coordinates, so a body that lies turned, stretched or bent in the scanner
    is painted as easily as a straight one.
    """

    hu: np.ndarray  # (x, y, z), HU
    x: np.ndarray  # (x, y, z), mm in the body; y and z likewise
    y: np.ndarray
    z: np.ndarray
    grid: tuple[np.ndarray, ...]  # the scanner's axes in mm, of shapes (x, 1, 1), (1, y, 1) and (1, 1, z)
    pose: np.ndarray  # (3, 4), affine map from body to scanner
    slack: float  # mm by which bending takes a point at most off where `pose` puts it
    edge: float  # mm over which a surface fades: the partial volume of a voxel

    @classmethod
    def of(cls, hu: np.ndarray, grid: tuple[np.ndarray, ...], pose: np.ndarray, edge: float) -> Scene:
        """The scene of an unbent body."""
        back = np.linalg.inv(np.vstack([pose, (0, 0, 0, 1)]))[:3].tolist()
        x, y, z = grid
        body = (a * x + b * y + c * z + shift for a, b, c, shift in back)
        return cls(hu, *body, grid, pose, 0.0, edge)

    def bent(self, rng: np.random.Generator, wavelength: float, amplitude: float) -> Scene:
        """The same image, the body smoothly bent by about `amplitude` mm along each axis."""
        x, y, z = (axis + wobble(self, rng, wavelength, amplitude) for axis in (self.x, self.y, self.z))
        return replace(self, x=x, y=y, z=z, slack=self.slack + 6 * amplitude)

    def box(self, lower: Triple, upper: Triple) -> tuple[slice, ...]:
        """Slices of the grid that hold all between two points of the body, with room for a soft edge."""
        corners = np.array(list(product(*zip(lower, upper, strict=True))))
        corners = corners @ self.pose[:, :3].T + self.pose[:, 3]
        margin = self.slack + 2 * self.edge
        lower, upper = corners.min(0) - margin, corners.max(0) + margin
        axes = zip(self.grid, lower, upper, strict=True)
        return tuple(slice(*np.searchsorted(axis.ravel(), (low, high))) for axis, low, high in axes)

    def crop(self, box: tuple[slice, ...]) -> Scene:
        """The same scene seen through a box: what is painted there shows here."""
        (i, j, k), (x, y, z) = box, self.grid
        grid = x[i], y[:, j], z[:, :, k]
        return replace(self, hu=self.hu[box], x=self.x[box], y=self.y[box], z=self.z[box], grid=grid)

    def paint(self, distance: np.ndarray, value: float | np.ndarray) -> None:
        self.hu[...] += np.clip(distance / self.edge + 0.5, 0, 1) * (np.asarray(value, np.float32) - self.hu)

    def paint_ellipsoid(
        self, centre: np.ndarray, radii: Triple, turns: Triple, value: float, room: np.ndarray | None = None
    ) -> None:
        """`room`, a signed distance (x, y, z), clips what is painted."""
        box = self.box(centre - np.max(radii), centre + np.max(radii))
        distance = ellipsoid(self.crop(box), centre, radii, turns)
        self.crop(box).paint(distance if room is None else np.minimum(distance, room[box]), value)

    def paint_tubes(
        self,
        points: Sequence[np.ndarray] | np.ndarray,
        radii: float | Sequence[float] | np.ndarray,
        value: float,
        room: np.ndarray | None = None,
    ) -> None:
        """A chain of tubes; `radii` is one number, or one for each of the tubes."""
        radii = np.broadcast_to(radii, len(points) - 1).tolist()
        for (start, end), radius in zip(pairwise(points), radii, strict=True):
            box = self.box(np.minimum(start, end) - radius, np.maximum(start, end) + radius)
            if any(side.start == side.stop for side in box):
                continue  # not in the scan
            distance = tube(self.crop(box), start, end, radius)
            self.crop(box).paint(distance if room is None else np.minimum(distance, room[box]), value)


def ellipsoid(scene: Scene, centre: Triple, radii: Triple, turns: Triple = (0, 0, 0)) -> np.ndarray:
    """Signed distance (x, y, z) to an ellipsoid whose axes are turned by `turns` degrees about x, y and z."""
    axes = Rotation.from_euler("xyz", turns, degrees=True).as_matrix()
    (xx, xy, xz), (_, yy, yz), (*_, zz) = (axes / np.square(radii) @ axes.T).tolist()
    dx, dy, dz = _offsets(scene, centre)
    squares = dx * (xx * dx + 2 * xy * dy + 2 * xz * dz) + dy * (yy * dy + 2 * yz * dz) + zz * dz * dz
    return (1 - np.sqrt(np.maximum(squares, 0))) * float(np.prod(radii)) ** (1 / 3)


def tube(scene: Scene, start: np.ndarray, end: np.ndarray, radius: float) -> np.ndarray:
    """Signed distance (x, y, z) to a round-ended tube."""
    u, v, w = (end - start).tolist()
    dx, dy, dz = _offsets(scene, start)
    t = np.clip((dx * u + dy * v + dz * w) / (u * u + v * v + w * w), 0, 1)
    return radius - np.sqrt((dx - t * u) ** 2 + (dy - t * v) ** 2 + (dz - t * w) ** 2)


def _offsets(scene: Scene, point: Triple) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How far voxels lie from a point along each axis, `(x, y, z)` in mm."""
    x, y, z = (float(number) for number in point)
    return scene.x - x, scene.y - y, scene.z - z


def smooth_path(points: Sequence[np.ndarray] | np.ndarray, step: float) -> np.ndarray:
    """Points (n, 3) about `step` mm apart on a smooth curve through `points`."""
    points = np.asarray(points, np.float64)
    lengths = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    curve = make_interp_spline(lengths, points, k=min(3, len(points) - 1))
    return curve(np.linspace(0, lengths[-1], int(lengths[-1] / step) + 2)).round(6)  # LAPACKs differ


def wobble(scene: Scene, rng: np.random.Generator, wavelength: float, amplitude: float) -> np.ndarray:
    """Smooth random field (x, y, z): standard deviation near `amplitude`, no value beyond six of it."""
    field = 0.0
    for _ in range(4):
        lengths, shifts = wavelength * rng.uniform(0.7, 1.6, 3), rng.uniform(0, 2 * np.pi, 3)
        waves = zip(scene.grid, lengths, shifts, strict=True)
        x, y, z = (sine(axis * float(2 * np.pi / length) + float(shift)) for axis, length, shift in waves)
        field = field + x * y * z
    return field * (amplitude * 2**0.5)


def sine(angle: np.ndarray) -> np.ndarray:
    """Sine of float32, rounded as `power` is."""
    return np.sin(angle.astype(np.float64)).astype(np.float32)


def power(base: np.ndarray, exponent: float) -> np.ndarray:
    """`base ** exponent` of float32, rounded correctly, all but never otherwise.

    NumPy's own float32 functions err in the last digit, in other places on each kind of processor. Worked out
    in float64 and rounded, they agree; sums, products, quotients and square roots do so anyway.
    """
    return np.power(base.astype(np.float64), exponent).astype(np.float32)


def join(first: np.ndarray, second: np.float32 | np.ndarray, blend: float) -> np.ndarray:
    """Union of two signed distances, with a fillet of about `blend` mm where they meet."""
    overlap = np.maximum(blend - np.abs(first - second), 0)
    return np.maximum(first, second) + overlap * overlap / (4 * blend)
