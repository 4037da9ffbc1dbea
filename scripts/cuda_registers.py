#!/usr/bin/env python3
"""Prints registers, stack and spills of every CUDA kernel, as Markdown.

    python scripts/cuda_registers.py --architecture sm_80

Compiles csrc for one architecture with `-Xptxas -v`, which takes about two minutes. Needs nvcc and
c++filt.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

import torch

CSRC = Path(__file__).resolve().parents[1] / "csrc"
KERNEL = re.compile(
    r"Compiling entry function '(\w+)'.*?"
    r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads.*?"
    r"Used (\d+) registers",
    re.DOTALL,
)


def main() -> None:
    """Reads the command line and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architecture", default="sm_80")
    options = parser.parse_args()
    print(f"# Registers of the CUDA kernels, {options.architecture}\n")
    print(f"* command: `python scripts/cuda_registers.py {' '.join(sys.argv[1:])}`")
    print(f"* compiler: {compiler()}\n")
    print("| file | kernel | registers | stack | spilled |\n|---|---|---|---|---|")
    for source in sorted(CSRC.glob("*/*_cuda.cu")):
        for name, registers, stack, spilled in kernels(source, options.architecture):
            print(f"| {source.stem} | `{name}` | {registers} | {stack} | {spilled} |", flush=True)


def kernels(source: Path, architecture: str) -> list[tuple[str, int, int, int]]:
    """Name, registers, bytes of stack and bytes spilled of kpdeform's kernels in a file."""
    include = Path(torch.__file__).parent / "include"
    command = [
        "nvcc", "-O3", "-std=c++20", "--expt-relaxed-constexpr", "-Xptxas", "-v", "-cubin",
        f"-arch={architecture}", "-DTORCH_TARGET_VERSION=0x020a000000000000", "-isystem",
        str(include), "-I", str(CSRC), str(source), "-o", "/dev/null",
    ]  # fmt: skip
    text = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    rows = []
    for mangled, stack, stores, loads, registers in KERNEL.findall(text):
        name = plain(mangled)
        if "kpdeform" in mangled and "cub" not in name:
            rows.append((name, int(registers), int(stack), int(stores) + int(loads)))
    return sorted(rows)


def plain(mangled: str) -> str:
    """The demangled name of a kernel, with its template arguments."""
    name = subprocess.run(["c++filt", mangled], check=True, capture_output=True, text=True).stdout
    name = re.sub(r"\(anonymous namespace\)::|kpdeform::|c10::", "", name.strip())
    return name.removeprefix("void ").split("(")[0]


def compiler() -> str:
    """The version of nvcc: the last line of ``nvcc --version``."""
    text = subprocess.run(["nvcc", "--version"], check=True, capture_output=True, text=True).stdout
    return text.strip().splitlines()[-1]


if __name__ == "__main__":
    main()
