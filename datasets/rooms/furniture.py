"""Parametric furniture. Every function draws one piece, its style and its measures from ``rng``."""

import numpy as np
from item import Item
from materials import board, fabric, leather, metal, mirror, paper, plastic, screen, wood
from mesh import box, cushion, cylinder, lathe, sheet, slab, taper, tube

# ---------------------------------------------------------------- tables


def _legs(item: Item, rng, width: float, depth: float, height: float, material) -> None:
    """Four legs under a rectangle, square, tapered or round, upright or splayed."""
    thick = rng.uniform(0.03, 0.08)
    inset = thick / 2 + rng.uniform(0, 0.06)
    style, splay = rng.integers(3), rng.choice([0.0, 0.0, 0.12])
    for sx in (-1, 1):
        for sy in (-1, 1):
            at = (sx * (width / 2 - inset), sy * (depth / 2 - inset), 0)
            if style == 0:
                leg = box(thick, thick, height)
            elif style == 1:
                leg = taper((0.6 * thick, 0.6 * thick), (thick, thick), height)
            else:
                leg = cylinder(0.3 * thick, height, 0.5 * thick, 10)
            item.add(leg, material, at, pitch=-sy * splay * 0.7, roll=-sx * splay * 0.7)


def _table_top(item: Item, rng, width: float, depth: float, height: float, material) -> None:
    thick = rng.uniform(0.018, 0.05)
    item.add(slab(width, depth, thick, rng.uniform(0.003, 0.012)), material, (0, 0, height - thick))
    item.top(width - 0.06, depth - 0.06, height)


def _frame_base(item: Item, rng, width: float, depth: float, height: float, material) -> None:
    """What carries a rectangular top: legs with an apron, sled frames, trestles or side panels."""
    style = rng.integers(4)
    thick = rng.uniform(0.03, 0.06)
    if style == 0:
        _legs(item, rng, width, depth, height - 0.02, material)
        apron = rng.uniform(0.05, 0.11)
        for sy in (-1, 1):
            at = (0, sy * (depth / 2 - 0.08), height - 0.03 - apron)
            item.add(box(width - 0.16, 0.02, apron), material, at)
        for sx in (-1, 1):
            at = (sx * (width / 2 - 0.08), 0, height - 0.03 - apron)
            item.add(box(0.02, depth - 0.16, apron), material, at)
        return
    for sx in (-1, 1):
        x = sx * (width / 2 - rng.uniform(0.04, 0.1))
        if style == 1:  # sled
            for sy in (-1, 1):
                item.add(
                    box(thick, thick, height - 0.02), material, (x, sy * (depth / 2 - 0.06), 0)
                )
            item.add(box(thick, depth - 0.1, thick), material, (x, 0, 0))
            item.add(box(thick, depth - 0.1, thick), material, (x, 0, height - 0.02 - thick))
        elif style == 2:  # trestle
            for sy in (-1, 1):
                at = (x, sy * (depth / 2 - 0.05), 0)
                item.add(
                    box(thick, thick, (height - 0.02) / np.cos(0.22)), material, at, pitch=sy * 0.22
                )
            item.add(box(thick, depth - 0.2, thick), material, (x, 0, 0.2))
        else:
            item.add(box(0.025, depth - 0.04, height - 0.02), material, (x, 0, 0))
    if style != 3:
        return
    item.add(box(width - 0.2, 0.02, 0.3), material, (0, depth / 4, height - 0.32))


def dining_table(rng, seats: int = 4) -> Item:
    """Rectangular for any number of seats; ``round_table`` is the other kind."""
    item, top = Item("table"), board(rng)
    width = {2: 0.8, 4: 1.25, 6: 1.75, 8: 2.3}[seats] * rng.uniform(0.93, 1.1)
    depth, height = rng.uniform(0.75, 1.0), rng.uniform(0.7, 0.78)
    _table_top(item, rng, width, depth, height, top)
    _frame_base(item, rng, width, depth, height, top if rng.random() < 0.5 else metal(rng))
    return item


def round_table(rng, radius: float | None = None, height: float | None = None) -> Item:
    """Round or oval top on a pedestal or on three or four legs."""
    item, top = Item("table"), board(rng)
    foot = top if rng.random() < 0.5 else metal(rng)
    radius = radius or rng.uniform(0.38, 0.65)
    height = height or rng.uniform(0.7, 0.77)
    thick = rng.uniform(0.02, 0.04)
    profile = [(radius - 0.01, 0), (radius, 0.01), (radius, thick - 0.005), (radius - 0.008, thick)]
    item.add(lathe(profile, 36), top, (0, 0, height - thick))
    item.top(1.2 * radius, 1.2 * radius, height)
    if rng.random() < 0.5:
        stem = [(0.6 * radius, 0), (0.58 * radius, 0.02), (0.05, 0.06), (0.035, 0.4 * height)]
        item.add(lathe([*stem, (0.04, height - 0.1), (0.12, height - thick)], 24), foot)
        return item
    legs = rng.integers(3, 5)
    for angle in 2 * np.pi * np.arange(legs) / legs + rng.uniform(0, 1):
        at = 0.8 * radius * np.array([np.cos(angle), np.sin(angle), 0])
        lean = rng.uniform(0.1, 0.2)
        leg = cylinder(0.014, (height - thick) / np.cos(lean), 0.022, 10)
        item.add(leg, foot, at, yaw=angle - np.pi / 2, pitch=lean)
    return item


def coffee_table(rng) -> Item:
    """Low, sometimes with a shelf below."""
    height = rng.uniform(0.32, 0.48)
    if rng.random() < 0.35:
        return round_table(rng, rng.uniform(0.3, 0.48), height)
    item, top = Item("table"), board(rng)
    width, depth = rng.uniform(0.8, 1.25), rng.uniform(0.45, 0.7)
    _table_top(item, rng, width, depth, height, top)
    _legs(item, rng, width, depth, height - 0.015, top)
    if rng.random() < 0.4:
        item.add(box(width - 0.12, depth - 0.12, 0.018), top, (0, 0, 0.12))
        item.top(width - 0.2, depth - 0.2, 0.138, clearance=height - 0.18)
    return item


def desk(rng) -> Item:
    """Writing or office desk, with a drawer pedestal or a return on some."""
    item, top = Item("table"), board(rng)
    frame = top if rng.random() < 0.4 else metal(rng)
    width, depth, height = rng.uniform(1.1, 1.8), rng.uniform(0.6, 0.8), rng.uniform(0.7, 0.76)
    _table_top(item, rng, width, depth, height, top)
    _frame_base(item, rng, width, depth, height, frame)
    if rng.random() < 0.55:
        side = rng.choice([-1, 1])
        base = (side * (width / 2 - 0.28), 0.02, 0.02)
        _drawers(
            item, rng, 0.42, depth - 0.12, height - 0.1, top, frame, base, rows=rng.integers(2, 5)
        )
    if rng.random() < 0.3:  # modesty panel
        item.add(box(width - 0.12, 0.018, 0.4), top, (0, depth / 2 - 0.08, height - 0.45))
    return item


# ---------------------------------------------------------------- chairs


def dining_chair(rng) -> Item:
    """Four legs, a seat, and a back of slats, rungs, a panel or padding."""
    item, body = Item("chair"), board(rng)
    soft = rng.random() < 0.4
    seat = fabric(rng) if soft else body
    width, depth = rng.uniform(0.4, 0.48), rng.uniform(0.4, 0.46)
    height, total = rng.uniform(0.43, 0.48), rng.uniform(0.8, 1.05)
    _legs(item, rng, width, depth, height - 0.01, body)
    item.add(slab(width, depth, 0.025, 0.008), body, (0, 0, height - 0.025))
    if soft:
        item.add(cushion(width - 0.02, depth - 0.02, 0.07), seat, (0, -0.005, height - 0.02))
    lean, rise = rng.uniform(0.05, 0.22), total - height
    back = {"yaw": 0.0, "pitch": -lean}

    def at_back(x: float, up: float) -> tuple[float, float, float]:
        return (x, depth / 2 - 0.02 + up * np.tan(lean), height + up)

    style = rng.integers(4)
    if style < 3:
        post = rng.uniform(0.022, 0.04)
        for sx in (-1, 1):
            item.add(box(post, post, rise), body, at_back(sx * (width - post) / 2, 0), **back)
        item.add(box(width, 0.022, 0.07), body, at_back(0, rise - 0.08), **back)
    if style == 0:
        for x in np.linspace(-0.35, 0.35, rng.integers(3, 7)) * width:
            item.add(cylinder(0.009, rise - 0.06, sides=8), body, at_back(x, 0), **back)
    elif style == 1:
        for up in np.linspace(0.12, rise - 0.16, rng.integers(2, 4)):
            item.add(box(width - 0.03, 0.016, 0.05), body, at_back(0, up), **back)
    elif style == 2:
        item.add(slab(width - 0.06, 0.03, rise - 0.16, 0.01), seat, at_back(0, 0.08), **back)
    else:
        item.add(cushion(width, 0.08, rise, 6), seat, at_back(0, 0), **back)
    return item


def _shell(width: float, depth: float, rise: float, lean: float) -> np.ndarray:
    """Grid of points of a moulded seat that runs up into the back."""
    u, v = np.meshgrid(np.linspace(-1, 1, 9), np.linspace(0, 1, 15), indexing="ij")
    back = np.clip((v - 0.45) / 0.55, 0, 1)
    y = -depth / 2 + depth * np.minimum(v / 0.5, 1) + np.tan(lean) * rise * back**1.3
    z = rise * back**1.4 - 0.02 * np.cos(np.pi * v)
    x = u * width / 2 * (1 - 0.25 * back**3)
    return np.stack([x, y - 0.10 * u**2 * back, z + 0.05 * u**4 * (1 - back)], 2)


def shell_chair(rng) -> Item:
    """Moulded shell on slim legs."""
    item, shell, legs = Item("chair"), plastic(rng), metal(rng) if rng.random() < 0.6 else wood(rng)
    height = rng.uniform(0.42, 0.46)
    width = rng.uniform(0.42, 0.5)
    item.add(sheet(_shell(width, 0.44, rng.uniform(0.33, 0.42), 0.2)), shell, (0, 0, height))
    for sx in (-1, 1):
        for sy in (-1, 1):
            foot, head = (
                np.array([sx * 0.22, sy * 0.22, 0]),
                np.array([sx * 0.12, sy * 0.12, height - 0.02]),
            )
            item.add(tube(np.linspace(foot, head, 3), 0.011), legs)
    return item


def office_chair(rng) -> Item:
    """Swivel chair on a five-star base with castors."""
    item, black = Item("chair"), plastic(rng)
    cover = fabric(rng) if rng.random() < 0.7 else leather(rng)
    height = rng.uniform(0.44, 0.54)
    for angle in 2 * np.pi * np.arange(5) / 5 + rng.uniform(0, 1):
        tip = np.array([0.3 * np.cos(angle), 0.3 * np.sin(angle), 0.07])
        item.add(tube(np.linspace([0, 0, 0.11], tip, 3), 0.018), black)
        item.add(cushion(0.05, 0.05, 0.06, 2), black, (tip[0], tip[1], 0))
    item.add(cylinder(0.027, height - 0.12, sides=12), metal(rng), (0, 0, 0.09))
    item.add(slab(0.24, 0.24, 0.04), black, (0, 0, height - 0.07))
    item.add(cushion(0.5, 0.48, 0.1, 3.5), cover, (0, -0.02, height - 0.05))
    rise = rng.uniform(0.42, 0.68)
    u, v = np.meshgrid(np.linspace(-1, 1, 9), np.linspace(0, 1, 10), indexing="ij")
    curve = np.stack(
        [
            0.23 * u * (1 - 0.15 * v),
            0.21 + 0.1 * v**2 - 0.06 * u**2 - 0.03 * np.sin(4 * v),
            v * rise,
        ],
        2,
    )
    for y in (0.0, 0.04):
        item.add(sheet(curve), cover, (0, y, height + 0.1))
    item.add(box(0.07, 0.02, 0.25), black, (0, 0.25, height - 0.05), pitch=-0.05)
    if rng.random() < 0.7:
        for sx in (-1, 1):
            item.add(box(0.03, 0.05, 0.22), black, (sx * 0.27, 0.02, height - 0.02))
            item.add(slab(0.07, 0.25, 0.03), black, (sx * 0.27, -0.02, height + 0.2))
    return item


def stool(rng) -> Item:
    """Round seat, low or at bar height."""
    item, body = Item("chair"), board(rng)
    height, radius = rng.choice([0.45, 0.65]) * rng.uniform(0.95, 1.05), rng.uniform(0.15, 0.19)
    item.add(
        lathe([(radius - 0.01, 0), (radius, 0.015), (radius - 0.01, 0.035)]),
        body,
        (0, 0, height - 0.035),
    )
    for angle in np.pi / 4 + np.pi / 2 * np.arange(4):
        way = np.array([np.cos(angle), np.sin(angle), 0])
        path = np.linspace(1.15 * radius * way, 0.7 * radius * way + [0, 0, height - 0.03], 3)
        item.add(tube(path, 0.013), body)
    turn = np.linspace(0, 2 * np.pi, 17)
    ring = radius * np.stack([np.cos(turn), np.sin(turn), 0 * turn], 1)
    return item.add(tube(ring, 0.008, 6), body, (0, 0, 0.3 * height))


def chair(rng) -> Item:
    """Any chair that goes with a table."""
    return (dining_chair, dining_chair, shell_chair)[rng.integers(3)](rng)


# ---------------------------------------------------------------- sofas and beds


def sofa(rng, seats: int | None = None) -> Item:
    """Base, arms, seat and back cushions; one seat makes an armchair. Some have a chaise."""
    item = Item("sofa")
    seats = seats or int(rng.integers(2, 4))
    cover = leather(rng) if rng.random() < 0.25 else fabric(rng)
    seat, depth, arm = rng.uniform(0.56, 0.72), rng.uniform(0.78, 0.98), rng.uniform(0.1, 0.24)
    height, back = rng.uniform(0.38, 0.46), rng.uniform(0.72, 0.9)
    foot, width = rng.uniform(0.04, 0.14), seats * seat + 2 * arm
    soft = rng.uniform(0.02, 0.05)
    item.add(slab(width, depth, height - 0.14 - foot, soft), cover, (0, 0, foot))
    item.add(
        slab(width, 0.22, back - foot - 0.08, soft), cover, (0, depth / 2 - 0.11, foot), pitch=-0.04
    )
    for sx in (-1, 1):
        arm_height = rng.uniform(0.52, 0.64) - foot
        arm_mesh = slab(arm, depth - 0.02, arm_height, 0.45 * arm if rng.random() < 0.5 else soft)
        item.add(arm_mesh, cover, (sx * (width - arm) / 2, 0, foot))
        for sy in (-1, 1):
            at = (sx * (width / 2 - 0.08), sy * (depth / 2 - 0.08), 0)
            item.add(cylinder(0.02, foot + 0.02, 0.03, 8), wood(rng), at)
    for index in range(seats):
        x = (index - (seats - 1) / 2) * seat
        item.add(cushion(seat - 0.01, depth - 0.2, 0.2, 6), cover, (x, -0.1, height - 0.17))
        lean = rng.uniform(-0.3, -0.12)
        item.add(
            cushion(seat - 0.02, 0.2, back - height + 0.04, 4),
            cover,
            (x, depth / 2 - 0.3, height - 0.02),
            pitch=lean,
        )
    if seats > 2 and rng.random() < 0.45:  # chaise longue
        x = rng.choice([-1, 1]) * (seats - 1) / 2 * seat
        long = rng.uniform(0.5, 0.75)
        item.add(
            slab(seat, long, height - 0.14 - foot, soft), cover, (x, -depth / 2 - long / 2, foot)
        )
        item.add(
            cushion(seat, long + 0.1, 0.2, 6), cover, (x, -depth / 2 - long / 2, height - 0.17)
        )
    for _ in range(rng.integers(0, seats + 1)):  # scatter cushions
        x, side = rng.uniform(-0.5, 0.5) * seats * seat, rng.uniform(0.35, 0.48)
        at = (x, depth / 2 - 0.42, height + 0.02)
        item.add(cushion(side, 0.14, side, 3), fabric(rng), at, yaw=rng.normal(0, 0.3), pitch=-0.35)
    return item


def armchair(rng) -> Item:
    """A sofa for one, or a barrel chair on legs."""
    if rng.random() < 0.6:
        return sofa(rng, 1)
    item, cover = Item("sofa"), fabric(rng)
    radius, height = rng.uniform(0.34, 0.4), rng.uniform(0.38, 0.44)
    angle = np.linspace(-0.2, np.pi + 0.2, 17)
    for inner in (0.0, 0.09):  # the inner and the outer skin of the back
        ring = (radius - inner) * np.stack([np.cos(angle), np.sin(angle)], 1)
        rise = 0.22 + 0.2 * np.clip(np.sin(angle), 0, 1) ** 2
        low, high = (np.c_[ring, np.full(17, 0.12)], np.c_[ring, height + rise])
        item.add(sheet(np.stack([low, high])), cover)
    rim = np.c_[(radius - 0.045) * np.stack([np.cos(angle), np.sin(angle)], 1), height + rise]
    item.add(tube(rim, 0.045, 10), cover)
    item.add(
        cushion(2 * radius - 0.06, 2 * radius - 0.04, 0.2, 3), cover, (0, -0.03, height - 0.14)
    )
    item.add(cylinder(radius - 0.02, height - 0.2, sides=24), cover, (0, 0, 0.12))
    for turn in np.pi / 4 + np.pi / 2 * np.arange(4):
        item.add(
            cylinder(0.012, 0.13, 0.02, 8), wood(rng), (0.25 * np.cos(turn), 0.25 * np.sin(turn), 0)
        )
    return item


def _duvet(rng, width: float, length: float) -> np.ndarray:
    """Grid of points of a blanket that hangs over both sides and lies in folds."""
    x = np.linspace(-width / 2 - 0.3, width / 2 + 0.3, 29)
    y = np.linspace(-length / 2 - 0.05, length / 2, 33)
    over = np.clip(np.abs(x) - width / 2, 0, None)[:, None]
    folds = sum(
        rng.uniform(0.003, 0.012)
        * np.sin(rng.uniform(-9, 9) * x[:, None] + rng.uniform(-9, 9) * y[None] + rng.uniform(0, 6))
        for _ in range(5)
    )
    px = np.clip(x, -width / 2 - 0.03, width / 2 + 0.03)[:, None] + 0 * y[None] + folds * (over > 0)
    return np.stack([px, y[None] + 0 * x[:, None], 0.03 + np.abs(folds) - over], 2)


def bed(rng) -> Item:
    """Frame or box spring, mattress, pillows, a duvet thrown over, with or without a headboard."""
    item = Item("bed")
    width = rng.choice([0.9, 1.2, 1.4, 1.6, 1.8]) * rng.uniform(0.98, 1.03)
    length, height = rng.uniform(1.95, 2.1), rng.uniform(0.22, 0.4)
    frame = fabric(rng) if (boxspring := rng.random() < 0.35) else board(rng)
    if boxspring:
        item.add(slab(width, length, height - 0.06, 0.02), frame, (0, 0, 0.06))
    else:
        for sx in (-1, 1):
            item.add(box(0.03, length, 0.16), frame, (sx * width / 2, 0, height - 0.12))
            for sy in (-1, 1):
                item.add(
                    box(0.06, 0.06, height),
                    frame,
                    (sx * (width / 2 - 0.02), sy * (length / 2 - 0.03), 0),
                )
        item.add(box(width, length, 0.03), frame, (0, 0, height - 0.08))
        if rng.random() < 0.5:
            item.add(
                slab(width + 0.06, 0.04, rng.uniform(0.2, 0.5)),
                frame,
                (0, -length / 2 - 0.02, height - 0.15),
            )
    thick = rng.uniform(0.16, 0.26)
    item.add(slab(width - 0.02, length - 0.02, thick, 0.04), fabric(rng), (0, 0, height))
    top = height + thick
    if rng.random() < 0.85:
        rise = rng.uniform(0.3, 0.75)
        style, back = rng.integers(3), length / 2 + 0.03
        if style == 0:
            item.add(slab(width + 0.06, 0.05, top + rise - 0.1, 0.01), frame, (0, back, 0.1))
        elif style == 1:
            item.add(cushion(width + 0.04, 0.12, rise + 0.2, 8), fabric(rng), (0, back, top - 0.2))
            item.add(box(width, 0.05, top), frame, (0, back, 0))
        else:
            for z in (top, top + rise):
                item.add(box(width, 0.04, 0.05), frame, (0, back, z))
            for x in np.linspace(-width / 2, width / 2, int(width / 0.12)):
                item.add(cylinder(0.012, rise, sides=8), frame, (x, back, top))
            item.add(box(width, 0.04, top), frame, (0, back, 0))
    linen = fabric(rng)
    for x in [0.0] if width < 1.1 else [-width / 4, width / 4]:
        at = (x + rng.normal(0, 0.02), length / 2 - 0.25, top - 0.02)
        item.add(
            cushion(min(0.7, 0.46 * max(width, 1.4)), 0.45, 0.16, 3),
            linen,
            at,
            yaw=rng.normal(0, 0.1),
            pitch=0.15,
        )
    covered = length * rng.uniform(0.5, 0.75)
    item.add(
        sheet(_duvet(rng, width, covered)), fabric(rng), (0, -(length - covered) / 2, top + 0.02)
    )
    return item


# ---------------------------------------------------------------- cabinets


def _handle(item: Item, rng, material, at, tall: bool, style: int) -> None:
    """Knob or bar on a front; ``at`` lies on the front."""
    x, y, z = at
    if style == 0:
        item.add(cushion(0.03, 0.03, 0.03, 2), material, (x, y - 0.015, z - 0.015))
        return
    span = np.array([0, 0, 1]) if tall else np.array([1, 0, 0])
    half = 0.07 * span
    start = np.array([x, y, z])
    out = np.array([0, -0.03, 0])
    path = start + np.stack([-half, -half + out, half + out, half])
    item.add(tube(path, 0.006, 6), material)


def _front(item: Item, rng, width, height, material, at, framed: bool) -> None:
    """Door or drawer front standing 2 mm proud of its neighbours' gap."""
    item.add(box(width - 0.006, 0.018, height - 0.006), material, at)
    if framed and min(width, height) > 0.2:
        x, y, z = at
        rail = 0.06
        for up in (0.003, height - rail - 0.003):
            item.add(box(width - 0.006, 0.012, rail), material, (x, y - 0.014, z + up))
        for sx in (-1, 1):
            item.add(
                box(rail, 0.012, height - 0.006),
                material,
                (x + sx * (width - rail - 0.006) / 2, y - 0.014, z),
            )


def _drawers(
    item: Item, rng, width, depth, height, body, grip, at, rows: int, columns: int = 1
) -> None:
    """Chest of drawers; some are pulled out a little."""
    x, y, z = at
    style, framed = rng.integers(2), rng.random() < 0.3
    item.add(box(width, depth, height), body, at)
    for row in range(rows):
        for column in range(columns):
            cx = x + (column - (columns - 1) / 2) * width / columns
            cz, each = z + row * height / rows, height / rows
            out = rng.uniform(0.03, 0.15) if rng.random() < 0.06 else 0.0
            front = y - depth / 2 - 0.009 - out
            _front(item, rng, width / columns, each, body, (cx, front, cz), framed)
            if out:
                item.add(
                    box(width / columns - 0.04, out, each - 0.05),
                    body,
                    (cx, front + out / 2, cz + 0.02),
                )
            _handle(item, rng, grip, (cx, front - 0.01, cz + 0.6 * each), False, style)


def _doors(item: Item, rng, width, depth, height, body, front, grip, at, columns: int) -> None:
    """Closed cupboard; a door may stand ajar."""
    x, y, z = at
    style, framed = rng.integers(2), rng.random() < 0.4
    each = width / columns
    item.add(box(width, depth, height), body, at)
    for column in range(columns):
        cx = x + (column - (columns - 1) / 2) * each
        side = 1 if column % 2 == 0 else -1
        if columns == 1:
            side = rng.choice([-1, 1])
        if rng.random() < 0.08 and height > 0.4:  # ajar: hinged on the outer edge
            turn = -side * rng.uniform(0.3, 1.0)
            hinge = np.array([cx - side * each / 2, y - depth / 2 - 0.009, z])
            offset = side * each / 2 * np.array([np.cos(turn), np.sin(turn), 0])
            item.add(box(each - 0.006, 0.018, height - 0.006), front, hinge + offset, yaw=turn)
            continue
        _front(item, rng, each, height, front, (cx, y - depth / 2 - 0.009, z), framed)
        grip_z = z + (0.5 * height if height > 1.2 else 0.75 * height)
        _handle(
            item,
            rng,
            grip,
            (cx + side * (each / 2 - 0.05), y - depth / 2 - 0.02, grip_z),
            True,
            style,
        )


def _books(item: Item, rng, width, depth, clearance, at) -> None:
    """A row of books, some leaning, some lying in a pile."""
    x, y, z = at
    cursor, end = -width / 2, -width / 2 + width * rng.uniform(0.35, 1.0)
    while cursor < end - 0.05:
        if rng.random() < 0.06:
            pile = min(rng.uniform(0.18, 0.26), end - cursor)
            up = z
            for _ in range(rng.integers(2, 6)):
                thick = rng.uniform(0.015, 0.05)
                if up + thick - z > clearance - 0.03:
                    break
                at_pile = (x + cursor + pile / 2, y - 0.01, up)
                item.add(box(pile, 0.17, thick), paper(rng), at_pile, yaw=rng.normal(0, 0.06))
                up += thick
            cursor += pile + 0.02
            continue
        thick, tall = rng.uniform(0.014, 0.055), min(rng.uniform(0.17, 0.33), clearance - 0.02)
        deep = min(rng.uniform(0.12, 0.24), depth - 0.02)
        lean = rng.uniform(-0.25, -0.1) if rng.random() < 0.05 else 0.0
        front = y - depth / 2 + deep / 2 + rng.uniform(0.005, 0.04)
        item.add(box(thick, deep, tall), paper(rng), (x + cursor + thick / 2, front, z), roll=lean)
        cursor += thick + 0.001 - 0.4 * tall * np.sin(lean)


def bookcase(rng) -> Item:
    """Open shelves with books and free places for other things; some with doors below."""
    item, body = Item("cabinet"), board(rng)
    columns = rng.integers(1, 4)
    each, depth, height = rng.uniform(0.42, 0.85), rng.uniform(0.26, 0.4), rng.uniform(0.8, 2.2)
    width, board_thick = columns * each, rng.uniform(0.016, 0.03)
    rows = max(2, round((height - 0.08) / rng.uniform(0.3, 0.42)))
    levels = np.linspace(0.07, height - board_thick, rows + 1)
    for x in np.linspace(-width / 2, width / 2, columns + 1):
        item.add(box(board_thick, depth, height), body, (x, 0, 0))
    for z in levels:
        item.add(box(width, depth, board_thick), body, (0, 0, z))
    if rng.random() < 0.75:
        item.add(box(width, 0.006, height), body, (0, depth / 2, 0))
    closed = rng.random() < 0.3
    for row in range(rows):
        clearance = levels[row + 1] - levels[row] - board_thick
        for column in range(columns):
            at = ((column - (columns - 1) / 2) * each, 0, levels[row] + board_thick)
            if closed and row == 0:
                front = (at[0], -depth / 2 - 0.009, levels[0])
                _front(item, rng, each, clearance + board_thick, body, front, False)
            elif rng.random() < 0.68:
                _books(item, rng, each - 0.04, depth, clearance, at)
            else:
                item.top(each - 0.08, depth - 0.06, at[2], x=at[0], clearance=clearance - 0.02)
    item.top(width - 0.05, depth - 0.05, height, clearance=0.4)
    return item


def wardrobe(rng) -> Item:
    """Tall, with hinged or sliding doors."""
    item, body = Item("cabinet"), board(rng)
    front = body if rng.random() < 0.6 else board(rng)
    doors = rng.integers(2, 5)
    width, depth, height = (
        doors * rng.uniform(0.45, 0.55),
        rng.uniform(0.52, 0.65),
        rng.uniform(1.85, 2.3),
    )
    if rng.random() < 0.3:  # sliding: overlapping leaves, one of them a mirror on some
        item.add(box(width, depth, height), body)
        leaves = 2 if doors < 4 else 3
        glassy = rng.integers(leaves) if rng.random() < 0.4 else -1
        for index in range(leaves):
            at = (
                (index - (leaves - 1) / 2) * width / leaves,
                -depth / 2 - 0.012 - 0.025 * (index % 2),
                0.05,
            )
            item.add(
                box(width / leaves + 0.03, 0.02, height - 0.1),
                mirror(rng) if index == glassy else front,
                at,
            )
        return item.top(width - 0.1, depth - 0.1, height, clearance=0.4)
    plinth = rng.uniform(0.04, 0.1)
    item.add(box(width - 0.02, depth - 0.05, plinth), body)
    low = rng.choice([0.0, 0.0, 0.4])
    if low:
        _drawers(
            item, rng, width, depth, low, front, metal(rng), (0, 0, plinth), 2, max(1, doors // 2)
        )
    _doors(
        item,
        rng,
        width,
        depth,
        height - plinth - low,
        body,
        front,
        metal(rng),
        (0, 0, plinth + low),
        doors,
    )
    return item.top(width - 0.1, depth - 0.1, height, clearance=0.4)


def sideboard(rng, height: float | None = None) -> Item:
    """Low and long: doors, drawers or open bays, on legs or on a plinth."""
    item, body = Item("cabinet"), board(rng)
    grip, front = metal(rng), body if rng.random() < 0.6 else board(rng)
    columns = rng.integers(2, 5)
    each, depth = rng.uniform(0.4, 0.55), rng.uniform(0.36, 0.48)
    width, total = columns * each, height or rng.uniform(0.65, 0.95)
    foot = rng.uniform(0.04, 0.2)
    _legs(item, rng, width, depth, foot, metal(rng) if rng.random() < 0.4 else body)
    for column in range(columns):
        at = ((column - (columns - 1) / 2) * each, 0, foot)
        kind = rng.integers(3)
        if kind == 0:
            _doors(item, rng, each, depth, total - foot - 0.02, body, front, grip, at, 1)
        elif kind == 1:
            _drawers(
                item, rng, each, depth, total - foot - 0.02, front, grip, at, rng.integers(2, 4)
            )
        else:
            clear = (total - foot - 0.02) / 2
            for sx in (-1, 1):
                item.add(
                    box(0.016, depth, 2 * clear), body, (at[0] + sx * (each - 0.016) / 2, 0, foot)
                )
            item.add(box(each, 0.008, 2 * clear), body, (at[0], depth / 2 - 0.005, foot))
            for z in (foot, foot + clear):
                item.add(box(each, depth, 0.016), body, (at[0], 0, z))
                item.top(each - 0.1, depth - 0.08, z + 0.016, x=at[0], clearance=clear - 0.04)
    item.add(slab(width + 0.02, depth + 0.01, 0.022, 0.004), body, (0, -0.005, total - 0.022))
    return item.top(width - 0.08, depth - 0.06, total, clearance=0.8)


def tv_bench(rng) -> Item:
    """A sideboard at sitting height."""
    return sideboard(rng, rng.uniform(0.4, 0.55))


def chest(rng) -> Item:
    """Chest of drawers, from a nightstand's size up to a tallboy."""
    item, body = Item("cabinet"), board(rng)
    rows, width, depth = rng.integers(3, 6), rng.uniform(0.5, 1.2), rng.uniform(0.4, 0.5)
    height, foot = rows * rng.uniform(0.17, 0.24), rng.uniform(0.02, 0.12)
    _legs(item, rng, width, depth, foot, body)
    _drawers(
        item,
        rng,
        width,
        depth,
        height,
        body,
        metal(rng),
        (0, 0, foot),
        rows,
        1 if width < 0.8 else 2,
    )
    item.add(slab(width + 0.03, depth + 0.03, 0.022, 0.005), body, (0, -0.01, foot + height))
    return item.top(width - 0.06, depth - 0.06, foot + height + 0.022, clearance=0.8)


def nightstand(rng) -> Item:
    """Small chest beside a bed."""
    item, body = Item("cabinet"), board(rng)
    width, depth, foot = rng.uniform(0.36, 0.52), rng.uniform(0.34, 0.42), rng.uniform(0.03, 0.22)
    height = rng.uniform(0.45, 0.62) - foot
    _legs(item, rng, width, depth, foot, body)
    _drawers(item, rng, width, depth, height, body, metal(rng), (0, 0, foot), rng.integers(1, 4))
    return item.top(width - 0.06, depth - 0.06, foot + height, clearance=0.8)


def filing_cabinet(rng) -> Item:
    """Metal office cabinet with drawers, or lockers."""
    item, body = Item("cabinet"), metal(rng)
    columns = rng.integers(1, 4)
    width, depth, height = (
        0.42 * columns,
        rng.uniform(0.45, 0.6),
        rng.choice([0.7, 1.05, 1.35, 1.8]),
    )
    if height > 1.5:
        _doors(
            item, rng, width, depth, height - 0.05, body, body, metal(rng), (0, 0, 0.05), columns
        )
    else:
        _drawers(
            item,
            rng,
            width,
            depth,
            height,
            body,
            metal(rng),
            (0, 0, 0.02),
            round(height / 0.33),
            columns,
        )
    return item.top(width - 0.06, depth - 0.1, height, clearance=0.5)


def kitchen_run(rng, width: float) -> Item:
    """Base units under a worktop with sink and tap, wall units above, an oven among them."""
    item, body = Item("cabinet"), board(rng)
    front, stone, grip = board(rng), board(rng), metal(rng)
    depth, height = 0.58, rng.uniform(0.84, 0.9)
    units = max(2, round(width / 0.6))
    each = width / units
    item.add(box(width, depth - 0.06, 0.1), body, (0, 0.03, 0))
    oven = rng.integers(units)
    for unit in range(units):
        at = ((unit - (units - 1) / 2) * each, 0, 0.1)
        if unit == oven:
            item.add(box(each, depth, height - 0.1), body, at)
            item.add(
                box(each - 0.02, 0.02, 0.56),
                screen(rng),
                (at[0], -depth / 2 - 0.01, 0.16),
                label="clutter",
            )
            bar = np.array([[-0.22, 0, 0], [-0.22, -0.05, 0], [0.22, -0.05, 0], [0.22, 0, 0]])
            item.add(tube(bar, 0.01), grip, (at[0], -depth / 2 - 0.02, 0.66), label="clutter")
        elif rng.random() < 0.4:
            _drawers(item, rng, each, depth, height - 0.1, front, grip, at, 3)
        else:
            _doors(item, rng, each, depth, height - 0.1, body, front, grip, at, 1)
    item.add(slab(width, depth + 0.04, 0.035, 0.006), stone, (0, -0.02, height))
    sink = rng.uniform(-0.3, 0.3) * width
    steel = metal(rng)
    item.add(slab(0.5, 0.4, 0.012, 0.004), steel, (sink, -0.02, height + 0.033))
    tap = np.array([[0, 0, 0], [0, 0, 0.22], [0, -0.05, 0.29], [0, -0.13, 0.29], [0, -0.16, 0.24]])
    item.add(tube(tap, 0.013), steel, (sink, depth / 2 - 0.08, height + 0.03))
    for low, high in ((-width / 2, sink - 0.3), (sink + 0.3, width / 2)):
        if high - low > 0.3:
            item.top(
                high - low - 0.06, depth - 0.12, height + 0.035, x=(low + high) / 2, clearance=0.45
            )
    if rng.random() < 0.8:
        skip = rng.integers(-1, units)
        for unit in range(units):
            if unit == skip:
                continue
            at = ((unit - (units - 1) / 2) * each, depth / 2 - 0.17, height + 0.57)
            _doors(item, rng, each, 0.34, 0.68, body, front, grip, at, 1)
    return item


def appliance(rng) -> Item:
    """Refrigerator, washing machine or printer on a stand: box-like, but clutter."""
    item, body = Item("clutter"), plastic(rng) if rng.random() < 0.6 else metal(rng)
    if rng.random() < 0.6:
        height, split = rng.uniform(1.4, 1.9), rng.uniform(0.3, 0.65)
        item.add(slab(0.6, 0.56, height, 0.012), body)
        for low, high in ((0.02, split * height), (split * height, height)):
            item.add(slab(0.59, 0.05, high - low - 0.012, 0.012), body, (0, -0.31, low))
            _handle(item, rng, metal(rng), (0.24, -0.335, (low + high) / 2), True, 1)
        return item
    item.add(slab(0.6, 0.55, 0.85, 0.01), body)
    item.add(
        lathe([(0.2, 0), (0.19, 0.03), (0.14, 0.04)], 28),
        metal(rng),
        (0, -0.275, 0.4),
        pitch=np.pi / 2,
    )
    item.add(
        lathe([(0.14, 0), (0.1, -0.06), (0.02, -0.08)], 28),
        screen(rng),
        (0, -0.3, 0.4),
        pitch=np.pi / 2,
    )
    item.add(box(0.56, 0.01, 0.1), plastic(rng), (0, -0.28, 0.73))
    return item
