"""The report of a survey as tables, which the terminal and the page show alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kpdeform._optional import require
from kpdeform.data.asprs import name_of
from kpdeform.data.fields import COLORS
from kpdeform.inspection.survey import Attribute, Survey

_BARS = " ▁▂▃▄▅▆▇█"


@dataclass
class Table:
    """A table of texts.

    Attributes:
        title: Its title.
        columns: Titles of the columns.
        rows: Texts of every row.
    """

    title: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)


def tables_of(total: Survey) -> list[Table]:
    """The tables of a report: files, properties, attributes and labels.

    Args:
        total: The surveys of all files together, see :func:`kpdeform.inspection.survey.merge`.
    """
    tables = [_files(total), _properties(total), _attributes(total)]
    return [*tables, _labels(total)] if total.labels else tables


def _files(total: Survey) -> Table:
    columns = ("file", "format", "points", "extent x, y, z", "per square", "spacing", "coordinates")
    table = Table("Files", columns)
    shown = total.parts if len(total.parts) <= 40 else total.parts[:40]
    for survey in shown:
        table.rows.append((survey.path.name, *_file_cells(survey)))
    if len(shown) < len(total.parts):
        table.rows.append((f"and {len(total.parts) - len(shown)} more", *[""] * 6))
    if len(total.parts) > 1:
        table.rows.append((f"all {len(total.parts)}", "", *_file_cells(total)[1:]))
    return table


def _file_cells(survey: Survey) -> tuple[str, ...]:
    system = "" if survey.system is None else survey.system.name
    return (
        survey.format,
        f"{survey.num_points:,}",
        " x ".join(number(size) for size in survey.high - survey.low),
        number(survey.density),
        number(survey.spacing),
        system,
    )


def _properties(total: Survey) -> Table:
    unit = _unit(total)
    table = Table("Points", ("property", "value"))
    table.rows = [
        ("unit", unit or "not given; metres are assumed"),
        ("lowest x, y, z", ", ".join(number(value, 12) for value in total.low)),
        ("highest x, y, z", ", ".join(number(value, 12) for value in total.high)),
        ("points per square unit", f"{number(total.density)} (of ground that has points)"),
        ("spacing", f"{number(total.spacing)} (median distance to the nearest point)"),
        (
            "exact duplicates",
            f"{total.num_duplicates:,} of {total.num_seen:,} points"
            + ("" if total.num_seen >= total.num_points - total.num_bad else " looked at"),
        ),
        ("NaN or infinite coordinates", f"{total.num_bad:,} points"),
        ("stray points far from all others", f"{total.num_far:,} points"),
    ]
    return table


def _unit(survey: Survey) -> str:
    units = dict.fromkeys(p.system.unit if p.system else "" for p in survey.parts or [survey])
    return " and ".join(unit or "not given" for unit in units) if any(units) else ""


def _attributes(total: Survey) -> Table:
    columns = (
        "attribute",
        "type",
        "least",
        "1 %",
        "median",
        "99 %",
        "greatest",
        "NaN",
        "histogram",
    )
    table = Table("Attributes", columns)
    for attribute in total.attributes.values():
        low, _, median, _, high = attribute.quantiles()
        table.rows.append(
            (
                attribute.name,
                attribute.kind,
                *(number(v, 6) for v in (attribute.low, low, median, high, attribute.high)),
                f"{attribute.num_missing:,}" if attribute.num_missing else "",
                bars(attribute.histogram()[0]),
            )
        )
    return table


def _labels(total: Survey) -> Table:
    table = Table(f"Labels: {total.label_name}", ("label", "name", "points", "share", ""))
    count = max(total.labels.total(), 1)
    las = is_las(total)
    for label, points in sorted(total.labels.items()):
        name = name_of_label(label, las)
        share = points / count
        width = math.ceil(30 * share)
        table.rows.append((str(label), name, f"{points:,}", f"{share:.1%}", "█" * width))
    return table


def name_of_label(label: int, las: bool) -> str:
    """The name of a label, which files of other formats than LAS do not have."""
    return "no label (NaN or -1)" if label == -1 else name_of(label) if las else ""


def is_las(total: Survey) -> bool:
    """Whether the labels are codes of LAS files."""
    return total.label_name == "classification" and all(
        part.path.suffix.lower() in (".las", ".laz") for part in total.parts
    )


def remarks(total: Survey) -> list[str]:
    """Sentences on what is missing, or what needs care before a network learns from the files."""
    found = []
    if total.num_points == 0:
        return ["There are no points."]
    if total.label_name is None:
        choices = [a.name for a in total.attributes.values() if _may_be_labels(a)]
        named = f"; these may be labels: {', '.join(choices)} (--label)" if choices else ""
        found.append(f"There are no labels: a network cannot learn from these files{named}.")
    elif len(total.labels) == 1:
        found.append(f"All points have the label {next(iter(total.labels))}.")
    without = [p.path.name for p in total.parts if p.label_name is None]
    if without and total.label_name is not None:
        found.append(f"{_some(without)} without labels.")
    colors = [total.attributes[name] for name in COLORS if name in total.attributes]
    if not colors:
        found.append("There is no colour.")
    elif all(a.low == a.high == 0 for a in colors):
        found.append("Colour is zero everywhere: there is none.")
    if "intensity" not in total.attributes:
        found.append("There is no intensity.")
    for attribute in total.attributes.values():
        if attribute.name == "intensity" and attribute.low == attribute.high:
            found.append(f"intensity is {number(attribute.low)} everywhere: there is none.")
        if attribute.num_missing:
            found.append(
                f"{attribute.name} is NaN or infinite in {attribute.num_missing:,} points; "
                "prepare refuses it as a feature, or fills it in with --fill-nan."
            )
    lacking: dict[tuple[str, ...], list[str]] = {}  # attributes by the files that lack them
    for name in total.attributes:
        files = tuple(p.path.name for p in total.parts if name not in p.attributes)
        lacking.setdefault(files, []).append(name)
    found += [f"{_some(files)} without {', '.join(n)}." for files, n in lacking.items() if files]
    if total.num_bad:
        found.append(f"{total.num_bad:,} points have NaN or infinite coordinates; remove them.")
    wide = [part.path.name for part in total.parts if part.too_wide]
    if wide:
        found.append(f"{_some(wide)} too large for float32 coordinates; cut such files into tiles.")
    elif total.num_far:
        found.append(
            f"{total.num_far:,} points lie far from all others; prepare leaves them out with "
            "--drop-far."
        )
    if total.num_duplicates > 0.01 * total.num_seen:
        found.append(f"{total.num_duplicates / total.num_seen:.0%} of the points are duplicates.")
    found += _about_systems(total)
    found += _about_heights(total)
    return found


def _may_be_labels(attribute: Attribute) -> bool:
    whole = not attribute.kind.startswith("float")
    few = len(np.unique(attribute.sample[:100_000])) <= 64
    return whole and few and attribute.low < attribute.high


def _some(names: Sequence[str]) -> str:
    """Names of files, for the beginning of a sentence."""
    if len(names) == 1:
        return f"{names[0]} is"
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more} are"


def _about_systems(total: Survey) -> list[str]:
    systems = list(dict.fromkeys(p.system for p in total.parts))
    if len(systems) > 1:
        names = ", ".join(s.name if s else "none" for s in systems)
        return [f"The files have different coordinate systems: {names}."]
    system = systems[0] if systems else None
    if system is None:
        return []
    if system.unit == "degree":
        return ["x and y are in degrees; project the files to metres first."]
    heights = system.vertical_metres
    if system.metres and heights and abs(system.metres - heights) > 1e-6 * heights:
        return [
            f"x and y are in units of {system.metres:g} m, but z in units of {heights:g} m; "
            "convert z first."
        ]
    return []


def _about_heights(total: Survey) -> list[str]:
    """A remark if single points are far above or below all others, as birds and echoes are."""
    if not len(total.sample):
        return []
    low, high = np.quantile(total.sample[:, 2], (0.001, 0.999))
    margin = 2 * (high - low)
    if total.high[2] > high + margin or total.low[2] < low - margin:
        return [
            f"z reaches from {number(total.low[2])} to {number(total.high[2])}, but 99.8 % of the "
            f"points lie between {number(low)} and {number(high)}: look for stray points."
        ]
    return []


def bars(shares: np.ndarray) -> str:
    """A histogram as a line of block characters; empty if there is nothing to show.

    Example:
        >>> bars(np.array([0.5, 0.25, 0.0, 0.25]))
        '█▄ ▄'
    """
    top = shares.max(initial=0)
    if not top > 0:
        return ""
    heights = np.ceil(shares / top * (len(_BARS) - 1)).astype(int)
    return "".join(_BARS[height] for height in heights)


def number(value: float, digits: int = 4) -> str:
    """A number with some digits and, if it is large, with commas.

    Example:
        >>> number(0.13408793), number(6277500.0, 12), number(float("nan"))
        ('0.134', '6,277,500', '-')
    """
    if not math.isfinite(value):
        return "-"
    if value and abs(value) < 1e-4:
        return f"{value:.{digits}g}"
    whole = max(1, math.floor(math.log10(abs(value))) + 1) if value else 1
    text = f"{value:,.{max(0, digits - whole)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def print_tables(tables: Sequence[Table], sentences: Sequence[str] = ()) -> None:
    """Prints tables and sentences, with lines and colours only on a terminal."""
    console = make_console()
    box, Rich = require("rich.box", "io"), require("rich.table", "io").Table
    for table in tables:
        shown = Rich(
            title=table.title,
            title_justify="left",
            box=box.SIMPLE_HEAD if console.is_terminal else box.ASCII2,
        )
        for name in table.columns:
            shown.add_column(name, overflow="fold")
        for row in table.rows:
            shown.add_row(*map(_plain, row))
        console.print(shown)
    for sentence in sentences:
        console.print(f"- {sentence}", markup=False, highlight=False, soft_wrap=True)


def make_console() -> Any:
    """Makes a console of the library rich; it has 160 columns where output is not a terminal."""
    console = require("rich.console", "io").Console(highlight=False)
    if not console.is_terminal:
        console.width = 160
    return console


def _plain(text: str) -> Any:
    """A text in which rich does not look for markup."""
    return require("rich.text", "io").Text(text)
