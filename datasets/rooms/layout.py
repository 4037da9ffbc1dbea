"""Rooms: the shell with its openings, and the rules by which furniture is placed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import decor
import materials
import numpy as np
from item import Item, Top
from mesh import Mesh, box, rotation, sheet

Maker = Callable[[np.random.Generator], Item]


class Box(NamedTuple):
    """Upright box of occupied space: centre, yaw, half width, half depth, height interval."""

    x: float
    y: float
    yaw: float
    half_width: float
    half_depth: float
    low: float
    high: float


class Wall(NamedTuple):
    """Wall seen from inside: x runs to the right, y out of the room."""

    start: np.ndarray  # (2,) where x = 0
    yaw: float
    length: float

    def point(self, x: float, y: float = 0.0, z: float = 0.0) -> np.ndarray:
        """Room coordinates of a point in the wall's frame."""
        return rotation(self.yaw) @ [x, y, z] + [*self.start, 0]


class Placed(NamedTuple):
    """An item in the room, and where its own frame and its box lie."""

    item: Item
    at: np.ndarray
    yaw: float
    box: Box


class Opening(NamedTuple):
    """Door or window: centre along the wall, width, lower and upper edge."""

    x: float
    width: float
    low: float
    high: float

    def overlaps(self, other: Opening, gap: float = 0.3) -> bool:
        """Whether two openings in one wall come closer than ``gap``."""
        return abs(self.x - other.x) < (self.width + other.width) / 2 + gap


def _corners(boxes: np.ndarray) -> np.ndarray:
    """Ground corners (N, 4, 2) of boxes (N, 7)."""
    x, y, yaw, half_width, half_depth = boxes[:, :5].T
    u = np.stack([np.cos(yaw), np.sin(yaw)], 1) * half_width[:, None]
    v = np.stack([-np.sin(yaw), np.cos(yaw)], 1) * half_depth[:, None]
    return np.stack([x, y], 1)[:, None] + np.stack([-u - v, u - v, u + v, v - u], 1)


def overlaps(one: Box, boxes: Sequence[Box]) -> np.ndarray:
    """Which of ``boxes`` intersect ``one``; separating axes in the plane, intervals in z."""
    if not boxes:
        return np.zeros(0, bool)
    mine, others = np.array([one]), np.array(boxes)
    a, b = _corners(mine), _corners(others)
    meet = (others[:, 5] < one.high) & (others[:, 6] > one.low)
    for yaw in (np.full(len(others), one.yaw), others[:, 2]):
        axes = np.stack(
            [np.stack([np.cos(yaw), np.sin(yaw)], 1), np.stack([-np.sin(yaw), np.cos(yaw)], 1)], 1
        )
        pa, pb = (np.einsum("nkd,nad->nka", np.broadcast_to(c, b.shape), axes) for c in (a, b))
        meet &= ((pa.min(1) < pb.max(1)) & (pb.min(1) < pa.max(1))).all(1)
    return meet


class Room:
    """A room being furnished. The floor is z = 0; the bounding rectangle starts at (0, 0)."""

    def __init__(self, rng: np.random.Generator, width: float, depth: float, height: float):
        self.rng = rng
        self.size = np.array([width, depth, height])
        self.items: list[Item] = []
        self.boxes: list[Box] = []
        self.lights: list[np.ndarray] = []
        self.finish = materials.wall_finish(rng)
        self.walls = self._outline()
        self.openings: list[list[Opening]] = [[] for _ in self.walls]

    # ------------------------------------------------------------ shell

    def _outline(self) -> list[Wall]:
        """Walls, clockwise from above; about a third of the larger rooms are L-shaped."""
        width, depth, height = self.size
        corners = np.array([[0, 0], [0, depth], [width, depth], [width, 0]])
        self.floor_area = width * depth
        if width * depth > 16 and self.rng.random() < 0.4:
            w, d = self.size[:2] * self.rng.uniform(0.28, 0.45, 2)
            notch = [[width - w, depth], [width - w, depth - d], [width, depth - d]]
            corners = np.array([[0, 0], [0, depth], *notch, [width, 0]])
            center = np.array([width - w / 2, depth - d / 2])
            for axis in range(2):
                if self.rng.random() < 0.5:
                    corners[:, axis] = self.size[axis] - corners[:, axis]
                    center[axis] = self.size[axis] - center[axis]
                    corners = corners[::-1]
            self.boxes.append(Box(*center, 0.0, w / 2, d / 2, 0.0, height))
            self.floor_area -= w * d
        ends = np.roll(corners, -1, axis=0)
        run = ends - corners
        return [
            Wall(start, np.arctan2(dy, dx), np.hypot(dx, dy))
            for start, (dx, dy) in zip(corners, run, strict=True)
        ]

    def open_wall(self, width: float, low: float, high: float) -> tuple[Wall, Opening] | None:
        """Makes an opening at a random free place of a random outer wall."""
        for _ in range(40):
            index = int(self.rng.integers(len(self.walls)))
            wall = self.walls[index]
            # The two walls at the notch of an L-shaped room get no openings, because other parts
            # of the room are behind them.
            inner = len(self.walls) == 6 and self._faces_notch(wall)
            if inner or wall.length < width + 0.5:
                continue
            opening = Opening(
                self.rng.uniform(width / 2 + 0.2, wall.length - width / 2 - 0.2), width, low, high
            )
            if not any(opening.overlaps(other) for other in self.openings[index]):
                self.openings[index].append(opening)
                return wall, opening
        return None

    def _faces_notch(self, wall: Wall) -> bool:
        behind = wall.point(wall.length / 2, 0.05)
        return bool(np.all((behind[:2] > 0) & (behind[:2] < self.size[:2])))

    def add_door(self) -> None:
        """A door with its swing kept free, and a stub of corridor behind it."""
        width, height, depth = (
            self.rng.uniform(0.8, 1.05),
            self.rng.uniform(2.0, 2.15),
            self.rng.uniform(0.1, 0.2),
        )
        place = self.open_wall(width + 0.14, 0.0, height + 0.07)
        if place is None:
            return
        wall, opening = place
        at = wall.point(opening.x)
        self.items.append(decor.door(self.rng, width, height, depth).moved(at, wall.yaw))
        self.reserve(wall, opening.x, width / 2, 0.95, 0.0, height)
        stub = Item("wall")
        y0, y1, half = 0.14, 1.1, width / 2 + 0.35
        stub.add(
            _quad([-half, 0, 0], [2 * half, 0, 0], [0, y1, 0]),
            materials.floor_finish(self.rng),
            label="floor",
        )
        for x in (-half, half):
            stub.add(_quad([x, y0, 0], [0, y1 - y0, 0], [0, 0, 2.5]), self.finish)
        stub.add(_quad([-half, y1, 0], [2 * half, 0, 0], [0, 0, 2.5]), self.finish)
        stub.add(
            _quad([-half, y0, 2.5], [2 * half, 0, 0], [0, y1 - y0, 0]), self.finish, label="ceiling"
        )
        self.items.append(stub.moved(at, wall.yaw))

    def add_window(self) -> None:
        """A window with, on some, curtains and a radiator below."""
        rng = self.rng
        width, high = rng.uniform(0.8, 1.9), min(rng.uniform(2.05, 2.35), self.size[2] - 0.2)
        low = rng.uniform(0.75, 1.0) if rng.random() < 0.85 else 0.08
        place = self.open_wall(width, low, high)
        if place is None:
            return
        wall, opening = place
        depth = rng.uniform(0.12, 0.28)
        pane = decor.window(rng, width, high - low, depth).moved(
            wall.point(opening.x, z=low), wall.yaw
        )
        self.items.append(pane)
        self.decorate(
            pane.tops, [decor.small_plant, decor.small_plant, decor.vase, decor.bottle], 1.5
        )
        # Low furniture may stand in front of a window, high furniture may not.
        self.reserve(wall, opening.x, width / 2 + 0.1, 0.25, low + 0.3, high)
        self.lights.append(wall.point(opening.x, -0.1, (low + high) / 2))
        if rng.random() < 0.55:
            top = min(high + 0.15, self.size[2] - 0.03)
            base = 0.03 if rng.random() < 0.75 else low - 0.1
            cloth = decor.curtains(rng, width, top - base)
            self.items.append(cloth.moved(wall.point(opening.x, z=base), wall.yaw))
        if low > 0.7 and rng.random() < 0.5:
            heater = decor.radiator(rng, width * rng.uniform(0.6, 0.95))
            self.items.append(heater.moved(wall.point(opening.x), wall.yaw))
            self.reserve(wall, opening.x, width / 2, 0.15, 0.0, 0.75)

    def reserve(
        self, wall: Wall, x: float, half_width: float, depth: float, low: float, high: float
    ) -> None:
        """Keeps the space before a stretch of wall free."""
        center = wall.point(x, -depth / 2)
        self.boxes.append(Box(center[0], center[1], wall.yaw, half_width, depth / 2, low, high))

    def build_shell(self) -> None:
        """Floor, ceiling, walls with openings and skirting; beams and a column on some."""
        rng, (width, depth, height) = self.rng, self.size
        shell = Item("wall")
        rectangles = [((0.0, 0.0), (width, depth))]
        if len(self.walls) == 6:  # the notch is the first box
            notch = self.boxes[0]
            rectangles = _without(width, depth, notch)
        floor, ceiling = materials.floor_finish(rng), materials.ceiling_finish(rng)
        for (x0, y0), (x1, y1) in rectangles:
            for z, finish, label in ((0.0, floor, "floor"), (height, ceiling, "ceiling")):
                shell.add(_quad([x0, y0, z], [x1 - x0, 0, 0], [0, y1 - y0, 0]), finish, label=label)
        accent = materials.wall_finish(rng)
        accented = rng.integers(len(self.walls)) if rng.random() < 0.4 else -1
        skirting = materials.board(rng) if rng.random() < 0.7 else None
        for index, (wall, openings) in enumerate(zip(self.walls, self.openings, strict=True)):
            face = _wall_face(
                wall.length,
                height,
                openings,
                accent if index == accented else self.finish,
                skirting,
            )
            shell.parts += face.moved(wall.point(0), wall.yaw).parts
        if rng.random() < 0.2:
            beam = materials.board(rng)
            for x in np.arange(rng.uniform(0.5, 1.0), width - 0.2, rng.uniform(0.7, 1.2)):
                shell.add(
                    box(0.12, depth, 0.14), beam, (x, depth / 2, height - 0.14), label="ceiling"
                )
        if rng.random() < 0.2:
            side = rng.uniform(0.25, 0.45)
            for _ in range(10):
                x, y = rng.uniform(side, self.size[:2] - side)
                post = Box(x, y, 0.0, side / 2, side / 2, 0.0, height)
                if self.is_free(post):
                    shell.add(box(side, side, height), self.finish, (x, y, 0))
                    self.boxes.append(post)
                    break
        self.items.append(shell)

    # ------------------------------------------------------------ placing

    def is_free(self, place: Box) -> bool:
        """Whether a box lies inside the room and meets nothing."""
        corners = _corners(np.array([place]))[0]
        inside = (
            (corners > -1e-6).all()
            and (corners < self.size[:2] + 1e-6).all()
            and place.high < self.size[2]
        )
        return bool(inside) and not overlaps(place, self.boxes).any()

    def put(self, item: Item, at, yaw: float, clear: float = 0.0) -> Placed | None:
        """Places ``item`` if there is room for it and ``clear`` metres before it."""
        place = footprint(item, at, yaw)
        front = rotation(yaw) @ [0, -clear / 2, 0]
        zone = place._replace(
            x=place.x + front[0], y=place.y + front[1], half_depth=place.half_depth + clear / 2
        )
        if not self.is_free(zone):
            return None
        placed = Placed(item.moved(at, yaw), np.asarray(at), yaw, place)
        self.items.append(placed.item)
        self.boxes.append(place)
        return placed

    def against_wall(
        self, item: Item, clear: float = 0.4, corner: bool = False, tries: int = 80
    ) -> Placed | None:
        """Places ``item`` with its back to a wall, in a corner if asked."""
        low, high = item.bounds()
        for attempt in range(tries):
            wall = self.walls[self.rng.integers(len(self.walls))]
            slack = wall.length - (high[0] - low[0])
            if slack < 0.02:
                continue
            x = (
                self.rng.choice([0.01, slack - 0.01])
                if corner
                else self.rng.uniform(0.01, slack - 0.01)
            )
            # An item that does not fit close to the wall may still fit in front of a radiator.
            gap = self.rng.uniform(0.012, 0.05) + (0.16 if attempt > tries // 2 else 0.0)
            at = wall.point(x - low[0], -high[1] - gap)
            if placed := self.put(item, at, wall.yaw + self.rng.normal(0, 0.004), clear):
                return placed
        return None

    def in_middle(self, item: Item, margin: float = 0.5, tries: int = 200) -> Placed | None:
        """Places ``item`` away from walls and furniture by ``margin``."""
        for _ in range(tries):
            yaw = np.pi / 2 * self.rng.integers(4) + self.rng.normal(0, 0.05)
            at = np.array([*self.rng.uniform([0, 0], self.size[:2]), 0])
            place = footprint(item, at, yaw)
            wide = place._replace(
                half_width=place.half_width + margin, half_depth=place.half_depth + margin
            )
            if self.is_free(wide):
                return self.put(item, at, yaw)
        return None

    def anywhere(self, item: Item, tries: int = 30) -> Placed | None:
        """Places ``item`` on any free stretch of floor, turned at random."""
        for _ in range(tries):
            at = np.array([*self.rng.uniform([0, 0], self.size[:2]), 0])
            if placed := self.put(item, at, self.rng.uniform(0, 2 * np.pi)):
                return placed
        return None

    def on_wall(self, item: Item, z: tuple[float, float], tries: int = 20) -> Placed | None:
        """Hangs ``item`` on a wall at a height between the two of ``z``."""
        low, high = item.bounds()
        for _ in range(tries):
            wall = self.walls[self.rng.integers(len(self.walls))]
            if wall.length < high[0] - low[0] + 0.1:
                continue
            x = self.rng.uniform(0.05 - low[0], wall.length - 0.05 - high[0])
            if placed := self.put(item, wall.point(x, -0.003, self.rng.uniform(*z)), wall.yaw):
                return placed
        return None

    def beside(
        self, placed: Placed, item: Item, offset: tuple[float, float], yaw: float = 0.0
    ) -> Placed | None:
        """Places ``item`` at ``offset`` in the frame of a placed one, turned by ``yaw``."""
        return self.put(item, placed.at + rotation(placed.yaw) @ [*offset, 0], placed.yaw + yaw)

    def seat(self, table: Placed, maker: Maker, count: int) -> None:
        """Puts chairs around a table, pulled out at random; some seats stay empty."""
        half_width, half_depth = table.box.half_width, table.box.half_depth
        model = self.rng.integers(2**32)  # all chairs of one table are alike
        row = {1: 1, 2: 1, 4: 2, 6: 2, 8: 3}[count]
        along = (np.arange(row) - (row - 1) / 2) * 1.84 * half_width / row
        offsets = [(x, side * half_depth) for x in along for side in (-1, 1)][:count]
        if count > 4:
            offsets += [(side * half_width, 0.0) for side in (-1, 1)]
        for x, y in offsets:
            if count > 1 and self.rng.random() < 0.1:
                continue
            end = abs(x) == half_width
            way = np.array([np.sign(x), 0.0]) if end else np.array([0.0, np.sign(y)])
            offset = [x, y] + way * self.rng.uniform(-0.02, 0.3)
            # a chair's front looks along its -y: turn that towards the table
            turn = np.arctan2(way[1], way[0]) - np.pi / 2 + self.rng.normal(0, 0.12)
            self.tuck(maker(np.random.default_rng(model)), table, offset, turn)

    def tuck(self, item: Item, table: Placed, offset, turn: float) -> None:
        """Places an item that may reach under ``table``."""
        at, yaw = table.at + rotation(table.yaw) @ [*offset, 0], table.yaw + turn
        place = footprint(item, at, yaw)
        others = [other for other in self.boxes if other is not table.box]
        if self.is_inside(place) and not overlaps(place, others).any():
            self.items.append(item.moved(at, yaw))
            self.boxes.append(place)

    def is_inside(self, place: Box) -> bool:
        """Whether a box lies in the room's bounding rectangle."""
        corners = _corners(np.array([place]))[0]
        return bool((corners > 0).all() and (corners < self.size[:2]).all())

    def decorate(self, tops: Sequence[Top], makers: Sequence[Maker], density: float) -> None:
        """Puts small things on ``tops``: about ``density * (0.3 + 2 * area in m²)`` on each."""
        for top in tops:
            expected = density * (0.3 + 2 * top.width * top.depth)
            taken: list[np.ndarray] = []
            for _ in range(self.rng.poisson(expected)):
                item = makers[self.rng.integers(len(makers))](self.rng)
                low, high = item.bounds()
                room = np.array([top.width, top.depth]) - (high - low)[:2]
                if high[2] > top.clearance or (room < 0).any():
                    continue
                corner = self.rng.uniform(-0.5, 0.5, 2) * room
                spot = np.array(
                    [*(corner - (high - low)[:2] / 2), *(corner + (high - low)[:2] / 2)]
                )
                if any((spot[:2] < t[2:]).all() and (t[:2] < spot[2:]).all() for t in taken):
                    continue
                taken.append(spot)
                shift = corner - (high + low)[:2] / 2
                at = top.center + rotation(top.yaw) @ [*shift, 0.001]
                self.items.append(item.moved(at, top.yaw))

    # ------------------------------------------------------------ light and scanner

    def light_ceiling(self, over: Placed | None = None) -> None:
        """Hangs a lamp over ``over`` and spreads fittings over the ceiling."""
        rng, height = self.rng, self.size[2]
        if over is not None and rng.random() < 0.7:
            x, y = over.at[:2]
            drop = max(0.3, height - rng.uniform(2.0, 2.2))
            self.items.append(decor.pendant(rng, drop).moved([x, y, height], rng.uniform(0, 6)))
            self.lights.append(np.array([x, y, height - drop - 0.3]))
        maker_seed = rng.integers(2**32)
        spots = np.stack(
            np.meshgrid(*(np.arange(0.5, n) / n for n in self._fittings())), -1
        ).reshape(-1, 2)
        for spot in spots * self.size[:2]:
            place = Box(*spot, 0.0, 0.6, 0.6, height - 0.2, height - 0.1)
            if overlaps(place, self.boxes).any():
                continue
            fitting = np.random.default_rng(maker_seed)
            lamp = (
                decor.ceiling_lamp(fitting)
                if fitting.random() < 0.65
                else decor.pendant(fitting, fitting.uniform(0.3, 0.6))
            )
            self.items.append(lamp.moved([*spot, height], 0.0))
            self.lights.append(np.array([*spot, height - 0.3]))

    def _fittings(self) -> np.ndarray:
        return np.maximum(1, np.round(self.size[:2] / self.rng.uniform(2.2, 4.0))).astype(int)

    def stations(self, count: int) -> np.ndarray:
        """Scanner positions (count, 3): on free floor and far from each other."""
        candidates = []
        for _ in range(400):
            x, y = self.rng.uniform(0.5, self.size[:2] - 0.5)
            if not overlaps(Box(x, y, 0.0, 0.28, 0.28, 0.0, 1.9), self.boxes).any():
                candidates.append((x, y, self.rng.uniform(1.25, 1.75)))
        if not candidates:  # crowded: stand above the furniture
            candidates = [(*self.size[:2] / 2, self.size[2] - 0.4)]
        points = np.array(candidates)
        chosen = [0]
        while len(chosen) < min(count, len(points)):
            gap = np.linalg.norm(points[:, None, :2] - points[chosen][None, :, :2], axis=2).min(1)
            chosen.append(int(gap.argmax()))
        return points[chosen]


def footprint(item: Item, at, yaw: float) -> Box:
    """Box that ``item`` takes up once moved."""
    low, high = item.bounds()
    center = rotation(yaw) @ [*((low + high)[:2] / 2), 0] + at
    half = (high - low)[:2] / 2
    return Box(center[0], center[1], yaw, half[0], half[1], at[2] + low[2], at[2] + high[2])


def _quad(corner, u, v) -> Mesh:
    """Parallelogram."""
    corner, u, v = (np.asarray(side, np.float64) for side in (corner, u, v))
    return sheet(np.stack([np.stack([corner, corner + v]), np.stack([corner + u, corner + u + v])]))


def _without(width: float, depth: float, notch: Box) -> list:
    """The two rectangles left of a room whose one corner is cut out by ``notch``."""
    x0, x1 = notch.x - notch.half_width, notch.x + notch.half_width
    y0, y1 = notch.y - notch.half_depth, notch.y + notch.half_depth
    left = x0 < 1e-6
    full = ((x1, 0.0), (width, depth)) if left else ((0.0, 0.0), (x0, depth))
    low, high = (y1, depth) if y0 < 1e-6 else (0.0, y0)
    return [full, ((x0, low), (x1, high))]


def _wall_face(length: float, height: float, openings: list[Opening], finish, skirting) -> Item:
    """Wall in its own frame: what the openings leave of it, their reveals, and a skirting board."""
    face, cursor = Item("wall"), 0.0
    for opening in [*sorted(openings), None]:
        end = length if opening is None else opening.x - opening.width / 2
        face.add(_quad([cursor, 0, 0], [end - cursor, 0, 0], [0, 0, height]), finish)
        if skirting is not None:
            face.add(box(end - cursor, 0.014, 0.07), skirting, ((cursor + end) / 2, -0.007, 0))
        if opening is None:
            break
        cursor, depth = opening.x + opening.width / 2, 0.3
        for low, high in ((0.0, opening.low), (opening.high, height)):
            if high > low:
                face.add(_quad([end, 0, low], [opening.width, 0, 0], [0, 0, high - low]), finish)
        for x in (end, cursor):
            face.add(
                _quad(
                    [x, 0, opening.low],
                    [0, depth if opening.low else 0.14, 0],
                    [0, 0, opening.high - opening.low],
                ),
                finish,
            )
        for z in (opening.low, opening.high):
            if z > 0:
                face.add(
                    _quad(
                        [end, 0, z], [opening.width, 0, 0], [0, depth if opening.low else 0.14, 0]
                    ),
                    finish,
                )
    return face
