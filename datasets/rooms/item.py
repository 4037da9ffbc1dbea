"""One object of a room: meshes with their materials, a class, and where things can stand on it.

An item lives in its own frame: x to its right, y to its back, z up, standing on z = 0. Its front
looks along -y, so an item with its back to a wall has its y axis along the wall's outward normal.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from materials import Material
from mesh import Mesh, rotation


class Part(NamedTuple):
    """A mesh of one material, and its class when that differs from the item's."""

    mesh: Mesh
    material: Material
    label: str


class Top(NamedTuple):
    """Free horizontal rectangle on which small things can stand."""

    center: np.ndarray  # (3,)
    width: float
    depth: float
    clearance: float  # height that is free above
    yaw: float = 0.0


@dataclass
class Item:
    """An object made of parts."""

    label: str
    parts: list[Part] = field(default_factory=list)
    tops: list[Top] = field(default_factory=list)

    def add(
        self,
        mesh: Mesh,
        material: Material,
        at=(0.0, 0.0, 0.0),
        *,
        yaw=0.0,
        pitch=0.0,
        roll=0.0,
        label=None,
    ) -> Item:
        """Adds ``mesh``, turned and then moved to ``at``."""
        vertices = mesh.vertices
        if yaw or pitch or roll:
            vertices = vertices @ rotation(yaw, pitch, roll).T
        moved = Mesh(vertices + np.asarray(at, np.float64), mesh.triangles)
        self.parts.append(Part(moved, material, label or self.label))
        return self

    def top(self, width: float, depth: float, z: float, *, x=0.0, y=0.0, clearance=1.0) -> Item:
        """Declares a place for small things."""
        self.tops.append(Top(np.array([x, y, z]), width, depth, clearance))
        return self

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest corner, in the item's frame."""
        vertices = np.concatenate([part.mesh.vertices for part in self.parts])
        return vertices.min(0), vertices.max(0)

    def moved(self, at, yaw: float = 0.0) -> Item:
        """Copy of the item in the room's frame."""
        turn, at = rotation(yaw), np.asarray(at, np.float64)
        parts = [
            part._replace(mesh=Mesh(part.mesh.vertices @ turn.T + at, part.mesh.triangles))
            for part in self.parts
        ]
        tops = [top._replace(center=turn @ top.center + at, yaw=top.yaw + yaw) for top in self.tops]
        return replace(self, parts=parts, tops=tops)
