#!/usr/bin/env python3
"""Prints registers, stack (where spills go) and shared memory of every CUDA kernel, as Markdown.

    python scripts/cuda_registers.py build/.../_C_cuda.so --architecture sm_80

Needs cuobjdump and cu++filt of the CUDA toolkit.
"""

import argparse
import re
import subprocess
from pathlib import Path

FUNCTION = re.compile(r"Function (\S+):\s*\n?\s*REG:(\d+) STACK:(\d+) SHARED:(\d+)")


def main() -> None:
    """Reads the command line and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library", type=Path)
    parser.add_argument("--architecture", default="sm_80")
    options = parser.parse_args()
    rows = usage(options.library, options.architecture)
    print(f"# Registers of the CUDA kernels, {options.architecture}\n")
    print(f"* command: `python scripts/cuda_registers.py {options.library}`")
    print(f"* compiler: {compiler()}")
    print("* stack holds what was spilled, and arrays that are indexed at run time\n")
    print("| kernel | registers | stack bytes |\n|---|---|---|")
    for name, registers, stack in rows:
        print(f"| `{name}` | {registers} | {stack} |")


def usage(library: Path, architecture: str) -> list[tuple[str, int, int]]:
    """Name, registers and bytes of stack of every kernel of ours."""
    command = ["cuobjdump", "-res-usage", "-arch", architecture, str(library)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = FUNCTION.findall(text)
    names = "\n".join(name for name, *_ in found)
    plain = subprocess.run(["cu++filt"], input=names, check=True, capture_output=True, text=True)
    rows = []
    for name, (_, registers, stack, _) in zip(plain.stdout.splitlines(), found, strict=True):
        if "kpdeform" in name:
            rows.append((shorten(name), int(registers), int(stack)))
    return sorted(rows)


def shorten(name: str) -> str:
    """Leaves kernel and template arguments."""
    name = re.sub(
        r"\(anonymous namespace\)::|<unnamed>::|kpdeform::|c10::|torch::headeronly::", "", name
    )
    name = re.sub(r"\((int|bool)\)", "", name)
    return name.removeprefix("void ").split(">(")[0].split("(")[0].rstrip(">") + (
        ">" if "<" in name else ""
    )


def compiler() -> str:
    """The last line that nvcc says about itself."""
    text = subprocess.run(["nvcc", "--version"], check=True, capture_output=True, text=True).stdout
    return text.strip().splitlines()[-1]


if __name__ == "__main__":
    main()
