#!/usr/bin/env bash
# Installs what `make build` has built, or takes it away again:
#
#   PREFIX=/usr/local DESTDIR= LIBDIR=/usr/local/lib OUT=target/release bindings/c/install.sh install|uninstall
#
# Invariants: builds nothing and downloads nothing, so it may run as root after a user's build. Each file is
# replaced whole under its name (a running program keeps the library that it has mapped). `files` is the one list
# of what there is: what install writes, uninstall removes, and nothing else. Below DESTDIR no other path is touched.
set -euo pipefail
umask 022
cd "$(dirname "$0")/../.."

PREFIX=${PREFIX:-/usr/local}
DESTDIR=${DESTDIR:-}
LIBDIR=${LIBDIR:-$PREFIX/lib}
OUT=${OUT:-target/release}
STRIP=${STRIP:-strip}

fail() { echo "install: $*" >&2; exit 1; }

for name in PREFIX LIBDIR; do
    case ${!name} in
        /*) ;;
        *) fail "$name must be an absolute path, and is '${!name}'" ;;
    esac
    case ${!name} in
        *[$'\n\\"@;|']*) fail "$name must not contain a line break or any of \\ \" @ ; | and is '${!name}'" ;;
    esac
done
[ -z "$DESTDIR" ] || DESTDIR=$(realpath -ms "$DESTDIR")
PREFIX=$(realpath -ms "$PREFIX")
LIBDIR=$(realpath -ms "$LIBDIR")

version=$(sed -n '/^\[package\]/,/^\[/s/^version = "\(.*\)"$/\1/p' Cargo.toml)
major=${version%%.*}
soname=libtelemetry.so.$major
file=libtelemetry.so.$version
docs=$PREFIX/share/doc/libtelemetry
cmake=$LIBDIR/cmake/telemetry

# Each line: how it is written; where; from what.
files() {
    cat <<END
library|$LIBDIR/$file|$OUT/libtelemetry.so
link|$LIBDIR/$soname|$file
link|$LIBDIR/libtelemetry.so|$soname
archive|$LIBDIR/libtelemetry.a|$OUT/libtelemetry.a
data|$PREFIX/include/telemetry.h|include/telemetry.h
data|$PREFIX/include/telemetry.hpp|bindings/cpp/telemetry.hpp
template|$LIBDIR/pkgconfig/telemetry.pc|bindings/c/telemetry.pc.in
template|$cmake/telemetry-config.cmake|bindings/c/telemetry-config.cmake.in
template|$cmake/telemetry-config-version.cmake|bindings/c/telemetry-config-version.cmake.in
program|$PREFIX/bin/telemetry|$OUT/telemetry
template|$PREFIX/share/man/man1/telemetry.1|bindings/c/man/telemetry.1
template|$PREFIX/share/man/man3/telemetry.h.3|bindings/c/man/telemetry.h.3
template|$PREFIX/share/man/man3/telemetry_fleet.3|bindings/c/man/telemetry_fleet.3
data|$docs/LICENSE|LICENSE
data|$docs/THIRD-PARTY-LICENSES.txt|$OUT/THIRD-PARTY-LICENSES.txt
END
}

# The way from a directory to PREFIX: relative where LIBDIR is below PREFIX, so that the tree may be moved.
to_prefix() { # to_prefix THE-DIRECTORY'S-NAME-IN-THE-FILE DIRECTORY
    case $LIBDIR/ in
        "$PREFIX"/*) echo "$1/$(realpath -ms --relative-to="$2" "$PREFIX")" ;;
        *) echo "$PREFIX" ;;
    esac
}

fill() { # fill TEMPLATE TO
    local pc_prefix pc_libdir text
    pc_prefix=$(to_prefix "\${pcfiledir}" "$LIBDIR/pkgconfig")
    pc_libdir="\${pcfiledir}/.."
    if [ "$PREFIX" = /usr ]; then
        # The system's own directories, by their names: pkg-config leaves those out, and puts a sysroot before them.
        pc_prefix=/usr pc_libdir=$LIBDIR
    fi
    text=$(cat "$1")
    text=${text//@VERSION@/$version}
    text=${text//@MAJOR@/$major}
    text=${text//@FILE@/$file}
    text=${text//@SONAME@/$soname}
    text=${text//@POINTER@/$pointer}
    text=${text//@PREFIX@/"${pc_prefix// /\\ }"}
    text=${text//@LIBDIR@/"${pc_libdir// /\\ }"}
    text=${text//@CMAKE_PREFIX@/"$(to_prefix "\${CMAKE_CURRENT_LIST_DIR}" "$cmake")"}
    printf '%s\n' "$text" >"$2"
}

# Puts a file under its name at one blow, when the command that makes it has done so.
place() { # place MODE NAME COMMAND...: the command gets a file's name to write to
    local mode=$1 name=$2
    shift 2
    mkdir -p "$(dirname "$name")"
    unfinished=$(mktemp -u "$(dirname "$name")/.telemetry-install.XXXXXX")
    "$@" "$unfinished"
    [ "$mode" = link ] || chmod "$mode" "$unfinished"
    mv -fT "$unfinished" "$name"
}
unfinished=
trap '[ -z "$unfinished" ] || rm -f "$unfinished"' EXIT

stripped() { # stripped FLAG FROM TO
    cp -T "$2" "$3"
    if command -v "$STRIP" >/dev/null; then "$STRIP" "$1" "$3"; fi
}

# Whether the loader finds libraries in LIBDIR by itself.
is_searched() { ldconfig -N -X -v 2>/dev/null | sed -n 's/^\(\/[^:]*\):.*/\1/p' | grep -xF "$LIBDIR" >/dev/null; }

# Tells the loader what came or went. Only on the machine itself, never below DESTDIR.
refresh() {
    [ -z "$DESTDIR" ] || return 0
    PATH=$PATH:/sbin:/usr/sbin
    command -v ldconfig >/dev/null || return 0
    if is_searched; then
        ldconfig 2>/dev/null || echo "note: run ldconfig as root, so that the loader sees $LIBDIR/$soname"
    elif [ "$1" = install ]; then
        echo "note: the loader does not search $LIBDIR: link programs with -Wl,-rpath,$LIBDIR, or run them with" \
            "LD_LIBRARY_PATH=$LIBDIR"
    fi
}

install_all() {
    local kind to from
    while IFS='|' read -r kind to from; do
        [ "$kind" = link ] || [ -r "$from" ] || fail "$from is missing: run 'make build' first"
    done < <(files)
    # Of the ELF file: 1 is 32 bits, 2 is 64.
    pointer=$(($(od -An -tu1 -j4 -N1 "$OUT/libtelemetry.so") * 4))
    while IFS='|' read -r kind to from; do
        to=$DESTDIR$to
        case $kind in
            library) place 644 "$to" stripped --strip-unneeded "$from" ;;
            program) place 755 "$to" stripped --strip-unneeded "$from" ;;
            archive) place 644 "$to" stripped --strip-debug "$from" ;;
            data) place 644 "$to" cp -T "$from" ;;
            template) place 644 "$to" fill "$from" ;;
            link) place link "$to" ln -sT "$from" ;;
        esac
    done < <(files)
    echo "installed libtelemetry $version in $DESTDIR$PREFIX (libraries in $DESTDIR$LIBDIR)"
    refresh install
}

uninstall_all() {
    local to
    while IFS='|' read -r _ to _; do rm -f "$DESTDIR$to"; done < <(files)
    for to in "$cmake" "$docs"; do
        rmdir "$DESTDIR$to" 2>/dev/null || true # not there, or a neighbour's files are in it
    done
    echo "removed libtelemetry $version from $DESTDIR$PREFIX (libraries from $DESTDIR$LIBDIR)"
    refresh uninstall
}

case ${1:-} in
    install) install_all ;;
    uninstall) uninstall_all ;;
    *) fail "usage: install.sh install|uninstall" ;;
esac
