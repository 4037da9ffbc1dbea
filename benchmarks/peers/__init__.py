"""Peers without a Python package, compiled when their headers are there."""

import ctypes
import functools
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

FLAGS = ("-O3", "-march=native", "-fopenmp", "-std=c++17", "-shared", "-fPIC")


class Nanoflann(NamedTuple):
    """The K nearest within a radius, from nanoflann's tree on all threads."""

    version: str
    search: Callable[[np.ndarray, np.ndarray, float, int, int], np.ndarray]
    """``(queries, points, radius, width, threads)``; a radius of 0 means any distance."""


@functools.cache
def nanoflann_omp() -> Nanoflann | None:
    """None without g++ or nanoflann.hpp (Debian: libnanoflann-dev; or CPLUS_INCLUDE_PATH)."""
    if shutil.which("g++") is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "nanoflann_omp.so"
        source = Path(__file__).with_name("nanoflann_omp.cpp")
        build = subprocess.run(["g++", *FLAGS, str(source), "-o", str(library)], check=False)
        if build.returncode != 0:
            return None
        native = ctypes.CDLL(str(library))
    version = native.nanoflann_version()

    def search(
        queries: np.ndarray, points: np.ndarray, radius: float, width: int, threads: int
    ) -> np.ndarray:
        table = np.empty((len(queries), width), np.int32)
        native.neighbors(
            ctypes.c_void_p(queries.ctypes.data),
            ctypes.c_int64(len(queries)),
            ctypes.c_void_p(points.ctypes.data),
            ctypes.c_int64(len(points)),
            ctypes.c_float(radius),
            ctypes.c_int64(width),
            ctypes.c_int(threads),
            ctypes.c_void_p(table.ctypes.data),
        )
        return table

    return Nanoflann(f"{version >> 8:x}.{version >> 4 & 15:x}.{version & 15:x}", search)
