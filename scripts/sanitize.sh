#!/usr/bin/env bash
# Builds csrc with AddressSanitizer and UndefinedBehaviorSanitizer, and runs the tests and the fuzz
# target of the ops on it in build/sanitize/tree. PYTHON is a Python with torch, cmake, ninja and
# pytest; MINUTES is the duration of fuzzing. Leaks are not detected, because Python and PyTorch keep
# memory until the process ends.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(realpath -s "${PYTHON:-.venv/bin/python}")
export PATH="$(dirname "$python"):$PATH" KPDEFORM_SHARED="${KPDEFORM_SHARED:-$(realpath ../shared)}"
cmake -S csrc -B build/sanitize -G Ninja -DCMAKE_BUILD_TYPE=Debug -DKPDEFORM_CUDA=OFF \
  -DKPDEFORM_SANITIZE=address,undefined -DPython_EXECUTABLE="$python" >/dev/null
cmake --build build/sanitize
tree=build/sanitize/tree
rm -rf $tree && mkdir $tree
cp -r kpdeform tests pyproject.toml $tree && cp build/sanitize/_C.so $tree/kpdeform/
cd $tree
export LD_PRELOAD="$(g++ -print-file-name=libasan.so):$(g++ -print-file-name=libstdc++.so)"
# pytest captures what a dying process prints, so the reports go to files.
reports=$PWD/reports && mkdir $reports
export ASAN_OPTIONS=log_path=$reports/asan:detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=6000
export UBSAN_OPTIONS=log_path=$reports/ubsan:print_stacktrace=1 OMP_WAIT_POLICY=PASSIVE
trap 'cat $reports/*' ERR
export PYTHONPATH="$PWD" # before an installed kpdeform
# Not how soon Ctrl-C is heard: sanitized code takes several times as long.
"$python" -m pytest -q -p no:cacheprovider -m "not slow and not cuda" \
  --ignore=tests/ops/test_interrupt.py ${TESTS:-tests/ops}
"$python" -m tests.fuzz ops --minutes "${MINUTES:-2}"
