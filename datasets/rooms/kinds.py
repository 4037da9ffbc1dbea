"""Kinds of room: which furniture stands in them, and what goes with what."""

import decor
import furniture as f
import numpy as np
from item import Item
from layout import Maker, Placed, Room

ON_TABLE = [
    decor.bowl,
    decor.mug,
    decor.bottle,
    decor.flowers,
    decor.laptop,
    decor.papers,
    decor.vase,
    decor.book_pile,
]
ON_DESK = [
    decor.laptop,
    decor.mug,
    decor.papers,
    decor.book_pile,
    decor.desk_lamp,
    decor.small_plant,
    decor.bottle,
]
ON_SHELF = [
    decor.vase,
    decor.small_box,
    decor.photo_frame,
    decor.bottle,
    decor.book_pile,
    decor.small_plant,
    decor.bowl,
]
ON_CABINET = [*ON_SHELF, decor.carton, decor.table_lamp, decor.flowers, decor.carton]
IN_KITCHEN = [
    decor.bottle,
    decor.bottle,
    decor.mug,
    decor.bowl,
    decor.small_box,
    decor.carton,
    decor.small_plant,
]
ON_FLOOR = [
    decor.bin_,
    decor.bag,
    decor.carton,
    decor.carton,
    decor.suitcase,
    decor.shoes,
    decor.ball,
    decor.book_pile,
    decor.fan,
]


def _cabinet(room: Room, item: Item, clear: float = 0.45) -> Placed | None:
    """A cabinet against a wall, with things in and on it."""
    placed = room.against_wall(item, clear)
    if placed:
        room.decorate(placed.item.tops, ON_CABINET if len(placed.item.tops) == 1 else ON_SHELF, 1.6)
    return placed


def _dining(room: Room) -> Placed | None:
    """The largest table that fits, in the middle or against a wall, with chairs around it."""
    rng = room.rng
    for seats in (8, 6, 4, 2):
        if seats * 2.6 > room.floor_area or (seats == 8 and rng.random() < 0.4):
            continue
        round_ = seats <= 4 and rng.random() < 0.35
        table = f.round_table(rng) if round_ else f.dining_table(rng, seats)
        placed = room.in_middle(table, margin=0.36)
        if placed is None and seats <= 4:
            placed = room.against_wall(table, clear=0.55)
        if placed:
            room.seat(placed, f.chair if rng.random() < 0.85 else f.stool, seats)
            room.decorate(placed.item.tops, ON_TABLE, 1.5)
            return placed
    return None


def _sofa_corner(room: Room) -> None:
    """Sofa with a low table before it, armchairs, a lamp beside it, and a screen somewhere."""
    rng = room.rng
    sofa = room.against_wall(f.sofa(rng), clear=0.8)
    sofa = sofa or room.in_middle(f.sofa(rng, 3), margin=0.4)
    sofa = sofa or room.against_wall(f.sofa(rng, 2), clear=0.3)
    if sofa is None:
        return
    if table := room.beside(
        sofa,
        f.coffee_table(rng),
        (rng.normal(0, 0.1), -sofa.box.half_depth - rng.uniform(0.6, 0.8)),
    ):
        room.decorate(table.item.tops, ON_TABLE, 2.0)
    if rng.random() < 0.8:
        side = rng.choice([-1, 1])
        room.beside(sofa, f.armchair(rng), (side * (sofa.box.half_width + 0.45), -1.3), side * -1.2)
    side = rng.choice([-1, 1])
    if rng.random() < 0.7:
        room.beside(sofa, decor.floor_lamp(rng), (side * (sofa.box.half_width + 0.3), 0.1))
    elif small := room.beside(
        sofa, f.round_table(rng, 0.24, 0.5), (side * (sofa.box.half_width + 0.28), 0)
    ):
        room.decorate(small.item.tops, [decor.table_lamp, decor.mug, decor.book_pile], 3.0)
    bench = _cabinet(room, f.tv_bench(rng), 0.8)
    if bench:
        room.beside(
            bench,
            decor.television(rng).moved([0, 0, rng.uniform(0.75, 1.0)]),
            (0, bench.box.half_depth),
        )


def _sleeping(room: Room) -> None:
    """Bed with its head to a wall, nightstands with lamps, a wardrobe, a chest of drawers."""
    rng = room.rng
    bed = room.against_wall(f.bed(rng), clear=0.5)
    if bed:
        for side in (-1, 1):
            stand = f.nightstand(rng)
            low, high = stand.bounds()
            offset = (
                side * (bed.box.half_width + (high - low)[0] / 2 + 0.04),
                bed.box.half_depth - (high - low)[1] / 2 - 0.03,
            )
            if placed := room.beside(bed, stand, offset):
                room.decorate(
                    placed.item.tops,
                    [decor.table_lamp, decor.table_lamp, decor.mug, decor.book_pile],
                    3.0,
                )
    _cabinet(room, f.wardrobe(rng), 0.6)
    if rng.random() < 0.7:
        _cabinet(room, f.chest(rng))


def _workplace(room: Room, chair: Maker = f.office_chair) -> None:
    """Desk against a wall or free, a chair at it, a screen on most."""
    rng = room.rng
    table = f.desk(rng)
    placed = room.against_wall(table, 0.7) if rng.random() < 0.75 else room.in_middle(table, 0.5)
    if placed is None:
        return
    room.seat(placed, chair, 1)
    top = placed.item.tops[0]
    if rng.random() < 0.7:
        at = placed.at + np.array([0, 0, top.center[2]])
        room.items.append(decor.monitor(rng).moved(at, placed.yaw + rng.normal(0, 0.08)))
        sides = [
            top._replace(
                center=at + _turned(placed.yaw, side * top.width / 3), width=top.width / 3 - 0.1
            )
            for side in (-1, 1)
        ]
        room.decorate(sides, ON_DESK, 2.5)
    else:
        room.decorate([top], ON_DESK, 3.0)


def _turned(yaw: float, x: float) -> np.ndarray:
    return np.array([np.cos(yaw) * x, np.sin(yaw) * x, 0.0])


def _kitchen(room: Room) -> None:
    """A run of units along a wall, a refrigerator."""
    run = None
    for width in (room.rng.uniform(2.2, 3.2), 1.8, 1.3):
        if run := run or room.against_wall(f.kitchen_run(room.rng, width), 0.8):
            break
    if run:
        room.decorate(run.item.tops, IN_KITCHEN, 4.0)
    room.against_wall(f.appliance(room.rng), 0.5)


def _finish(room: Room, over: Placed | None, shelves: int, floor_things: int) -> None:
    """Everything that any room may hold."""
    rng = room.rng
    for _ in range(shelves):
        maker = (f.bookcase, f.bookcase, f.sideboard, f.chest)[rng.integers(4)]
        _cabinet(room, maker(rng))
    for _ in range(rng.integers(2, 5)):
        room.against_wall(decor.plant(rng), 0.0, corner=rng.random() < 0.6)
    if rng.random() < 0.6:
        room.against_wall(decor.floor_lamp(rng), 0.0, corner=True)
    if rng.random() < 0.3:
        room.against_wall(decor.coat_stand(rng), 0.0, corner=True)
    if rng.random() < 0.4:
        room.against_wall(f.chair(rng), 0.2)
    for _ in range(floor_things):
        item = ON_FLOOR[rng.integers(len(ON_FLOOR))](rng)
        room.against_wall(item, 0.0) if rng.random() < 0.7 else room.anywhere(item)
    for _ in range(rng.integers(2, 7)):
        room.on_wall(decor.painting(rng), (1.15, 1.5))
    if rng.random() < 0.5 and (shelf := room.on_wall(decor.wall_shelf(rng), (1.2, 1.6))):
        room.decorate(shelf.item.tops, ON_SHELF, 5.0)
    if rng.random() < 0.3:
        room.on_wall(decor.sconce(rng), (1.5, 1.8))
    if rng.random() < 0.25:
        room.on_wall(decor.air_conditioner(rng), (room.size[2] - 0.5, room.size[2] - 0.35))
    for z in (0.28, 0.28, 0.28, 1.05):
        room.on_wall(decor.outlet(rng), (z, z + 0.02))
    room.light_ceiling(over)
    at = [*rng.uniform(0.3, 0.7, 2) * room.size[:2], room.size[2]]
    room.items.append(decor.smoke_detector(rng).moved(at))


def studio(room: Room) -> None:
    """Everything in one room."""
    _sleeping(room)
    _sofa_corner(room)
    table = _dining(room)
    _kitchen(room)
    _workplace(room, f.chair)
    _finish(room, table, shelves=1, floor_things=5)


def living(room: Room) -> None:
    """Sofa, screen, shelves, often a dining table."""
    _sofa_corner(room)
    table = _dining(room) if room.rng.random() < 0.7 else None
    _finish(room, table, shelves=3, floor_things=4)


def office(room: Room) -> None:
    """Desks with swivel chairs, files, a board."""
    for _ in range(max(1, round(room.floor_area / 7))):
        _workplace(room)
    for _ in range(room.rng.integers(1, 3)):
        _cabinet(room, f.filing_cabinet(room.rng))
    room.on_wall(decor.whiteboard(room.rng), (0.85, 1.0))
    table = _dining(room) if room.rng.random() < 0.3 else None
    _finish(room, table, shelves=2, floor_things=5)


def bedroom(room: Room) -> None:
    """Bed, wardrobe, perhaps a desk or an armchair."""
    _sleeping(room)
    if room.rng.random() < 0.6:
        _workplace(room, f.chair)
    if room.rng.random() < 0.5:
        room.against_wall(f.armchair(room.rng), 0.4, corner=True)
    _finish(room, None, shelves=1, floor_things=5)


def dining(room: Room) -> None:
    """Kitchen with a table."""
    _kitchen(room)
    table = _dining(room)
    _finish(room, table, shelves=2, floor_things=3)


def meeting(room: Room) -> None:
    """Long table, board, projector, a sofa at the side."""
    table = _dining(room)
    room.on_wall(decor.whiteboard(room.rng), (0.85, 1.0))
    if room.rng.random() < 0.6:
        room.against_wall(f.sofa(room.rng, 2), 0.4)
    if table:
        at = [*(table.at[:2] + room.rng.normal(0, 0.4, 2)), room.size[2]]
        room.items.append(decor.projector(room.rng).moved(at, table.yaw))
    _finish(room, None, shelves=2, floor_things=3)


# kind: recipe, smallest and largest (width, depth); the first two together hold every class
KINDS = {
    "studio": (studio, (5.2, 4.6), (7.0, 5.8)),
    "office": (office, (4.0, 3.4), (6.4, 5.2)),
    "living": (living, (4.2, 3.6), (6.2, 5.0)),
    "bedroom": (bedroom, (3.4, 3.1), (4.8, 4.4)),
    "dining": (dining, (3.4, 3.1), (5.4, 4.6)),
    "meeting": (meeting, (4.4, 3.6), (6.4, 4.8)),
}


def furnish(kind: str, rng: np.random.Generator) -> Room:
    """A furnished room of one of ``KINDS``."""
    recipe, smallest, largest = KINDS[kind]
    room = Room(rng, *rng.uniform(smallest, largest), rng.uniform(2.4, 3.1))
    for _ in range(rng.integers(1, 3)):
        room.add_door()
    for _ in range(rng.integers(1, 4)):
        room.add_window()
    room.build_shell()
    recipe(room)
    return room
