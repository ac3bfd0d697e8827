"""The organs around the phantoms' livers. Coordinates as in `anatomy`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .anatomy import AIR, FAT, Body, Tissue
from .painting import Ellipsoid, Scene, smooth_path


def paint_viscera(scene: Scene, body: Body, tissue: Tissue, room: np.ndarray, bottom: float) -> None:
    """Bowel, stomach and spleen, in the `room` that the liver leaves; its lower edge is at z = `bottom`."""
    padded = room - body.gap
    paint_bowel(scene, body, tissue, padded)
    paint_colon(scene, body, tissue, padded, bottom)
    paint_stomach(scene, body, tissue, padded)
    spleen = body.place(-0.68, -0.38, -68), body.size(0.28, 0.5, 50, 0.25), (0, body.rng.uniform(-20, 5), 20)
    scene.paint_ellipsoid(*spleen, tissue["spleen"], room)


def paint_bowel(scene: Scene, body: Body, tissue: Tissue, room: np.ndarray) -> None:
    """Loops of small bowel with folds."""
    rng, inner = body.rng, room - 3
    for _ in range(42):
        start = body.size(rng.uniform(-0.75, 0.75), rng.uniform(-0.25, 0.8), rng.uniform(-330, -95))
        path = smooth_path(start + np.cumsum(rng.normal(0, (13, 9, 9), (6, 3)), axis=0), 9)
        radius, fold = rng.uniform(9, 17), rng.uniform(0, 4) * (np.arange(len(path) - 1) % 2)
        content = rng.choice(
            (AIR + 150, 15, 35, 60, tissue["gut"], 220), p=(0.12, 0.2, 0.25, 0.2, 0.15, 0.08)
        )
        scene.paint_tubes(path, radius, tissue["gut"], room)
        scene.paint_tubes(path, radius - 3 - fold, content, inner)


def paint_colon(scene: Scene, body: Body, tissue: Tissue, room: np.ndarray, bottom: float) -> None:
    """Colon with haustra. Its right bend often lies on the liver's lower edge, at z = `bottom`."""
    rng = body.rng
    right, middle = bottom + rng.uniform(-15, 45), rng.uniform(-190, -105)
    descending = (-0.8, -0.25, -300), (-0.8, -0.2, -125)
    transverse = (-0.3, 0.7, middle), (0.3, 0.65, middle)
    ascending = (0.6, 0.35, right), (0.75, -0.1, -300)
    path = smooth_path([body.place(*bend) for bend in descending + transverse + ascending], 16)
    radius = rng.uniform(13, 24) * (1 - 0.2 * (np.arange(len(path) - 1) % 2))  # haustra
    content = rng.choice((-600, -60, 25, 50, tissue["gut"]))
    scene.paint_tubes(path, radius, tissue["gut"], room)
    scene.paint_tubes(path, radius - 3.5, content, room - 3)


def paint_stomach(scene: Scene, body: Body, tissue: Tissue, room: np.ndarray) -> None:
    """Stomach, collapsed or full, and pancreas behind it."""
    rng = body.rng
    head, middle, tail = (0.2, -0.02, -125), (-0.05, 0.1, -112), (-0.5, -0.2, -92)
    pancreas = [body.place(*part) for part in (head, middle, tail)]
    scene.paint_tubes(smooth_path(pancreas, 20), rng.uniform(9, 15), tissue["pancreas"], room)

    fullness, content = rng.uniform(0.55, 1.25), rng.choice((rng.uniform(5, 40), rng.uniform(40, 90)))
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


def draw_kidneys(body: Body) -> list[Ellipsoid]:
    """Centre, half axes and turns of the right and the left kidney."""
    rng = body.rng
    kidneys = []
    for side, z in ((1, -150), (-1, -138)):
        turns = rng.uniform((-15, -18, -20), (3, -2, 20)) * (1, side, 1)
        kidneys.append((body.place(side * 0.44, -0.46, z), rng.uniform((22, 21, 44), (31, 29, 62)), turns))
    return kidneys


def paint_kidneys(scene: Scene, tissue: Tissue, kidneys: Sequence[Ellipsoid]) -> None:
    for side, (centre, radii, turns) in zip((1, -1), kidneys, strict=True):
        scene.paint_ellipsoid(centre, radii, turns, tissue["kidney"])
        scene.paint_ellipsoid(centre, radii - 8, turns, 0.75 * tissue["kidney"])
        scene.paint_ellipsoid(centre - np.array([side * 11, -4, 0]), (12, 8, 24), turns, FAT + 40)


def paint_heart_and_vessels(scene: Scene, body: Body, tissue: Tissue, below: np.ndarray) -> None:
    centre = body.place(-0.17, 0.29, 32)
    turns, wide = (0, 15, body.rng.uniform(-40, -10)), body.rng.uniform(0.85, 1.2)
    wall = 0.3 * tissue["muscle"] + 0.7 * tissue["heart"]
    scene.paint_ellipsoid(centre, body.size(0.46, 0.5, 54) * wide, turns, wall, -below - 1)
    scene.paint_ellipsoid(centre, body.size(0.32, 0.34, 38) * wide, turns, tissue["heart"], -below - 9)
    scene.paint_tubes(body.cava(), 12, tissue["veins"])
    aorta = (-14, body.spine + 28, -420), (-14, body.spine + 28, -300), (-17, body.spine + 24, 200)
    scene.paint_tubes(np.array(aorta), 11, tissue["aorta"])
