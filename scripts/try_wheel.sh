#!/usr/bin/env bash
# try_wheel.sh WHEEL TORCH... runs smoke_test.py with a wheel and every one of these releases of torch,
# such as 2.10.0; "newest" is the latest that pip finds. Each gets a fresh virtual environment in a
# temporary folder, where nothing of the source tree can be imported. TESTS names tests to run there
# too, such as "tests/ops tests/nn". PYTHON makes the environments.
set -euo pipefail
wheel=$(realpath "$1")
shift
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}

try() ( # TORCH
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
  torch=torch==$1
  [ "$1" != newest ] || torch=torch
  "$python" -m venv "$folder/venv"
  run=$folder/venv/bin/python
  "$run" -m pip install --quiet --disable-pip-version-check "$torch" "${wheel}[io]"
  cp scripts/smoke_test.py "$folder"
  [ -z "${TESTS:-}" ] || cp -r tests pyproject.toml "$folder"
  export KPDEFORM_SHARED="${KPDEFORM_SHARED:-$(realpath ../shared)}"
  cd "$folder"
  "$run" smoke_test.py
  if [ -n "${TESTS:-}" ]; then
    "$run" -m pip install --quiet --disable-pip-version-check "pytest>=8" hypothesis scipy
    "$run" -m pytest -q -p no:cacheprovider -m "not slow and not cuda" $TESTS
  fi
)

for torch in "$@"; do
  printf '\n== %s\n' "trying $(basename "$wheel") with torch $torch"
  try "$torch"
done
