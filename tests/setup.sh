#!/usr/bin/env bash
# What the Python and server tests need: .venv with the pinned packages, the SDKs that the adapters are
# for in .venv/sdks, and Debian's servers.
# Does nothing when everything is there. PYTHON names the interpreter (default python3).
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

missing=()
need() { # need COMMAND-OR-FILE PACKAGE
    command -v "$1" >/dev/null 2>&1 || [ -e "$1" ] || missing+=("$2")
}
need gcc gcc
need g++ g++
need clang clang
need cmake cmake
need pkg-config pkgconf
need make make
need readelf binutils
need man man-db
need mandoc mandoc
need groff groff-base
need chromium chromium
need setpriv util-linux
need openssl openssl
need dh debhelper
need lintian lintian
need abidiff abigail-tools
need redis-server redis-server
need uwsgi-core uwsgi-core
need /usr/bin/dh_uwsgi uwsgi-dev # the headers that uWSGI's plugins are built with
need /usr/lib/uwsgi/plugins/python3_plugin.so uwsgi-plugin-python3
if ! "$python" -c 'import ensurepip' 2>/dev/null; then missing+=(python3-venv); fi
# uWSGI needs Python.h of the interpreter that makes .venv.
include=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
need "$include/Python.h" python3-dev

if [ ${#missing[@]} -gt 0 ]; then
    command -v apt-get >/dev/null || { echo "please install: ${missing[*]}" >&2; exit 1; }
    echo "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    as_root apt-get update -q
    # Debian may start a Redis of its own; the tests start theirs on another port.
    as_root apt-get install -q -y --no-install-recommends "${missing[@]}"
fi

stamp=.venv/.installed
want=$({ "$python" -V; cat tests/requirements.txt; } | sha256sum)
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }
if [ "$(cat "$stamp" 2>/dev/null)" != "$want" ]; then
    "$python" -m venv --clear .venv
    # From its cache, pip would take a uWSGI that was compiled for another build of this version.
    pip install -q --no-cache-dir "$(grep '^uWSGI==' tests/requirements.txt)"
    pip install -q -r tests/requirements.txt
    echo "$want" >"$stamp"
fi

# Directories and not environments: one interpreter, and one server, is run with either of them.
for age in newest year-old; do
    directory=.venv/sdks/$age
    want=$(sha256sum <"tests/sdks/$age.txt")
    if [ "$(cat "$directory/.installed" 2>/dev/null)" != "$want" ]; then
        rm -rf "$directory"
        pip install -q --target "$directory" -r "tests/sdks/$age.txt"
        echo "$want" >"$directory/.installed"
    fi
done
