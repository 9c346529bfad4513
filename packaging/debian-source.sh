#!/bin/sh
# Makes the Debian source package of this tree in a directory (dist/debian): an archive of the
# source distribution, one of packaging/debian, and the .dsc that names both.
#
#     packaging/debian-source.sh [DIRECTORY]
#
# Build it anywhere with Debian's tools: dpkg-source -x vhost9p_*.dsc && cd vhost9p-* &&
# dpkg-buildpackage -b -us -uc. PYTHON is a Python with setuptools.
set -eu

cd "$(dirname "$0")/.."
out=${1:-dist/debian}
python=${PYTHON:-python3}
mkdir -p "$out"
out=$(cd "$out" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

"$python" -c 'import sys; sys.path.insert(0, "csrc"); import build
print(build.backend.build_sdist(sys.argv[1]), file=sys.stderr)' "$scratch" >/dev/null 2>"$scratch/log" || {
    cat "$scratch/log" >&2
    exit 1
}
sdist=$(cd "$scratch" && ls vhost9p-*.tar.gz)
version=$(basename "$sdist" .tar.gz)
version=${version#vhost9p-}
tar -xzf "$scratch/$sdist" -C "$scratch"
mv "$scratch/$sdist" "$out/vhost9p_$version.orig.tar.gz"
cp -a packaging/debian "$scratch/vhost9p-$version/debian"
cd "$out"
dpkg-source --build "$scratch/vhost9p-$version" >"$scratch/log" 2>&1 || {
    cat "$scratch/log" >&2
    exit 1
}
ls "$out"/vhost9p_*
