"""Lamps, plants, clutter, and what belongs to walls: doors, windows, radiators, pictures."""

import numpy as np
from item import Item
from materials import (
    board,
    ceramic,
    fabric,
    glass,
    glow,
    leaf,
    leather,
    metal,
    mirror,
    paint,
    paper,
    picture,
    plastic,
    screen,
    soil,
    wood,
)
from mesh import Mesh, box, cushion, cylinder, lathe, rotation, sheet, slab, taper, tube

# ---------------------------------------------------------------- lamps


def _shade(rng, radius: float) -> Mesh:
    """Open cone, drum or dome."""
    height = radius * rng.uniform(0.8, 1.6)
    narrow = radius * rng.uniform(0.45, 1.0)
    if rng.random() < 0.3:
        angle = np.linspace(0.1, np.pi / 2, 7)
        return lathe([(radius * np.cos(a), radius * np.sin(a)) for a in angle], 24, capped=False)
    return lathe(
        [(radius, 0), (0.5 * (radius + narrow), height / 2), (narrow, height)], 24, capped=False
    )


def table_lamp(rng) -> Item:
    """Turned or plain foot under a shade."""
    item, foot = Item("lamp"), ceramic(rng) if rng.random() < 0.5 else metal(rng)
    height, radius = rng.uniform(0.18, 0.32), rng.uniform(0.09, 0.16)
    if rng.random() < 0.5:
        bulge = [
            (0.06, 0),
            (rng.uniform(0.05, 0.09), 0.3),
            (rng.uniform(0.03, 0.08), 0.7),
            (0.015, 1),
        ]
        item.add(lathe([(r, z * height) for r, z in bulge]), foot)
    else:
        item.add(cylinder(0.07, 0.015), foot).add(cylinder(0.01, height), foot)
    return item.add(_shade(rng, radius), glow(rng), (0, 0, height - 0.03))


def floor_lamp(rng) -> Item:
    """Straight stand, tripod or arc."""
    item, stand = Item("lamp"), metal(rng) if rng.random() < 0.7 else wood(rng)
    height, radius = rng.uniform(1.3, 1.75), rng.uniform(0.16, 0.26)
    style = rng.integers(3)
    if style == 0:
        item.add(cylinder(0.14, 0.025, 0.13, 24), stand).add(cylinder(0.013, height), stand)
        return item.add(_shade(rng, radius), glow(rng), (0, 0, height - 0.1))
    if style == 1:
        for angle in 2 * np.pi * np.arange(3) / 3:
            foot = np.array([0.3 * np.cos(angle), 0.3 * np.sin(angle), 0])
            item.add(tube(np.linspace(foot, [0, 0, height - 0.15], 3), 0.014), stand)
        return item.add(_shade(rng, radius), glow(rng), (0, 0, height - 0.2))
    bend = np.linspace(0, 1.9, 12)
    path = np.stack([0.35 * (1 - np.cos(bend)), 0 * bend, height - 0.3 + 0.4 * np.sin(bend)], 1)
    item.add(slab(0.3, 0.3, 0.05, 0.01), stand).add(
        tube(np.vstack([[0, 0, 0], path]), 0.012), stand
    )
    return item.add(_shade(rng, 0.7 * radius), glow(rng), path[-1] - [0, 0, 0.2])


def desk_lamp(rng) -> Item:
    """Jointed arm with a small head."""
    item, body = Item("lamp"), metal(rng)
    elbow, head = np.array([0.0, 0.14, 0.3]), np.array([0.0, -0.1, rng.uniform(0.38, 0.48)])
    item.add(cylinder(0.08, 0.02, 0.075), body)
    item.add(tube(np.linspace([0, 0, 0.01], elbow, 3), 0.009), body)
    item.add(tube(np.linspace(elbow, head, 3), 0.009), body)
    return item.add(
        lathe([(0.07, 0), (0.05, 0.07), (0.02, 0.1)], 18, False),
        body,
        head - [0, 0.03, 0.06],
        pitch=0.3,
    )


def pendant(rng, drop: float) -> Item:
    """Hangs from the ceiling; z = 0 is the ceiling."""
    item, cord = Item("lamp"), plastic(rng)
    item.add(cylinder(0.05, 0.03), cord, (0, 0, -0.03)).add(
        cylinder(0.006, drop, sides=6), cord, (0, 0, -drop)
    )
    style, radius = rng.integers(4), rng.uniform(0.14, 0.28)
    if style == 0:
        return item.add(
            cushion(2 * radius, 2 * radius, 2 * radius, 2), glow(rng), (0, 0, -drop - 2 * radius)
        )
    if style == 1:  # several arms
        for angle in 2 * np.pi * np.arange(arms := rng.integers(3, 7)) / arms:
            tip = np.array([0.32 * np.cos(angle), 0.32 * np.sin(angle), -drop + 0.02])
            item.add(
                tube(np.linspace([0, 0, -drop], tip, 3), 0.009), metal(rng) if angle == 0 else cord
            )
            item.add(_shade(rng, 0.07), glow(rng), tip - [0, 0, 0.05])
        return item
    return item.add(
        _shade(rng, radius), glow(rng) if style == 2 else metal(rng), (0, 0, -drop - radius)
    )


def ceiling_lamp(rng) -> Item:
    """Panel, tube fitting, dome or a row of spots; z = 0 is the ceiling."""
    item, body = Item("lamp"), metal(rng)
    style = rng.integers(4)
    if style == 0:
        item.add(box(0.6, 0.6, 0.035), glow(rng), (0, 0, -0.035))
    elif style == 1:
        item.add(taper((0.1, 1.2), (0.17, 1.22), 0.07), glow(rng), (0, 0, -0.07))
    elif style == 2:
        item.add(lathe([(0.02, -0.11), (0.13, -0.09), (0.2, -0.04), (0.21, 0)], 28), glow(rng))
    else:
        item.add(box(0.05, 1.1, 0.03), body, (0, 0, -0.03))
        for y in (-0.45, -0.15, 0.15, 0.45):
            item.add(
                cylinder(0.035, 0.11, 0.03, 12), body, (0, y, -0.14), pitch=rng.uniform(-0.5, 0.5)
            )
    return item


def sconce(rng) -> Item:
    """Wall lamp; its back, y = 0, is on the wall."""
    item = Item("lamp").add(box(0.1, 0.02, 0.14), metal(rng), (0, -0.01, 0))
    return item.add(_shade(rng, 0.09), glow(rng), (0, -0.11, 0.03))


# ---------------------------------------------------------------- plants


def _blade(length: float, width: float, droop: float) -> np.ndarray:
    """Grid of points of one leaf that starts upright along y and bends down."""
    v = np.linspace(0, 1, 7)
    half = width / 2 * np.sin(np.pi * np.clip(v * 0.94 + 0.06, 0, 1)) ** 0.8
    bend = droop * v**1.5
    step = length / 6
    y = np.cumsum(np.sin(bend) * step) - np.sin(bend[0]) * step
    z = np.cumsum(np.cos(bend) * step) - step
    cup = np.array([0.15, 0.0, 0.15])[:, None] * half
    return np.stack(
        [np.stack([s * half, y, z + c], 1) for s, c in zip((-1, 0, 1), cup, strict=True)]
    )


def _leaf_cloud(item: Item, rng, center, radius, count, size, materials) -> None:
    """Leaves scattered over an ellipsoid, each turned its own way."""
    for _ in range(count):
        way = rng.normal(size=3)
        way /= np.linalg.norm(way)
        at = np.asarray(center) + way * radius * rng.uniform(0.45, 1.0)
        blade = sheet(_blade(size * rng.uniform(0.6, 1.3), 0.55 * size, rng.uniform(0.2, 1.2)))
        yaw = np.arctan2(-way[0], way[1]) + rng.normal(0, 0.5)
        item.add(
            blade,
            materials[rng.integers(len(materials))],
            at,
            yaw=yaw,
            pitch=-rng.uniform(0.3, 1.8),
        )


def _pot(item: Item, rng, radius: float) -> float:
    """Adds a pot with soil; returns the height of the soil."""
    material = ceramic(rng) if rng.random() < 0.6 else plastic(rng)
    height = radius * rng.uniform(1.2, 2.2)
    if rng.random() < 0.25:
        item.add(
            taper((1.4 * radius, 1.4 * radius), (1.9 * radius, 1.9 * radius), height), material
        )
    else:
        narrow = rng.uniform(0.6, 0.95)
        rim = [(radius, height), (radius * 0.9, height), (radius * 0.88, height - 0.03)]
        item.add(
            lathe([(narrow * radius, 0), (radius * 0.5 * (1 + narrow), height / 2), *rim]), material
        )
    item.add(cylinder(0.9 * radius, 0.01), soil(rng), (0, 0, height - 0.03))
    return height - 0.02


def plant(rng, height: float | None = None) -> Item:
    """Potted rosette, palm, bush, little tree or succulent, ``height`` tall with its pot."""
    item = Item("plant")
    height = height or rng.uniform(0.7, 1.9)
    z = _pot(item, rng, np.clip(0.16 * height, 0.05, 0.24) * rng.uniform(0.8, 1.2))
    rest = max(height - z, 0.08)
    greens = [leaf(rng) for _ in range(3)]
    style = rng.integers(5)
    if style == 0:  # stiff upright blades
        for _ in range(rng.integers(9, 22)):
            blade = _blade(rest * rng.uniform(0.6, 1.05), 0.13 * rest**0.5, rng.uniform(0.05, 0.45))
            at = (*rng.normal(0, 0.03 * rest, 2), z)
            item.add(sheet(blade), greens[rng.integers(3)], at, yaw=rng.uniform(0, 2 * np.pi))
    elif style == 1:  # arching fronds with leaflets
        for yaw in np.linspace(0, 2 * np.pi, rng.integers(6, 12), endpoint=False) + rng.uniform(
            0, 1
        ):
            bend, length = np.linspace(0, rng.uniform(0.9, 1.8), 9), rest * rng.uniform(0.8, 1.2)
            spine = (
                np.stack([0 * bend, np.cumsum(np.sin(bend)), np.cumsum(np.cos(bend))], 1)
                * length
                / 9
            )
            item.add(tube(spine, 0.005, 5), greens[0], (0, 0, z), yaw=yaw)
            for place in spine[2:]:
                for side in (-1, 1):
                    leaflet = _blade(0.28 * length, 0.05 * length, 0.8)
                    at = rotation(yaw) @ place + [0, 0, z]
                    item.add(sheet(leaflet), greens[1], at, yaw=yaw + side * 1.1, pitch=-1.1)
    elif style == 2:  # bush
        stem = tube(np.linspace([0, 0, z], [0, 0, z + 0.5 * rest], 3), 0.012 * rest + 0.003)
        item.add(stem, soil(rng))
        radius = rest * np.array([0.38, 0.38, 0.5])
        _leaf_cloud(
            item,
            rng,
            (0, 0, z + 0.55 * rest),
            radius,
            rng.integers(50, 110),
            0.16 * rest**0.6,
            greens,
        )
    elif style == 3:  # tree with a bare trunk
        sway = rng.normal(0, 0.05, 2)
        crown = np.array([*sway, z + 0.72 * rest])
        trunk = np.array([[0, 0, z - 0.05], [*(-0.4 * sway), z + 0.35 * rest], crown])
        item.add(tube(trunk, 0.012 * rest + 0.006), soil(rng))
        radius = rest * np.array([0.3, 0.3, 0.28])
        _leaf_cloud(item, rng, crown, radius, rng.integers(60, 130), 0.13 * rest**0.5, greens)
    else:  # columns of a succulent
        for _ in range(rng.integers(1, 5)):
            at, tall = (*rng.normal(0, 0.05 * rest, 2), z), rest * rng.uniform(0.4, 1)
            fat = 0.12 * rest**0.7
            item.add(cushion(fat, fat, tall, 2.6), greens[0], at)
    return item


def small_plant(rng) -> Item:
    """Plant for a table, a shelf or a window sill."""
    return plant(rng, rng.uniform(0.2, 0.48))


def flowers(rng) -> Item:
    """Cut flowers in a vase."""
    item = Item("plant")
    height, petals = rng.uniform(0.15, 0.28), fabric(rng)
    item.add(
        lathe([(0.04, 0), (0.06, 0.4 * height), (0.03, 0.85 * height), (0.045, height)]),
        ceramic(rng),
    )
    green = leaf(rng)
    for _ in range(rng.integers(5, 12)):
        tip = np.array([*rng.normal(0, 0.08, 2), height + rng.uniform(0.1, 0.26)])
        item.add(tube(np.linspace([0, 0, height - 0.05], tip, 3), 0.003, 5), green)
        item.add(cushion(0.05, 0.05, 0.035, 2, 5), petals, tip - [0, 0, 0.01])
        item.add(
            sheet(_blade(0.12, 0.035, 1.0)),
            green,
            0.5 * tip + [0, 0, 0.5 * height],
            yaw=rng.uniform(0, 6),
        )
    return item


# ---------------------------------------------------------------- clutter that stands on tops


def bottle(rng) -> Item:
    """Bottle, jar or can."""
    radius, height = rng.uniform(0.03, 0.045), rng.uniform(0.12, 0.32)
    neck = rng.uniform(0.3, 0.9) * radius
    profile = [
        (0.9 * radius, 0),
        (radius, 0.02),
        (radius, 0.6 * height),
        (neck, 0.8 * height),
        (neck, height),
    ]
    return Item("clutter").add(
        lathe(profile, 16), plastic(rng) if rng.random() < 0.6 else ceramic(rng)
    )


def mug(rng) -> Item:
    """Cup with a handle."""
    item, glaze = Item("clutter"), ceramic(rng)
    item.add(lathe([(0.035, 0), (0.04, 0.09), (0.036, 0.09), (0.032, 0.01)], 18), glaze)
    turn = np.linspace(-1.3, 1.3, 7)
    path = np.stack([0.038 + 0.028 * np.cos(turn), 0 * turn, 0.045 + 0.03 * np.sin(turn)], 1)
    return item.add(tube(path, 0.005, 6), glaze)


def bowl(rng) -> Item:
    """Bowl, some with fruit."""
    item, radius = Item("clutter"), rng.uniform(0.08, 0.17)
    outside = [
        (0.4 * radius, 0),
        (0.8 * radius, 0.03),
        (radius, 0.08),
        (0.95 * radius, 0.08),
        (0.3 * radius, 0.02),
    ]
    item.add(lathe(outside, 24), ceramic(rng))
    if rng.random() < 0.5:
        skin = paper(rng)
        for _ in range(rng.integers(3, 8)):
            at = (*rng.uniform(-0.45, 0.45, 2) * radius, rng.uniform(0.03, 0.06))
            item.add(cushion(0.07, 0.07, 0.065, 2, 6), skin, at)
    return item


def vase(rng) -> Item:
    """Vase or other turned ornament."""
    height = rng.uniform(0.12, 0.4)
    radii = rng.uniform(0.02, 0.09, 6) * (0.5 + height)
    smooth = np.convolve(np.pad(radii, 1, "edge"), [0.25, 0.5, 0.25], "valid")
    return Item("clutter").add(
        lathe(list(zip(smooth, np.linspace(0, height, 6), strict=True))), ceramic(rng)
    )


def book_pile(rng) -> Item:
    """Lying books or a stack of paper."""
    item, z = Item("clutter"), 0.0
    for _ in range(rng.integers(1, 7)):
        thick = rng.uniform(0.012, 0.045)
        item.add(
            box(rng.uniform(0.14, 0.22), rng.uniform(0.2, 0.3), thick),
            paper(rng),
            (0, 0, z),
            yaw=rng.normal(0, 0.15),
        )
        z += thick
    return item


def laptop(rng) -> Item:
    """Open laptop."""
    item, body = Item("clutter"), metal(rng)
    width, depth, open_angle = (
        rng.uniform(0.3, 0.38),
        rng.uniform(0.21, 0.26),
        rng.uniform(0.1, 0.6),
    )
    item.add(slab(width, depth, 0.016, 0.004), body)
    hinge = (0, depth / 2, 0.016)
    item.add(box(width, 0.008, depth), body, hinge, pitch=-open_angle)
    return item.add(
        box(width - 0.02, 0.004, depth - 0.02),
        screen(rng),
        (0, depth / 2 - 0.006, 0.02),
        pitch=-open_angle,
    )


def monitor(rng) -> Item:
    """Screen with its foot, a keyboard and a mouse in front."""
    item, body = Item("clutter"), plastic(rng)
    width, height = rng.uniform(0.45, 0.72), rng.uniform(0.28, 0.4)
    item.add(slab(0.24, 0.18, 0.015), body).add(box(0.05, 0.03, 0.25), body, (0, 0.03, 0.01))
    item.add(slab(width, 0.035, height, 0.008), body, (0, 0, 0.13), pitch=-0.06)
    item.add(box(width - 0.02, 0.004, height - 0.03), screen(rng), (0, -0.02, 0.145), pitch=-0.06)
    item.add(taper((0.43, 0.14), (0.42, 0.13), 0.022), plastic(rng), (0, -0.26, 0))
    return item.add(cushion(0.06, 0.1, 0.035, 2.5, 6), plastic(rng), (0.29, -0.26, 0))


def carton(rng) -> Item:
    """Box, closed or with its flaps open."""
    item, card = Item("clutter"), paper(rng)
    width, depth, height = rng.uniform(0.12, 0.4), rng.uniform(0.12, 0.35), rng.uniform(0.08, 0.35)
    if rng.random() < 0.6:
        return item.add(box(width, depth, height), card)
    for sx in (-1, 1):
        item.add(box(0.006, depth, height), card, (sx * width / 2, 0, 0))
        flap = (sx * width / 2, 0, height)
        item.add(box(0.006, depth, 0.4 * width), card, flap, roll=sx * rng.uniform(0.3, 2.2))
    for sy in (-1, 1):
        item.add(box(width, 0.006, height), card, (0, sy * depth / 2, 0))
    return item.add(box(width, depth, 0.01), card)


def small_box(rng) -> Item:
    """Carton scaled to a shelf."""
    width, depth, height = rng.uniform(0.08, 0.3), rng.uniform(0.08, 0.22), rng.uniform(0.04, 0.22)
    return Item("clutter").add(
        slab(width, depth, height, 0.004), paper(rng) if rng.random() < 0.6 else plastic(rng)
    )


def photo_frame(rng) -> Item:
    """Standing picture frame."""
    item, side = Item("clutter"), rng.uniform(0.12, 0.24)
    item.add(box(side, 0.015, 1.3 * side), board(rng), pitch=-0.2)
    return item.add(
        box(0.85 * side, 0.004, 1.1 * side), picture(rng), (0, -0.012, 0.1 * side), pitch=-0.2
    )


def papers(rng) -> Item:
    """A few sheets, spread out."""
    item, sheet_material = Item("clutter"), paper(rng)
    for level in range(rng.integers(1, 5)):
        at = (*rng.normal(0, 0.05, 2), 0.004 * level)
        item.add(box(0.21, 0.297, 0.004), sheet_material, at, yaw=rng.normal(0, 0.4))
    return item


# ---------------------------------------------------------------- clutter that stands on the floor


def bin_(rng) -> Item:
    """Waste-paper bin or laundry basket."""
    radius, height = rng.uniform(0.11, 0.2), rng.uniform(0.25, 0.6)
    profile = [(0.75 * radius, 0), (radius, height), (0.95 * radius, height), (0.7 * radius, 0.03)]
    return Item("clutter").add(
        lathe(profile, 24), plastic(rng) if rng.random() < 0.6 else metal(rng)
    )


def bag(rng) -> Item:
    """Backpack or handbag that leans a little."""
    item, cloth = Item("clutter"), fabric(rng) if rng.random() < 0.7 else leather(rng)
    width, depth, height = rng.uniform(0.25, 0.4), rng.uniform(0.14, 0.22), rng.uniform(0.28, 0.5)
    item.add(cushion(width, depth, height, 2.8), cloth, pitch=rng.uniform(-0.3, 0.1))
    item.add(cushion(0.7 * width, 0.5 * depth, 0.5 * height, 3), cloth, (0, -depth / 2, 0.03))
    turn = np.linspace(0, np.pi, 9)
    path = np.stack([0.07 * np.cos(turn), 0 * turn, height - 0.03 + 0.1 * np.sin(turn)], 1)
    return item.add(tube(path, 0.009, 6), cloth)


def suitcase(rng) -> Item:
    """Trolley case."""
    item, shell = Item("clutter"), plastic(rng)
    width, depth, height = rng.uniform(0.36, 0.5), rng.uniform(0.2, 0.3), rng.uniform(0.5, 0.72)
    item.add(slab(width, depth, height, 0.04), shell, (0, 0, 0.04))
    for x in (-0.1, 0.1):
        item.add(cylinder(0.008, 0.3, sides=6), metal(rng), (x, depth / 2 - 0.02, height))
    return item.add(box(0.24, 0.03, 0.025), shell, (0, depth / 2 - 0.02, height + 0.3))


def shoes(rng) -> Item:
    """A pair, not quite parallel."""
    item, hide = Item("clutter"), leather(rng)
    for sx in (-1, 1):
        yaw = rng.normal(0, 0.2)
        item.add(cushion(0.1, 0.27, 0.09, 3, 6), hide, (0.075 * sx, 0, 0), yaw=yaw)
        item.add(cushion(0.09, 0.12, 0.13, 3, 6), hide, (0.075 * sx, 0.06, 0.03), yaw=yaw)
    return item


def ball(rng) -> Item:
    """Ball, beanbag-sized on some."""
    size = rng.uniform(0.12, 0.28)
    return Item("clutter").add(cushion(size, size, size, 2, 11), plastic(rng))


def coat_stand(rng) -> Item:
    """Stand with coats over it."""
    item, body = Item("clutter"), wood(rng) if rng.random() < 0.5 else metal(rng)
    item.add(cylinder(0.2, 0.03, 0.19), body).add(cylinder(0.018, 1.75), body)
    for angle in 2 * np.pi * np.arange(5) / 5:
        way = np.array([np.cos(angle), np.sin(angle), 0])
        item.add(
            tube([[0, 0, 1.6], [0, 0, 1.62] + 0.07 * way, [0, 0, 1.72] + 0.12 * way], 0.008, 6),
            body,
        )
    for angle in rng.uniform(0, 2 * np.pi, rng.integers(1, 4)):
        at = (0.13 * np.cos(angle), 0.13 * np.sin(angle), rng.uniform(0.6, 0.8))
        item.add(cushion(0.36, 0.16, 1.6 - at[2], 2.6), fabric(rng), at, yaw=angle + np.pi / 2)
    return item


def fan(rng) -> Item:
    """Standing fan."""
    item, body = Item("clutter"), plastic(rng)
    height = rng.uniform(0.9, 1.2)
    item.add(cylinder(0.2, 0.03, 0.18), body).add(cylinder(0.015, height), body)
    for radius in (0.08, 0.14, 0.2):
        turn = np.linspace(0, 2 * np.pi, 21)
        ring = np.stack([radius * np.cos(turn), 0.04 * np.ones(21), radius * np.sin(turn)], 1)
        for y in (0.0, -0.1):
            item.add(tube(ring + np.array([0, y, height]), 0.004, 5), body)
    for turn in 2 * np.pi * np.arange(4) / 4:
        item.add(box(0.1, 0.01, 0.16), body, (0, -0.02, height), roll=turn)
    return item


# ---------------------------------------------------------------- walls and ceiling

# A wall item's frame stands on the wall: x along it, y = 0 on its face, y > 0 into it, so what
# hangs on a wall has y < 0. Heights are above the floor or above the opening's lower edge.


def door(rng, width: float, height: float, depth: float) -> Item:
    """Casing, leaf and handle in an opening; one in three stands open, to the outside."""
    item, lacquer = Item("door"), board(rng)
    leaf_material = lacquer if rng.random() < 0.7 else board(rng)
    casing, proud = rng.uniform(0.05, 0.09), rng.uniform(0.01, 0.025)
    for sx in (-1, 1):
        item.add(
            box(casing, 0.03 + proud, height + casing),
            lacquer,
            (sx * (width + casing) / 2, 0.015 - proud / 2, 0),
        )
        item.add(box(0.03, depth, height), lacquer, (sx * (width / 2 - 0.015), depth / 2, 0))
    item.add(box(width, 0.03 + proud, casing), lacquer, (0, 0.015 - proud / 2, height))
    item.add(box(width, depth, 0.03), lacquer, (0, depth / 2, height - 0.03))
    leaf_width, side = width - 0.07, rng.choice([-1, 1])
    panel = Item("door").add(
        box(leaf_width, 0.04, height - 0.04), leaf_material, (-leaf_width / 2, 0, 0)
    )
    if rng.random() < 0.5:
        low = 0.12
        for share in (0.38, 0.5):
            tall = share * (height - 0.4)
            for dx in (0.3, 0.7) if rng.random() < 0.5 else (0.5,):
                wide = leaf_width * (0.34 if dx != 0.5 else 0.72)
                item_at = (-dx * leaf_width, -0.022, low)
                panel.add(slab(wide, 0.014, tall, 0.006), leaf_material, item_at)
            low += tall + 0.12
    if rng.random() < 0.2:
        panel.add(
            box(0.5 * leaf_width, 0.05, 0.5 * height),
            glass(rng),
            (-leaf_width / 2, 0, 0.4 * height),
        )
    grip = metal(rng)
    for sy in (-1, 1):
        path = np.array([[0, 0, 0], [0, sy * 0.05, 0], [0.12, sy * 0.05, 0]])
        panel.add(tube(path, 0.01), grip, (0.06 - leaf_width, sy * 0.02, 1.03))
    open_angle = -rng.uniform(0.6, 1.5) if rng.random() < 0.35 else 0.0
    turned = panel.moved((leaf_width / 2, rng.uniform(0.02, 0.06) + 0.02, 0.01), open_angle)
    for part in turned.parts:
        mirrored = part.mesh.vertices * [side, 1, 1]
        item.parts.append(part._replace(mesh=Mesh(mirrored, part.mesh.triangles)))
    return item


def window(rng, width: float, height: float, depth: float) -> Item:
    """Frame, one to three sashes with bars, panes, a sill."""
    item, frame = Item("window"), board(rng)
    y = rng.uniform(0.5, 0.85) * depth
    thick = rng.uniform(0.045, 0.07)
    for sx in (-1, 1):
        item.add(box(thick, 0.07, height), frame, (sx * (width - thick) / 2, y, 0))
    for z in (0, height - thick):
        item.add(box(width, 0.07, thick), frame, (0, y, z))
    sashes = max(1, round(width / rng.uniform(0.55, 0.9)))
    each = (width - 2 * thick) / sashes
    bars = rng.integers(0, 3)
    for index in range(sashes):
        x = (index - (sashes - 1) / 2) * each
        for sx in (-1, 1):
            item.add(
                box(0.05, 0.05, height - 2 * thick),
                frame,
                (x + sx * (each - 0.05) / 2, y - 0.03, thick),
            )
        for z in (thick, height - thick - 0.05):
            item.add(box(each, 0.05, 0.05), frame, (x, y - 0.03, z))
        for z in np.linspace(0, height, bars + 2)[1:-1]:
            item.add(box(each, 0.025, 0.025), frame, (x, y - 0.02, z))
        item.add(
            box(each - 0.09, 0.01, height - 2 * thick - 0.09),
            glass(rng),
            (x, y - 0.02, thick + 0.045),
        )
        item.add(box(0.02, 0.05, 0.11), metal(rng), (x + each / 2 - 0.03, y - 0.08, 0.45 * height))
    sill = rng.uniform(0.02, 0.2)
    stone = board(rng)
    item.add(slab(width + 0.06, y + sill, 0.03, 0.006), stone, (0, (y - sill) / 2 - 0.02, -0.025))
    if y > 0.12:
        item.top(width - 0.2, 0.8 * y, 0.005, y=0.3 * y, clearance=0.4)
    return item


def curtains(rng, width: float, height: float) -> Item:
    """Two wavy lengths of cloth on a rail, reaching from z = 0 up to ``height``."""
    item, cloth = Item("clutter"), fabric(rng)
    rail = np.linspace([-width / 2 - 0.25, -0.1, height], [width / 2 + 0.25, -0.1, height], 3)
    item.add(tube(rail, 0.014), metal(rng))
    drawn = rng.uniform(0.12, 0.35)
    for side in (-1, 1):
        u = np.linspace(0, 1, 61)[:, None]
        v = np.linspace(0, 1, 9)[None]
        fold = 2 * np.pi * (u * rng.uniform(5, 9) + 0.1 * np.sin(4 * v + rng.uniform(0, 6)))
        y = -0.1 + 0.035 * np.sin(fold) * (0.6 + 0.4 * v)
        x = side * (width / 2 + 0.22 - u * drawn * width) + 0.01 * np.cos(2 * fold)
        item.add(sheet(np.stack([x, y, (1 - v) * (height - 0.02) + 0 * u], 2)), cloth)
    return item


def radiator(rng, width: float) -> Item:
    """Panel or column radiator that hangs under a window."""
    item, enamel = Item("clutter"), paint(rng)
    height, z = rng.uniform(0.4, 0.6), rng.uniform(0.08, 0.15)
    if rng.random() < 0.5:
        for y in (-0.05, -0.11):
            item.add(box(width, 0.012, height), enamel, (0, y, z))
        for x in np.arange(-width / 2 + 0.03, width / 2, 0.06):
            item.add(box(0.02, 0.01, height - 0.06), enamel, (x, -0.12, z + 0.03))
        item.add(box(width, 0.08, 0.01), enamel, (0, -0.08, z + height))
    else:
        for x in np.arange(-width / 2 + 0.03, width / 2, 0.06):
            item.add(slab(0.045, 0.1, height, 0.015), enamel, (x, -0.09, z))
    pipe = np.array(
        [
            [width / 2 - 0.02, -0.08, z + 0.05],
            [width / 2 + 0.05, -0.08, z + 0.05],
            [width / 2 + 0.05, -0.08, 0],
        ]
    )
    return item.add(tube(pipe, 0.012), metal(rng))


def painting(rng) -> Item:
    """Framed picture, poster, mirror or clock."""
    item, kind = Item("clutter"), rng.random()
    if kind < 0.12:
        item.add(
            lathe([(0.15, -0.02), (0.16, 0.0), (0.14, 0.012)], 28),
            plastic(rng),
            (0, -0.02, 0.16),
            pitch=np.pi / 2,
        )
        return item
    width, height = rng.uniform(0.25, 1.1), rng.uniform(0.3, 0.8)
    surface = mirror(rng) if kind > 0.88 else picture(rng)
    rim, deep = rng.uniform(0.015, 0.06), rng.uniform(0.012, 0.04)
    item.add(box(width, deep / 2, height), surface, (0, -deep / 4, 0))
    edge = board(rng)
    for sx in (-1, 1):
        item.add(box(rim, deep, height), edge, (sx * (width - rim) / 2, -deep / 2, 0))
    for z in (0, height - rim):
        item.add(box(width, deep, rim), edge, (0, -deep / 2, z))
    return item


def whiteboard(rng) -> Item:
    """White or pin board with a tray."""
    item, rim = Item("clutter"), metal(rng)
    width, height = rng.uniform(1.2, 2.4), rng.uniform(0.9, 1.2)
    item.add(box(width, 0.02, height), paint(rng), (0, -0.015, 0))
    for z in (0, height - 0.03):
        item.add(box(width, 0.03, 0.03), rim, (0, -0.018, z))
    return item.add(box(0.6 * width, 0.08, 0.015), rim, (0, -0.05, -0.01))


def television(rng) -> Item:
    """Flat screen on the wall."""
    item, width = Item("clutter"), rng.uniform(0.9, 1.5)
    item.add(box(0.4, 0.06, 0.3), metal(rng), (0, -0.03, 0.2))
    item.add(slab(width, 0.05, 0.57 * width, 0.01), plastic(rng), (0, -0.075, 0))
    return item.add(box(width - 0.02, 0.004, 0.57 * width - 0.02), screen(rng), (0, -0.101, 0.01))


def wall_shelf(rng) -> Item:
    """Board on brackets; things stand on it."""
    item, width, depth = Item("cabinet"), rng.uniform(0.5, 1.2), rng.uniform(0.18, 0.26)
    item.add(box(width, depth, 0.025), board(rng), (0, -depth / 2, 0))
    for sx in (-1, 1):
        item.add(
            box(0.02, 0.7 * depth, 0.08), metal(rng), (sx * 0.35 * width, -0.35 * depth, -0.08)
        )
    return item.top(width - 0.06, depth - 0.04, 0.025, y=-depth / 2, clearance=0.35)


def outlet(rng) -> Item:
    """Socket or light switch."""
    width = rng.choice([0.08, 0.15])
    return Item("clutter").add(slab(width, 0.014, 0.08, 0.003), plastic(rng), (0, -0.007, 0))


def air_conditioner(rng) -> Item:
    """Split unit high on a wall."""
    item, shell = Item("clutter"), plastic(rng)
    item.add(slab(0.85, 0.2, 0.28, 0.04), shell, (0, -0.1, 0))
    return item.add(box(0.7, 0.02, 0.05), screen(rng), (0, -0.2, 0.02))


def smoke_detector(rng) -> Item:
    """On the ceiling; z = 0 is the ceiling."""
    return Item("clutter").add(lathe([(0.03, -0.05), (0.05, -0.04), (0.055, 0)], 18), plastic(rng))


def projector(rng) -> Item:
    """Hangs from the ceiling."""
    item, shell = Item("clutter"), plastic(rng)
    item.add(cylinder(0.02, 0.3, sides=10), metal(rng), (0, 0, -0.3))
    return item.add(slab(0.34, 0.28, 0.11, 0.02), shell, (0, 0, -0.41))
