"""Finds the files of every split of a folder, and names their scenes."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from kpdeform.data import values
from kpdeform.data.files import SUFFIXES, walk_files
from kpdeform.data.recipe import warn

FOLDERS = ("train", "val", "test")


@dataclass
class Layout:
    """Files of every split.

    Attributes:
        files: Paths by split, in order.
        named: The files that were listed by name, not found by a pattern.
    """

    files: dict[str, list[Path]]
    named: set[Path] = field(default_factory=set)


def find_files(raw: Path, splits: Mapping[str, Sequence[str]], label_files: str = "") -> Layout:
    """Finds the files of every split by lists and patterns, or in the folders train, val and test.

    Symbolic links are followed. Hidden files are left out. Patterns have ``*``, ``?``, ``[a-c]``,
    and ``**`` for any number of folders. A name that exists is taken literally, and a folder stands
    for all files in it. Files that end with ``label_files`` belong to the clouds beside them.

    Raises:
        ValueError: A pattern matches nothing or leaves RAW, a file is in two splits, or there are
            no files.
    """
    if not raw.is_dir():
        raise ValueError(f"{raw}: no such folder")
    everything = {path: path.relative_to(raw).parts for path in walk_files(raw)}
    files = {p: parts for p, parts in everything.items() if p.suffix.lower() in SUFFIXES}
    if not splits:
        splits = {name: [name] for name in FOLDERS if (raw / name).is_dir()}
    if not splits:
        raise ValueError(
            f"{raw}: has none of the folders {FOLDERS}; make them, or list the files of every "
            'split (--split "train=*.laz", or "splits" in the configuration)'
        )
    layout = Layout({})
    owner: dict[Path, tuple[str, Path]] = {}
    for split, patterns in splits.items():
        matched = {path for pattern in patterns for path in _match(raw, split, pattern, files)}
        layout.named |= {raw / pattern for pattern in patterns} & matched
        for path in sorted(matched):
            other, twin = owner.setdefault(path.resolve(), (split, path))
            if other != split:
                raise ValueError(f"{path}: is in the splits {other} and {split}")
            if twin == path:  # the same file, found a second time
                layout.files.setdefault(split, []).append(path)
    used = {path for paths in layout.files.values() for path in paths}
    if label_files:
        used |= {path for path in everything if path.name.endswith(label_files)}
    _report_rest(raw, everything, used)
    return layout


def _match(
    raw: Path, split: str, pattern: str, files: Mapping[Path, tuple[str, ...]]
) -> list[Path]:
    where = f"split {split}: {pattern!r}"
    if Path(pattern).is_absolute():
        if not Path(pattern).is_relative_to(raw.absolute()):
            raise ValueError(f"{where} is not in {raw}; write it relative to this folder")
        pattern = Path(pattern).relative_to(raw.absolute()).as_posix()
    wanted = PurePosixPath(pattern).parts
    if ".." in wanted:
        raise ValueError(f"{where} must not leave {raw}; write it relative to this folder")
    if (raw / pattern).is_file():
        found = [path for path, parts in files.items() if parts == wanted]
    elif (raw / pattern).is_dir():
        found = [path for path, parts in files.items() if parts[: len(wanted)] == wanted]
    else:
        found = [path for path, parts in files.items() if _fits(wanted, parts)]
    if not found:
        raise ValueError(
            f"split {split}: nothing in {raw} matches {pattern!r} and is one of "
            f"{' '.join(sorted(SUFFIXES))}"
        )
    return found


def _fits(pattern: Sequence[str], parts: Sequence[str]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return _fits(pattern[1:], parts) or (bool(parts) and _fits(pattern, parts[1:]))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _fits(pattern[1:], parts[1:])


def _report_rest(raw: Path, everything: Mapping[Path, object], used: set[Path]) -> None:
    """Prints which files are not prepared."""
    real = {path.resolve() for path in used}
    rest = [path for path in everything if path.resolve() not in real]
    clouds = [path for path in rest if path.suffix.lower() in SUFFIXES]
    if clouds:
        shown = ", ".join(path.relative_to(raw).as_posix() for path in clouds[:3])
        more = f" and {len(clouds) - 3} more" if len(clouds) > 3 else ""
        cure = "--split train=PATTERN adds files"
        warn(f"{raw}: in no split, so not prepared: {shown}{more}; {cure}")
    others = Counter(path.suffix.lower() or path.name for path in rest if path not in clouds)
    if others:
        shown = ", ".join(f"{suffix} ({count})" for suffix, count in sorted(others.items()))
        print(f"{raw}: files of other kinds are left out: {shown}")


def scene_names(
    raw: Path, layout: Layout, chosen: Mapping[str, str] | None = None
) -> dict[Path, str]:
    """Names the scene of every file by its path below the folder of its split, without suffix.

    If several files of a split would have the same name, the names of all of them are their whole
    paths with suffix, with folders joined by ``--``. ``chosen`` names the scenes of some files, by
    the name of the file without its folders.
    """
    names: dict[Path, str] = {}
    for paths in layout.files.values():
        short = {path: _short_name(path.relative_to(raw)) for path in paths}
        count = Counter(name.casefold() for name in short.values())
        for path, name in short.items():
            long = "--".join(path.relative_to(raw).parts)
            names[path] = _shortened(name if count[name.casefold()] == 1 else long)
    return {path: (chosen or {}).get(path.name, name) for path, name in names.items()}


def _short_name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return "_".join(parts[1:] if len(parts) > 1 and parts[0] in FOLDERS else parts)


def _shortened(name: str) -> str:
    """Shortens a name that is too long for a folder, and appends a part of its hash."""
    if len(name.encode()) > values.LONGEST_NAME:
        digest = hashlib.sha256(name.encode()).hexdigest()[:12]
        name = name.encode()[: values.LONGEST_NAME - 13].decode(errors="ignore") + "-" + digest
    return "".join(c if c.isprintable() and c not in "/\\" else "_" for c in name)
