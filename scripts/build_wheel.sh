#!/usr/bin/env bash
# build_wheel.sh writes the source archive and the CPU wheel to dist/. The wheel is built from the
# archive, checked by check_wheel.py and given the right platform tag. PYTHON is a Python with torch,
# scikit-build-core, cmake, ninja and the packages of the dependency group "wheel".
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=$(realpath -s "${PYTHON:-.venv/bin/python}")
export PYTHON KPDEFORM_CUDA=OFF
rm -rf build/wheel dist
"$PYTHON" -m build --no-isolation --outdir build/wheel .
scripts/repair_wheel.sh build/wheel/*.whl dist
mv build/wheel/*.tar.gz dist
ls -l dist
