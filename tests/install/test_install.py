"""What `make install` lays down, what `make uninstall` takes away, and what neither touches."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import kit
import pytest


def wanted(libdir: str = "lib") -> set[str]:
    """Every file and link, relative to PREFIX."""
    return {
        f"{libdir}/libtelemetry.so.{kit.version()}",
        f"{libdir}/libtelemetry.so.0",
        f"{libdir}/libtelemetry.so",
        f"{libdir}/libtelemetry.a",
        f"{libdir}/pkgconfig/telemetry.pc",
        f"{libdir}/cmake/telemetry/telemetry-config.cmake",
        f"{libdir}/cmake/telemetry/telemetry-config-version.cmake",
        "include/telemetry.h",
        "include/telemetry.hpp",
        "bin/telemetry",
        "share/man/man1/telemetry.1",
        "share/man/man3/telemetry.h.3",
        "share/man/man3/telemetry_fleet.3",
        "share/doc/libtelemetry/LICENSE",
        "share/doc/libtelemetry/THIRD-PARTY-LICENSES.txt",
    }


def listing(root: Path) -> dict[str, str]:
    """Each file, link and directory below `root`, with its kind, mode and content."""
    found = {}
    for path in root.rglob("*"):
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            what = f"link to {os.readlink(path)}"
        elif stat.S_ISDIR(mode):
            what = f"directory {stat.S_IMODE(mode):o}"
        else:
            what = f"file {stat.S_IMODE(mode):o} {hashlib.sha256(path.read_bytes()).hexdigest()}"
        found[str(path.relative_to(root))] = what
    return found


def files(listed: dict[str, str]) -> set[str]:
    return {name for name, what in listed.items() if not what.startswith("directory")}


def test_the_layout(installed: kit.Tree, moved: kit.Tree) -> None:
    listed = listing(installed.root)
    assert files(listed) == wanted()
    assert files(listing(moved.root)) == wanted("lib/x86_64-linux-gnu")
    assert listed["lib/libtelemetry.so"] == "link to libtelemetry.so.0"
    assert listed["lib/libtelemetry.so.0"] == f"link to libtelemetry.so.{kit.version()}"
    modes = {name: what.split()[1] for name, what in listed.items() if what.startswith("file")}
    assert modes.pop("bin/telemetry") == "755"
    assert set(modes.values()) == {"644"}
    assert {what for what in listed.values() if what.startswith("directory")} == {"directory 755"}


def test_no_debug_information(installed: kit.Tree) -> None:
    for path in (
        installed.lib / "libtelemetry.so",
        installed.lib / "libtelemetry.a",
        installed.tool,
    ):
        assert ".debug_" not in kit.run("readelf", "-SW", path).stdout


def test_no_place_of_the_build_is_written_down(moved: kit.Tree) -> None:
    """Text files name neither PREFIX, DESTDIR nor the tree of the build; no placeholder is left."""
    texts = [path for path in moved.root.rglob("*") if path.suffix in {".pc", ".cmake", ".1", ".3"}]
    assert len(texts) == 6
    for path in texts:
        text = path.read_text()
        for place in ("opt/telemetry", "stage", str(kit.REPO), str(moved.root.parent)):
            assert place not in text, (path, place)
        assert not re.search(r"@[A-Z_]{2,}@", text), path


@pytest.mark.usefixtures("moved")  # which has seen that DESTDIR is heeded
def test_the_systems_own_prefix_is_named_as_such(tmp_path: Path) -> None:
    """pkg-config then leaves out -I/usr/include, and puts a sysroot before the places."""
    libdir = "/usr/lib/x86_64-linux-gnu"
    kit.make("install", "PREFIX=/usr", f"LIBDIR={libdir}", f"DESTDIR={tmp_path}")
    where = f"{tmp_path}{libdir}/pkgconfig"

    def ask(**more: str) -> list[str]:
        env = kit.environment(PKG_CONFIG_LIBDIR=where, **more)
        return kit.run("pkg-config", "--cflags", "--libs", "telemetry", env=env).stdout.split()

    assert ask() == ["-ltelemetry"]
    assert ask(PKG_CONFIG_SYSROOT_DIR=str(tmp_path)) == [
        f"-I{tmp_path}/usr/include",
        f"-L{tmp_path}{libdir}",
        "-ltelemetry",
    ]
    kit.make("uninstall", "PREFIX=/usr", f"LIBDIR={libdir}", f"DESTDIR={tmp_path}")
    assert files(listing(tmp_path)) == set()


def test_uninstall_leaves_exactly_what_was_there_before(tmp_path: Path) -> None:
    """Neighbours' files stay, in shared directories and in ours, whatever they are called."""
    neighbours = [
        "lib/libother.so.0",
        "lib/libtelemetry.so.0.0.9",
        "lib/libtelemetry-other.a",
        "lib/pkgconfig/other.pc",
        "lib/cmake/telemetry/telemetry-extra.cmake",
        "include/telemetry/other.h",
        "bin/other",
        "share/man/man1/other.1",
        "share/doc/libtelemetry/NOTES",
    ]
    for name in neighbours:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tmp_path / "share/man/man3").mkdir()
    before = listing(tmp_path)
    kit.make("install", f"PREFIX={tmp_path}")
    during = listing(tmp_path)
    assert files(during) - files(before) == wanted()
    assert {name: during[name] for name in before} == before
    kit.make("uninstall", f"PREFIX={tmp_path}")
    assert listing(tmp_path) == before


def test_uninstall_removes_our_own_directories_and_works_twice(tmp_path: Path) -> None:
    stage, prefix = tmp_path / "jo's stage", tmp_path / "jo's prefix"
    kit.make("install", f"PREFIX={prefix}", f"DESTDIR={stage}")
    assert files(listing(stage))
    for _ in range(2):
        kit.make("uninstall", f"PREFIX={prefix}", f"DESTDIR={stage}")
        left = listing(Path(f"{stage}{prefix}"))
        assert files(left) == set()
        assert not any("telemetry" in name for name in left)
    assert not prefix.exists()


# Maps the library, lets its caller install, and calls into pages that it had not touched.
HOLDER = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
print("mapped", flush=True)
sys.stdin.readline()
library.telemetry_version.restype = ctypes.c_char_p
print(library.telemetry_version().decode())
"""


def test_installing_again_does_not_disturb_who_runs(tmp_path: Path) -> None:
    """A program keeps the library that it has mapped."""
    kit.make("install", f"PREFIX={tmp_path}")
    path = tmp_path / "lib" / f"libtelemetry.so.{kit.version()}"
    before, inode = listing(tmp_path), path.stat().st_ino
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], **pipes) as holder:
        assert holder.stdout and holder.stdout.readline() == "mapped\n"
        kit.make("install", f"PREFIX={tmp_path}")
        said, _ = holder.communicate("\n", timeout=120)
    assert (said.strip(), holder.returncode) == (kit.version(), 0)
    assert path.stat().st_ino != inode
    assert listing(tmp_path) == before


def test_installing_needs_neither_cargo_nor_a_wide_umask(tmp_path: Path) -> None:
    """As with sudo after a user's build: root has no cargo, and perhaps a umask of its own."""
    done = kit.run(
        *("sh", "-c", 'umask 077; exec make -s -C "$0" "$@"', kit.REPO, f"OUT={kit.BUILD}"),
        *("install", "CARGO=false", "PYTHON=false", f"PREFIX={tmp_path / 'p'}"),
    )
    assert f"libtelemetry {kit.version()}" in done.stdout
    assert (tmp_path / "p" / "lib").stat().st_mode & 0o777 == 0o755


def test_empty_means_the_default(tmp_path: Path) -> None:
    kit.make("install", "PREFIX=", "LIBDIR=", f"DESTDIR={tmp_path}")
    assert {path.name for path in tmp_path.iterdir()} == {"usr"}
    assert (tmp_path / "usr/local/lib/libtelemetry.so").is_symlink()
    kit.make("uninstall", "PREFIX=", f"DESTDIR={tmp_path}")
    assert files(listing(tmp_path)) == set()


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["PREFIX=somewhere"], "PREFIX must be an absolute path, and is 'somewhere'"),
        (["LIBDIR=~/lib"], "LIBDIR must be an absolute path, and is '~/lib'"),
        (['PREFIX=/a"b'], "PREFIX must not contain"),
        (["PREFIX=/a|b"], "PREFIX must not contain"),
        (["OUT=/nonexistent"], "make build"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(
    tmp_path: Path, arguments: list[str], said: str
) -> None:
    command = [f"DESTDIR={tmp_path}", "CARGO=false", "PYTHON=true", *arguments]
    script = kit.REPO / "bindings" / "c" / "install.sh"
    env = kit.environment(**dict(argument.split("=", 1) for argument in command))
    done = kit.run(script, "install", env={"OUT": str(kit.BUILD), **env}, check=False)
    assert done.returncode != 0
    assert said in done.stderr
    assert list(tmp_path.iterdir()) == []


AS_ON_A_MACHINE_OF_ITS_OWN = r"""
set -e
mount -t tmpfs none "$SCRATCH"
for place in /usr/local /etc /var/cache; do
    mine=$SCRATCH$place
    mkdir -p $mine/up $mine/work
    mount -t overlay overlay -o lowerdir=$place,upperdir=$mine/up,workdir=$mine/work $place
done
rm -rf /usr/local/include/telemetry* /usr/local/lib/libtelemetry*
make -s -C "$REPO" OUT="$BUILD" install
cp "$APP" "$UNIT" "$SCRATCH"
cd "$SCRATCH"
cc app.c unit.c -ltelemetry -o app
./app file:events.ndjson installed
cat events.ndjson
telemetry --version
man -w telemetry.h 2>/dev/null || test ! -x /usr/bin/man
make -s -C "$REPO" OUT="$BUILD" uninstall
if ./app file:events.ndjson gone; then exit 9; fi
ldconfig -p | grep telemetry && exit 8
exit 0
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="a mount namespace needs root")
def test_the_whole_way_without_any_flag(tmp_path: Path) -> None:
    """`make install && cc app.c -ltelemetry && ./a.out`; after `make uninstall` it is gone."""
    outside = Path(__file__).parent / "outside"
    done = kit.run(
        *("unshare", "-m", "sh", "-c", AS_ON_A_MACHINE_OF_ITS_OWN),
        env=kit.environment(
            SCRATCH=str(tmp_path),
            REPO=str(kit.REPO),
            BUILD=str(kit.BUILD),
            APP=str(outside / "app.c"),
            UNIT=str(outside / "unit.c"),
        ),
    )
    assert '"event":"installed"' in done.stdout
    assert '"event":"gone"' not in done.stdout
    assert "the loader does not search" not in done.stdout


def test_a_place_that_the_loader_does_not_search_is_said(tmp_path: Path) -> None:
    said = kit.make("install", f"PREFIX={tmp_path}").stdout
    assert f"the loader does not search {tmp_path}/lib" in said
    assert f"LD_LIBRARY_PATH={tmp_path}/lib" in said


def test_the_stripped_command_works(moved: kit.Tree, tmp_path: Path) -> None:
    """Moved, without the library beside it, and found by its name alone."""
    only = tmp_path / "bin"
    only.mkdir()
    shutil.copy(moved.tool, only)
    env = {"PATH": str(only)}
    assert kit.run("telemetry", "--version", env=env).stdout == f"telemetry {kit.version()}\n"
