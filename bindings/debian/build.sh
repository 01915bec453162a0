#!/usr/bin/env bash
# bindings/debian/build.sh [DIRECTORY]: the Debian packages libtelemetry0, libtelemetry-dev and telemetry-tools, into
# DIRECTORY (default dist), for the architecture and the libc of this machine.
#
# Packs what `make build` has left, in a tree of its own under target/deb. Version and symbols come from Cargo.toml and
# bindings/c/symbols.txt, the date from the last commit (or SOURCE_DATE_EPOCH): the same commit and binaries give the
# same bytes, wherever and by whomever it is run. Installs debhelper when it is missing.
set -euo pipefail
out=$(realpath -m "${1:-$(dirname "$0")/../../dist}")
cd "$(dirname "$0")/../.."

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
if ! command -v dh >/dev/null; then
    command -v apt-get >/dev/null || { echo "please install debhelper (Debian, Ubuntu)" >&2; exit 1; }
    export DEBIAN_FRONTEND=noninteractive
    as_root apt-get update -q
    as_root apt-get install -q -y --no-install-recommends debhelper
fi

# A pre-release sorts before its release: 0.2.0-rc.1 is Debian's 0.2.0~rc.1.
version=$(sed -n 's/^version = "\(.*\)"$/\1/p;T;q' Cargo.toml | tr - '~')
# Without a repository (an unpacked archive) the manifest is as old as the release.
: "${SOURCE_DATE_EPOCH:=$(git log -1 --format=%ct 2>/dev/null || stat -c %Y Cargo.toml)}"
TELEMETRY_SOURCE=$PWD
export TELEMETRY_SOURCE SOURCE_DATE_EPOCH
# Nothing of whoever calls us gets into the packages.
export LC_ALL=C.UTF-8 TZ=UTC
umask 022
unset DEB_BUILD_OPTIONS DEB_BUILD_PROFILES DH_OPTIONS MAKEFLAGS MAKELEVEL MFLAGS

mkdir -p target/deb
work=$(mktemp -d "$PWD/target/deb/build.XXXXXX")
trap 'rm -rf "$work"' EXIT
tree=$work/libtelemetry
mkdir "$tree"
cp README.md "$tree"
cp -r bindings/debian "$tree/debian"
rm "$tree/debian/build.sh"
for language in c cpp; do
    [ -d "bindings/$language/examples" ] || continue
    mkdir -p "$tree/examples/$language"
    # The sources, and not what somebody has built beside them.
    (cd "bindings/$language/examples" &&
        find . -type f \( -name '*.[ch]' -o -name '*.[ch]pp' -o -name CMakeLists.txt -o -name Makefile \) \
            -exec cp --parents -t "$tree/examples/$language" {} +)
done

maintainer=$(sed -n 's/^Maintainer: //p' bindings/debian/control)
cat >"$tree/debian/changelog" <<END
libtelemetry ($version) unstable; urgency=medium

  * Release $version. What is new stands in README.md, under "Changes".

 -- $maintainer  $(date -R -d "@$SOURCE_DATE_EPOCH")
END

# Every function counts as new in this version: telemetry_open refuses keys that it does not know, so a program needs at
# least the version that it was built with, whichever functions it calls.
{
    echo 'libtelemetry.so.0 libtelemetry0 #MINVER#'
    echo '* Build-Depends-Package: libtelemetry-dev'
    sed "s/.*/ &@Base $version/" bindings/c/symbols.txt
} >"$tree/debian/libtelemetry0.symbols"

# Nothing is compiled, so the compilers that Debian takes for granted are not asked for.
(cd "$tree" && dpkg-buildpackage --build=binary --no-sign --ignore-builtin-builddeps)

mkdir -p "$out"
# `apt install ./dist/*.deb` must not meet an older version.
for package in libtelemetry0 libtelemetry-dev telemetry-tools; do
    rm -f "$out/${package}"_*.deb
done
mv "$work"/*.deb "$out"
