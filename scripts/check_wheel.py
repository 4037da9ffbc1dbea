"""Checks that the libraries in a wheel use only the stable C interface of torch.

    python scripts/check_wheel.py dist/kpdeform-0.1.0-py3-none-linux_x86_64.whl

With a C++ symbol of torch, the wheel would work with one release of torch only. Prints the number
of imported symbols of each library, or prints the forbidden symbols and exits with status 1.
"""

import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from elftools.elf.elffile import ELFFile  # comes with auditwheel

STABLE = ("aoti_torch_", "torch_")  # C functions of the stable interface
UNSTABLE = ("3c10", "2at", "5torch")  # namespaces of torch in mangled C++ names


def imported_symbols(library: Path) -> Iterator[str]:
    """Yields the names of the symbols that a library imports from other libraries."""
    with library.open("rb") as file:
        symbols = ELFFile(file).get_section_by_name(".dynsym")
        for symbol in symbols.iter_symbols():
            if symbol["st_shndx"] == "SHN_UNDEF" and symbol.name:
                yield symbol.name


def is_unstable(name: str) -> bool:
    """Whether a symbol is a C++ name of torch, or a C name outside the stable interface."""
    if name.startswith("_Z"):
        return any(namespace in name for namespace in UNSTABLE)
    return "torch" in name and not name.startswith(STABLE)


def main() -> None:
    """Checks the wheel named on the command line."""
    if len(sys.argv) != 2:
        raise SystemExit("usage: check_wheel.py WHEEL")
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(sys.argv[1]) as wheel:
        wheel.extractall(folder)
        libraries = sorted(Path(folder, "kpdeform").glob("*.so"))
        if not libraries:
            raise SystemExit(f"{sys.argv[1]} holds no compiled library")
        for library in libraries:
            names = sorted(set(imported_symbols(library)))
            unstable = [name for name in names if is_unstable(name)]
            if unstable:
                raise SystemExit(f"{library.name} imports unstable symbols of torch: {unstable}")
            of_torch = [name for name in names if name.startswith(STABLE)]
            print(f"{library.name}: {len(names)} imports, {len(of_torch)} of torch, all stable")


if __name__ == "__main__":
    main()
