#!/usr/bin/env bash
# Does everything that needs a GPU, what teaches most first, within BUDGET seconds (560).
#
#   scripts/gpu_check.sh [stage ...]     on a machine with a GPU; all stages if none is named
#   scripts/gpu_check.sh --build-only    compiles the libraries, on any machine with nvcc
#   scripts/gpu_check.sh --dry-run       the stages in Python on the CPU, at small size
#
# PYTHON (python3) needs torch with CUDA, numpy and pytest; to compile also cmake and ninja.
# LIBRARIES (build/gpu) holds _C.so and _C_cuda.so, compiled for ARCHITECTURES (90). If they do not
# run on this machine, they are compiled for it. OUT (build/gpu-results) gets one text file per
# stage. Every stage has a time limit, and none stops the others. Stages that only check results run
# at the same time; those that measure time run alone.
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3} LIBRARIES=${LIBRARIES:-build/gpu} OUT=${OUT:-build/gpu-results}
BUDGET=${BUDGET:-560}
command -v "$PYTHON" >/dev/null || { echo "gpu-check: no program $PYTHON" >&2 && exit 2; }
PYTHON=$(realpath -s "$(command -v "$PYTHON")")
export KPDEFORM_LIBRARIES=$(realpath -m "$LIBRARIES") PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
export CUBLAS_WORKSPACE_CONFIG=:4096:8 # for deterministic algorithms
export OMP_WAIT_POLICY=PASSIVE         # stages that run at the same time share the cores
export PATH=$(dirname "$PYTHON"):$PATH:/usr/local/cuda/bin
for folder in /opt/nvidia/nsight-compute/*/; do PATH=$PATH:$folder; done

build() { # the architectures to compile for; none: those of this machine's GPUs
  cmake -S csrc -B "$LIBRARIES" -G Ninja -DCMAKE_BUILD_TYPE=Release -DKPDEFORM_CUDA=ON \
    -DPython_EXECUTABLE="$PYTHON" -DCMAKE_CUDA_ARCHITECTURES="${1:-}" &&
    cmake --build "$LIBRARIES"
}

dry=()
case ${1:-} in
  --build-only)
    build "${ARCHITECTURES:-90}" && ls -l "$LIBRARIES"/*.so
    exit
    ;;
  --dry-run) dry=(--dry-run) && shift ;;
esac

# ---- stages: what each one runs
smoke() { "$PYTHON" -m benchmarks.gpu.smoke "${dry[@]}"; }
kernels() { "$PYTHON" -m benchmarks.gpu.kernels "${dry[@]}"; }
network() { "$PYTHON" -m benchmarks.gpu.network "${dry[@]}"; }
others() { "$PYTHON" -m benchmarks.gpu.others "${dry[@]}"; }
tests() { # first the files with tests for a GPU: files of other parts may need missing packages
  local options=(-q -p no:cacheprovider -m "cuda and not slow") files workers=()
  mapfile -t files < <("$PYTHON" -m pytest "${options[@]}" --collect-only \
    --continue-on-collection-errors tests | sed -n 's/^\(tests[^:]*\.py\)::.*/\1/p' | sort -u)
  [ "${#files[@]}" -gt 0 ] || { echo "no test for a GPU was found" && return 1; }
  "$PYTHON" -c 'import xdist' 2>/dev/null && workers=(-n 6)
  OMP_NUM_THREADS=2 "$PYTHON" -m pytest "${options[@]}" --tb=short -rfE --maxfail=100 "${workers[@]}" "${files[@]}"
}
# Without torch's caching allocator, what lies beyond a tensor belongs to nobody. The filter is for
# speed; initcheck needs to see what every kernel writes.
sanitize() {
  local options=(--tool "$1" --report-api-errors no --print-limit 20 --error-exitcode 9)
  [ "$1" = initcheck ] || options+=(--kernel-regex kns=kpdeform)
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer "${options[@]}" \
    "$PYTHON" -m benchmarks.gpu.tiny
}
memcheck() { sanitize memcheck; }
racecheck() { sanitize racecheck; }
initcheck() { sanitize initcheck; }
counters() {
  local sections=() section
  for section in SpeedOfLight Occupancy LaunchStats WarpStateStats MemoryWorkloadAnalysis \
    InstructionStats; do
    sections+=(--section "$section")
  done
  ncu --clock-control none --launch-count 16 "${sections[@]}" -k \
    'regex:gather_kernel|site_gradients|depthwise|pool_kernel|pool_backward|radius_kernel' \
    "$PYTHON" -m benchmarks.gpu.tiny --large
}

declare -A limits=([smoke]=100 [tests]=200 [memcheck]=150 [racecheck]=150 [initcheck]=150
  [kernels]=120 [network]=90 [others]=60 [counters]=75)
checks=(smoke tests memcheck racecheck initcheck)
times=(kernels network others counters)
[ "${#dry[@]}" = 0 ] || { checks=(smoke) && times=(kernels network others); }
if [ $# -gt 0 ]; then # the named ones, in the order above
  for name in "$@"; do
    [ -n "${limits[$name]:-}" ] || { echo "gpu-check: no stage $name" >&2 && exit 2; }
  done
  named() { local name && for name in "$@"; do [[ $wanted == *" $name "* ]] && echo "$name"; done; }
  wanted=" $* "
  mapfile -t checks < <(named "${checks[@]}")
  mapfile -t times < <(named "${times[@]}")
fi

left() { echo $((BUDGET - SECONDS)); }
stage() { # runs a stage within its limit and the budget, and adds a line to the summary
  local name=$1 limit=${limits[$1]} began=$SECONDS code rest
  rest=$(($(left) - 5))
  [ "$limit" -le "$rest" ] || limit=$rest
  if [ "$limit" -lt 8 ]; then
    echo "$name: no time left" >>"$OUT/summary.txt"
    return
  fi
  timeout -k 5 "$limit" bash -c "$(declare -f sanitize "$name"); dry=(${dry[*]}); $name" \
    >"$OUT/$name.txt" 2>&1
  code=$?
  echo "$name: exit status $code after $((SECONDS - began)) s of $limit" >>"$OUT/summary.txt"
}

# ---- the machine and the libraries
usable() {
  "$PYTHON" -c 'from kpdeform._library import cuda_missing; import sys; sys.exit(cuda_missing())'
}
export PYTHON
mkdir -p "$OUT"
for name in "${checks[@]}" "${times[@]}"; do rm -f "$OUT/$name.txt"; done
{
  date && uname -a && nproc && git log -1 --format='commit %h %s'
  nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm,clocks.mem --format=csv
  ls -l "$LIBRARIES"/*.so
} >"$OUT/summary.txt" 2>&1
if [ "${#dry[@]}" = 0 ] && ! usable >>"$OUT/summary.txt" 2>&1; then
  echo "compiling for this machine" >>"$OUT/summary.txt"
  export -f build && export LIBRARIES
  timeout 240 bash -c build >"$OUT/build.txt" 2>&1
  usable >>"$OUT/summary.txt" 2>&1 || { cat "$OUT/summary.txt" && tail "$OUT/build.txt" && exit 1; }
  rm "$OUT/build.txt"
fi

# ---- run
for name in "${checks[@]}"; do stage "$name" & done
wait
for name in "${times[@]}"; do stage "$name"; done
for name in memcheck racecheck initcheck; do # one file, since few files may be brought home
  [ -e "$OUT/$name.txt" ] && cat "$OUT/$name.txt" >&3 && rm "$OUT/$name.txt"
done 3>"$OUT/sanitizer.txt"
[ -s "$OUT/sanitizer.txt" ] || rm "$OUT/sanitizer.txt"

# ---- what to read first
show() { # title, pattern, file
  [ -e "$OUT/$3.txt" ] || return 0
  printf '\n== %s\n' "$1"
  grep -aE "$2" "$OUT/$3.txt" | cut -c1-160 | tail -25
}
{
  show "wrong results" '^case.* (BAD|DIED)|^the process of' smoke
  show "tests" '^(FAILED|ERROR)|passed|failed' tests
  show "sanitizer" 'ERROR SUMMARY|RACECHECK SUMMARY|Invalid|Uninit|Race reported' sanitizer
  show "kpconv" '^###|TFLOP|GB/s|^\| step|twin / step' kernels
  show "networks" '^###|^\| (step|pyramid)|twins / step|launches|points per second' network
  show "other ops" '^###|radius_neighbors|torchvision' others
  printf '\nall took %s s\n' "$SECONDS"
} >>"$OUT/summary.txt"
cat "$OUT/summary.txt"
! grep -qE ': (exit status [1-9]|no time left)' "$OUT/summary.txt"
