"""A simulated terrestrial laser scanner with a camera."""

from typing import NamedTuple

import numpy as np
from item import Item
from materials import Material, albedo

from kpdeform._optional import require


class World(NamedTuple):
    """All triangles of a room in Open3D's ray casting scene, with what they are made of."""

    scene: object
    materials: list[Material]
    material: np.ndarray  # (T,) row of `materials` per triangle
    label: np.ndarray  # (T,) class per triangle


class Cloud(NamedTuple):
    """A scan: positions (N, 3) float64, classes (N,) uint8, r g b and intensity (N, 4) uint8."""

    points: np.ndarray
    labels: np.ndarray
    features: np.ndarray


class Hits(NamedTuple):
    """Returns of scans: measured position, triangle, unit normal, number of the station, signal."""

    points: np.ndarray
    triangles: np.ndarray
    normals: np.ndarray
    station: np.ndarray
    signal: np.ndarray


def build_world(items: list[Item], classes: list[str]) -> World:
    """Joins the meshes of ``items`` into one ray casting scene."""
    open3d = require("open3d", "viz")
    parts = [part for item in items for part in item.parts]
    sizes = [len(part.mesh.triangles) for part in parts]
    first = np.cumsum([0] + [len(part.mesh.vertices) for part in parts[:-1]])
    vertices = np.concatenate([part.mesh.vertices for part in parts])
    triangles = np.concatenate(
        [part.mesh.triangles + n for part, n in zip(parts, first, strict=True)]
    )
    rows = {id(part.material): part.material for part in parts}
    number = {key: row for row, key in enumerate(rows)}
    scene = open3d.t.geometry.RaycastingScene()
    scene.add_triangles(
        open3d.core.Tensor(vertices.astype(np.float32)),
        open3d.core.Tensor(triangles.astype(np.uint32)),
    )
    return World(
        scene,
        list(rows.values()),
        np.repeat([number[id(part.material)] for part in parts], sizes),
        np.repeat(np.array([classes.index(part.label) for part in parts], np.uint8), sizes),
    )


def _cast(world: World, origins: np.ndarray, directions: np.ndarray) -> dict:
    open3d = require("open3d", "viz")
    rays = np.concatenate([np.broadcast_to(origins, directions.shape), directions], -1).astype(
        np.float32
    )
    hits = world.scene.cast_rays(open3d.core.Tensor(rays))
    return {key: hits[key].numpy() for key in ("t_hit", "primitive_ids", "primitive_normals")}


def scan(
    world: World, station: np.ndarray, number: int, step: float, rng: np.random.Generator
) -> Hits:
    """Scans all directions from ``station`` (3,), with an angular ``step`` in degrees.

    The strength of a return is the reflectance times the cosine of the angle of incidence, divided
    by the squared range. Weak returns are lost, and so are most returns from glass and mirrors. The
    range error grows with the range and the angle of incidence. Where neighbouring pulses hit
    surfaces at different depths, a few returns are a mixture of both (mixed pixels).
    """
    azimuth = np.radians(np.arange(0, 360, step) + rng.uniform(0, step))
    elevation = np.radians(np.arange(-62, 90, step) + rng.uniform(0, step))
    phi, theta = np.meshgrid(azimuth, elevation, indexing="ij")
    beams = np.stack([np.cos(theta) * np.cos(phi), np.cos(theta) * np.sin(phi), np.sin(theta)], -1)
    hit = _cast(world, station, beams)
    distance, triangle, normal = hit["t_hit"], hit["primitive_ids"], hit["primitive_normals"]
    seen = np.isfinite(distance)
    triangle = np.where(seen, triangle, 0)

    material = world.material[triangle]
    normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-12)
    cosine = -(normal * beams).sum(-1)
    normal *= np.where(cosine < 0, -1.0, 1.0)[..., None]
    reflectance = np.array([m.reflectance for m in world.materials])[material]
    signal = reflectance * np.abs(cosine) / np.maximum(distance, 0.5) ** 2
    loss = np.array([m.loss for m in world.materials])[material]
    chance = (1 - loss) * (1 - np.exp(-signal / 0.0015))
    seen &= (distance > 0.4) & (rng.random(distance.shape) < chance)

    error = (0.001 + 0.0006 * distance) / np.sqrt(np.clip(np.abs(cosine), 0.1, 1))
    measured = distance + rng.normal(size=distance.shape) * np.where(seen, error, 0)
    beside = np.where(np.isfinite(distance), distance, 0.0)
    beside = np.roll(beside, 1, 0)
    jump = np.abs(distance - beside)
    mixed = seen & (jump > 0.03) & (jump < 0.6) & (rng.random(distance.shape) < 0.12)
    share = rng.beta(0.6, 2.0, distance.shape)
    measured = np.where(mixed, (1 - share) * measured + share * beside, measured)

    # Each station has a registration error of a few millimetres.
    shift = rng.normal(0, 0.0012, 3)
    points = station + shift + beams[seen] * measured[seen, None]
    return Hits(points, triangle[seen], normal[seen], np.full(len(points), number), signal[seen])


def thin(hits: Hits, spacing: float, rng: np.random.Generator) -> Hits:
    """Keeps one random return per cube of side ``spacing``."""
    order = rng.permutation(len(hits.points))
    cell = np.floor(hits.points[order] / spacing).astype(np.int64)
    cell -= cell.min(0)
    size = cell.max(0) + 1
    _, first = np.unique(
        (cell[:, 0] * size[1] + cell[:, 1]) * size[2] + cell[:, 2], return_index=True
    )
    keep = order[np.sort(first)]
    return Hits(*(column[keep] for column in hits))


def _lighting(
    world: World, hits: Hits, lights: list[np.ndarray], rng: np.random.Generator
) -> np.ndarray:
    """Brightness (N,): ambient light plus lamps and windows with soft shadows."""
    open3d = require("open3d", "viz")
    bright = 0.5 + 0.08 * hits.normals[:, 2]
    for light in lights:
        strength = rng.uniform(0.6, 1.6) / len(lights) ** 0.5
        towards = light + rng.normal(0, 0.05, hits.points.shape) - hits.points
        far = np.linalg.norm(towards, axis=1, keepdims=True)
        rays = np.concatenate([hits.points + 0.02 * hits.normals, towards], 1).astype(np.float32)
        # The ray stops short of the light, which is inside the mesh of its lamp or window.
        blocked = world.scene.test_occlusions(open3d.core.Tensor(rays), tfar=0.85).numpy()
        facing = np.clip((towards / far * hits.normals).sum(1), 0, 1)
        bright += strength * np.where(blocked, 0.15, 1.0) * facing / (0.6 + 0.4 * far[:, 0] ** 2)
    return bright


def photograph(
    world: World, hits: Hits, lights: list[np.ndarray], rng: np.random.Generator
) -> np.ndarray:
    """Features (N, 4) uint8: the camera's r, g, b and the scanner's intensity."""
    color = albedo(world.materials, world.material[hits.triangles], hits.points)
    color = color * _lighting(world, hits, lights, rng)[:, None]
    stations = int(hits.station.max()) + 1
    warmth = rng.normal(0, 0.05) * np.array([1, 0, -1])  # of the lamps, for the whole room
    exposure = rng.normal(1.0, 0.06, (stations, 1)) * (
        1 + warmth + rng.normal(0, 0.015, (stations, 3))
    )
    color = color * exposure[hits.station] + rng.normal(0, 0.025, color.shape)
    # Intensity is compressed nonlinearly, as in real instruments.
    intensity = 0.85 * hits.signal**0.3 + rng.normal(0, 0.02, len(hits.signal))
    return np.round(255 * np.clip(np.column_stack([color, intensity]), 0, 1)).astype(np.uint8)


def survey(
    world: World,
    stations: np.ndarray,
    lights: list[np.ndarray],
    step: float,
    spacing: float,
    rng: np.random.Generator,
) -> Cloud:
    """Scans from all stations, merges and thins the returns and colours what is left."""
    scans = [scan(world, station, number, step, rng) for number, station in enumerate(stations)]
    hits = thin(
        Hits(*(np.concatenate(column) for column in zip(*scans, strict=True))), spacing, rng
    )
    return Cloud(hits.points, world.label[hits.triangles], photograph(world, hits, lights, rng))
