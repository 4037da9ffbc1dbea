#!/usr/bin/env bash
# Cross-compiles csrc for 64-bit ARM and runs the tests of the ops there, under emulation: NEON is not
# only compiled but run. Debian and Ubuntu only. Python and its libraries come from the distribution's
# arm64 packages (once: dpkg --add-architecture arm64 && apt-get update), torch from its arm64 wheel;
# nothing of them is installed. PYTHON is the Python that runs pip and cmake; TESTS are the arguments
# for pytest (all tests of ops take hours). Everything is kept in build/aarch64.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(realpath -s "${PYTHON:-.venv/bin/python}")
export PATH="$(dirname "$python"):$PATH"
for program in aarch64-linux-gnu-g++ qemu-aarch64 cmake ninja; do
  command -v $program >/dev/null || {
    echo "error: $program is missing; apt-get install g++-aarch64-linux-gnu qemu-user cmake ninja-build"
    exit 1
  }
done
build=$PWD/build/aarch64
root=$build/root
site=$build/site
mkdir -p "$build/debs" "$root"

if [ ! -e "$build/.packages" ]; then
  packages="python3.11-minimal libpython3.11-minimal libpython3.11-stdlib libc6 libstdc++6 libgcc-s1
    libgomp1 zlib1g libexpat1 libssl3 libffi8 libbz2-1.0 liblzma5 libsqlite3-0 libuuid1 libcrypt1"
  (cd "$build/debs" && apt-get download $(printf '%s:arm64 ' $packages))
  for package in "$build"/debs/*.deb; do dpkg-deb -x "$package" "$root"; done
  touch "$build/.packages"
fi
if [ ! -e "$build/.site" ]; then
  # torch 2.10 is the last one whose arm64 wheel does without CUDA. pip looks at this machine when it
  # decides what torch requires, so its requirements are named here.
  arm=(--quiet --target "$site" --only-binary :all: --python-version 311 --implementation cp
    --abi cp311 --abi abi3 --abi none --platform manylinux_2_28_aarch64
    --platform manylinux_2_17_aarch64 --platform manylinux2014_aarch64 --platform any)
  "$python" -m pip install "${arm[@]}" --no-deps torch==2.10.0
  "$python" -m pip install "${arm[@]}" typing_extensions filelock sympy networkx jinja2 fsspec numpy \
    pytest hypothesis safetensors "jsonargparse[signatures]"
  touch "$build/.site"
fi

cmake -S csrc -B "$build/cmake" -G Ninja -DCMAKE_BUILD_TYPE=Release -DKPDEFORM_CUDA=OFF \
  -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
  -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ -DPython_EXECUTABLE="$python" \
  -DKPDEFORM_TORCH="$site/torch" >/dev/null
cmake --build "$build/cmake"

tree=$build/tree
rm -rf "$tree" && mkdir "$tree"
cp -r kpdeform tests pyproject.toml "$tree" && cp "$build/cmake/_C.so" "$tree/kpdeform/"
cd "$tree"
export PYTHONHOME="$root/usr" PYTHONPATH="$tree:$site" PYTHONDONTWRITEBYTECODE=1
export KPDEFORM_SHARED="${KPDEFORM_SHARED:-$(realpath ../../../../shared)}"
arm() { qemu-aarch64 -L "$root" "$root/usr/bin/python3.11" "$@"; }
arm -c "import platform, kpdeform; print(platform.machine()); print(kpdeform.info())"
arm -m pytest -q -p no:cacheprovider -m "not slow and not cuda" ${TESTS:-tests/ops tests/nn}
