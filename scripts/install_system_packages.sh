#!/usr/bin/env bash
# Installs the Debian/Ubuntu packages that Open3D needs to import and to render off screen, when any is missing.
set -eu
packages="libusb-1.0-0 libgl1 libegl1 libvulkan1 mesa-vulkan-drivers libgomp1"

if ! command -v dpkg-query >/dev/null; then
  echo "not a Debian system: make sure that Open3D's libraries are there ($packages)"
  exit 0
fi
missing=""
for package in $packages; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q "install ok installed" || missing="$missing $package"
done
[ -z "$missing" ] && exit 0

sudo=""
if [ "$(id -u)" != 0 ]; then
  if ! sudo -n true 2>/dev/null; then
    echo "missing system packages; install them for pictures of kernels:  sudo apt-get install$missing"
    exit 0
  fi
  sudo="sudo"
fi
echo "installing system packages:$missing"
$sudo apt-get update -qq
$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
