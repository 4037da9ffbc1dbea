"""Builds the CUDA sources for the CPU (csrc/base/cuda_shim.h) and runs tests on them.

The library registers the CUDA implementation of every op in place of the CPU's, so that the tests
of the ops run the kernels, and their launches, without a GPU.
"""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"
FOLDER = ROOT / "build" / f"shim-torch{torch.__version__}"
TORCH = Path(torch.__file__).parent
COMPILE = [
    os.environ.get("CXX", "g++"), "-x", "c++", "-std=c++20", "-O1", "-fPIC", "-Wall", "-Wextra",
    "-Werror", "-Wno-unknown-pragmas", "-fno-strict-aliasing", "-fvisibility=hidden",
    "-ffp-contract=off",  # searches round every step
    "-U_FORTIFY_SOURCE",  # fibers jump between stacks
    "-DKPDEFORM_CUDA_SHIM", "-DTORCH_TARGET_VERSION=0x020a000000000000",
    "-isystem", str(TORCH / "include"), "-I", str(CSRC),
]  # fmt: skip
PREFIX = FOLDER / "prefix.h"  # what every source begins with, compiled once
LINK = ["-shared", "-L", str(TORCH / "lib"), "-ltorch", "-ltorch_cpu", "-lc10"]


def build() -> Path:
    """Compiles what has changed; returns the library."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    sources = sorted(CSRC.glob("*/*_cuda.cu"))
    newest_header = max(path.stat().st_mtime for path in CSRC.rglob("*.h"))
    precompiled = PREFIX.with_suffix(".h.gch")
    if not _is_newer(precompiled, newest_header):
        PREFIX.write_text('#include "base/cuda.h"\n')
        _run([COMPILE[0], "-x", "c++-header", *COMPILE[3:], str(PREFIX)], precompiled)
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        objects = list(pool.map(lambda source: _compile(source, newest_header), sources))
    library = FOLDER / "cuda_shim.so"
    if not _is_newer(library, max(path.stat().st_mtime for path in objects)):
        _run([COMPILE[0], *map(str, objects), *LINK, f"-Wl,-rpath,{TORCH / 'lib'}"], library)
    return library


def run_tests(*files: str, marked: str = "not cuda") -> None:
    """Runs tests on the library in a process of its own, those with a mark or all.

    Tests of what only the CPU's kernels owe are left out.
    """
    environment = {**os.environ, "KPDEFORM_SHIM": str(build())}
    marks = f"{marked} and not cuda and not cpu_only"
    options = ["-q", "-x", "--no-header", "-m", marks, "-p", "no:cacheprovider"]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *files],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-2000:]
    assert " passed" in result.stdout, result.stdout[-2000:]


def _compile(source: Path, newest_header: float) -> Path:
    target = FOLDER / f"{source.stem}.o"
    if not _is_newer(target, max(newest_header, source.stat().st_mtime)):
        _run([*COMPILE, "-include", str(PREFIX), "-c", str(source)], target)
    return target


def _run(command: list[str], target: Path) -> None:
    unfinished = target.with_suffix(f".{os.getpid()}")
    subprocess.run([*command, "-o", str(unfinished)], check=True)
    unfinished.rename(target)


def _is_newer(path: Path, time: float) -> bool:
    return path.exists() and path.stat().st_mtime > time
