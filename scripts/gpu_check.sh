#!/usr/bin/env bash
# Does everything that needs a GPU in one command: build, tests, compute-sanitizer, benchmarks.
# It needs no package registry: PYTHON must have torch with CUDA, numpy, pytest, scikit-build-core,
# cmake and ninja, and nvcc must be on the PATH. What is missing is reported before the build.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
RESULTS=${RESULTS:-benchmarks/results}

say() { printf '\n== %s\n' "$*"; }
stop() { printf 'gpu-check: %s\n' "$*" >&2; exit 1; }

"$PYTHON" -c 'import torch' 2>/dev/null || stop "$PYTHON has no torch; set PYTHON=..."
"$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' ||
  stop "no GPU: torch.cuda.is_available() is False ($("$PYTHON" -c 'import torch; print(torch.__version__)'))"
for program in nvcc compute-sanitizer; do
  command -v "$program" >/dev/null || stop "$program is not on the PATH"
done
for module in pytest numpy scikit_build_core; do
  "$PYTHON" -c "import $module" 2>/dev/null || stop "$PYTHON has no $module"
done
for program in cmake ninja; do
  command -v "$program" >/dev/null || "$PYTHON" -c "import $program" 2>/dev/null ||
    stop "$program is neither on the PATH nor a module of $PYTHON"
done

ARCHITECTURE=$("$PYTHON" -c 'import torch; print("%d%d" % torch.cuda.get_device_capability())')
say "building for sm_$ARCHITECTURE"
TARGET=$(mktemp -d)
trap 'rm -rf "$TARGET"' EXIT
"$PYTHON" -m pip install --quiet --no-build-isolation --no-deps --no-index --target "$TARGET" \
  -Ccmake.define.KPDEFORM_CUDA=ON -Ccmake.define.KPDEFORM_WERROR=ON \
  -Ccmake.define.CMAKE_CUDA_ARCHITECTURES="$ARCHITECTURE" .
[ -e "$TARGET/kpdeform/_C_cuda.so" ] || stop "the CUDA library was not built"
# The installed package comes before the checkout: `-P` keeps the current folder off the path, and
# tests and benchmarks are found through links beside the package.
ln -s "$PWD/tests" "$PWD/benchmarks" "$TARGET/"
run() { PYTHONPATH="$TARGET" "$PYTHON" -P "$@"; }
test_options=(-m pytest -p no:cacheprovider --import-mode=importlib --rootdir "$PWD")

say "tests on the GPU"
# Files that need what the machine lacks (hypothesis, scipy) are left out by name.
mapfile -t files < <(find tests -name 'test_*.py' -exec grep -lwE 'device|cuda' {} + | sort)
for module in hypothesis scipy open3d lightning laspy; do
  "$PYTHON" -c "import $module" 2>/dev/null && continue
  mapfile -t without < <(grep -lE "^(import|from) $module" "${files[@]}" || true)
  [ "${#without[@]}" = 0 ] && continue
  printf 'no %s: leaving out %s\n' "$module" "${without[*]}"
  mapfile -t files < <(printf '%s\n' "${files[@]}" | grep -vxF -f <(printf '%s\n' "${without[@]}"))
done
run "${test_options[@]}" tests/native/test_cuda_library.py
run "${test_options[@]}" -m "cuda and not slow" "${files[@]}"

# Without torch's caching allocator, so that what lies beyond a tensor is nobody's. Calls that fail
# and are meant to (torch looks for symbols) are no errors.
for tool in memcheck racecheck initcheck; do
  say "compute-sanitizer $tool"
  options=(--tool "$tool" --error-exitcode 1 --kernel-regex kns=kpdeform --target-processes all)
  if [ "$tool" = memcheck ]; then options+=(--report-api-errors no); fi
  PYTHONPATH="$TARGET" PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer "${options[@]}" \
    "$PYTHON" -P "${test_options[@]}" -q -m cuda \
    tests/native/test_cuda_device.py tests/ops/test_precision.py
done

say "benchmarks"
run -m benchmarks.cuda --results "$RESULTS"
