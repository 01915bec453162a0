"""Installs the built tree as a user would, and builds outside programs against nothing but that.

LIBTELEMETRY_BUILD is the directory that is installed from (default target/release).
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("LIBTELEMETRY_BUILD", REPO / "target" / "release")).resolve()
STRICT = ["-Wall", "-Wextra", "-Werror", "-pedantic", "-O1"]
# Nothing of the developer's, of make's or of an outer test's may point a build somewhere else.
FOREIGN = re.compile(
    r"(MAKE.*|MFLAGS|PREFIX|DESTDIR|LIBDIR|OUT|STRIP|CC|CXX|C(XX|PP)?FLAGS|LDFLAGS|LIBRARY_PATH"
    r"|C(_INCLUDE_|PLUS_INCLUDE_)?PATH|LD_LIBRARY_PATH|PKG_CONFIG.*|CMAKE.*|TELEMETRY_.*|OTEL_.*|LANG.*|LC_.*)"
)


def environment(**more: str) -> dict[str, str]:
    """The environment of a user who has set nothing."""
    kept = {key: value for key, value in os.environ.items() if not FOREIGN.fullmatch(key)}
    # The second that is the default may be too short for a last flush on a busy machine.
    return {**kept, "LC_ALL": "C.UTF-8", "TELEMETRY_EXIT_TIMEOUT_MS": "60000", **more}


def run(
    *command: str | Path, check: bool = True, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; its output is in the failure."""
    options.setdefault("env", environment())
    done = subprocess.run(
        [*map(str, command)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=900,
        **options,
    )
    if check and done.returncode != 0:
        raise AssertionError(f"{shlex.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done


def make(*arguments: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    """`make` in the tree, with what is built already."""
    return run("make", "-s", "-C", REPO, f"OUT={BUILD}", *arguments, check=check, **options)


def version() -> str:
    """The version of the package, from the one place where it is stated."""
    found = re.search(r'^version = "(.+)"$', (REPO / "Cargo.toml").read_text(), re.MULTILINE)
    assert found
    return found[1]


class Tree:
    """An installed tree."""

    def __init__(self, root: Path, libdir: Path | None = None) -> None:
        self.root = root
        self.lib = libdir or root / "lib"
        self.tool = root / "bin" / "telemetry"

    def pkg_config(self, *arguments: str) -> list[str]:
        """What pkg-config says, with this tree as the only place that it knows."""
        env = environment(PKG_CONFIG_LIBDIR=str(self.lib / "pkgconfig"))
        return shlex.split(run("pkg-config", *arguments, "telemetry", env=env).stdout)

    def flags(self, how: str) -> tuple[list[str], list[str]]:
        """Flags for the compiler and for the linker: shared, archive, or static (libc, too)."""
        cflags = self.pkg_config("--cflags")
        if how == "shared":
            return cflags, self.pkg_config("--libs")
        if how == "archive":
            private = self.pkg_config("--static", "--libs-only-l")
            private.remove("-ltelemetry")
            return cflags, [*self.pkg_config("--variable=archive"), *private]
        return cflags, ["-static", *self.pkg_config("--static", "--libs")]

    def run(self, program: Path, *arguments: str, how: str) -> subprocess.CompletedProcess[str]:
        """Run a program; only a shared one is told where the library is."""
        more = {"LD_LIBRARY_PATH": str(self.lib)} if how == "shared" else {}
        return run(program, *arguments, env=environment(**more))


def events(out: Path) -> list[str]:
    """The names of the events that a collector, or the library itself, has written to a file."""
    lines = out.read_text().splitlines(keepends=True)  # the last may be in the making
    return [json.loads(line)["event"] for line in lines if line.endswith("\n")]


def is_dynamic(program: Path) -> set[str]:
    """The libraries that a program asks the loader for."""
    return set(re.findall(r"NEEDED.*\[(.*)\]", run("readelf", "-dW", program).stdout))
