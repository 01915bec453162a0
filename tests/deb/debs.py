"""The Debian packages of this tree: look into them, put them on this machine, take them off again.

A machine that has packages of these names is left alone: what these tests did not install, they do
not replace. What they install they first note in target/deb/installed-by-tests, so that after a run
that was killed the next one cleans up.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import harness

ROOT = harness.ROOT
PACKAGES = ("libtelemetry0", "libtelemetry-dev", "telemetry-tools")
RECEIPT = ROOT / "target" / "deb" / "installed-by-tests"

# What a user may have set to find a libtelemetry elsewhere: here the system's places alone count.
_ELSEWHERE = (
    "CMAKE_PREFIX_PATH",
    "CPATH",
    "C_INCLUDE_PATH",
    "LD_LIBRARY_PATH",
    "LIBRARY_PATH",
    "LIBTELEMETRY_PATH",
    "MANPATH",
    "PKG_CONFIG_PATH",
    "PYTHONPATH",
    "telemetry_DIR",
)


def environment(**more: str) -> dict[str, str]:
    """The environment of somebody who has installed the packages and set nothing."""
    env = {
        key: value
        for key, value in os.environ.items()
        if key not in _ELSEWHERE and not key.startswith(("TELEMETRY_", "DEB_", "DH_"))
    }
    env |= {"LC_ALL": "C.UTF-8", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    # The second that is the default may be too short for a last flush on a busy machine.
    return {**env, "TELEMETRY_EXIT_TIMEOUT_MS": "60000", **more}


def run(*argv: str | Path, seconds: float = 600, **more: str) -> str:
    """What it prints, stdout and stderr; it must end with 0."""
    done = attempt(*argv, seconds=seconds, **more)
    if done.returncode:
        raise harness.Failed(f"{' '.join(map(str, argv))}: {done.returncode}\n{done.stdout}")
    return done.stdout


def attempt(
    *argv: str | Path, seconds: float = 600, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run it, stdout and stderr as one text."""
    return subprocess.run(
        list(map(str, argv)),
        env=environment(**more),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
        check=False,
    )


@contextlib.contextmanager
def beside(log: Path, *argv: str, **more: str) -> Iterator[harness.Program]:
    """The same, not waited for; ended with all that it has started when the block ends."""
    with harness.Program(list(argv), log, environment(**more)) as running:
        yield running
        if running.process.poll() is None:
            os.killpg(running.process.pid, signal.SIGTERM)  # time to remove what it has begun
            running.process.wait(120)


@functools.lru_cache
def architecture() -> str:
    """Debian's name of this machine's: amd64."""
    return run("dpkg", "--print-architecture").strip()


@functools.lru_cache
def version() -> str:
    """The version of this tree."""
    text = (ROOT / "Cargo.toml").read_text()
    return text.partition('\nversion = "')[2].partition('"')[0]


@functools.lru_cache
def libdir() -> Path:
    """Where Debian keeps the libraries of this architecture."""
    return Path("/usr/lib") / run("dpkg-architecture", "-qDEB_HOST_MULTIARCH").strip()


class Deb(NamedTuple):
    """A package file."""

    path: Path

    def field(self, name: str) -> str:
        """A field of its control file; empty when it has none."""
        return run("dpkg-deb", "--field", self.path, name).strip()

    def control(self, name: str) -> str:
        """A file of its control archive."""
        return run("dpkg-deb", "--info", self.path, name)

    def control_files(self) -> set[str]:
        """The names of these."""
        archive = subprocess.run(
            ["dpkg-deb", "--ctrl-tarfile", str(self.path)], capture_output=True, check=True
        ).stdout
        names = subprocess.run(["tar", "t"], input=archive, capture_output=True, check=True).stdout
        return {name.removeprefix("./") for name in names.decode().split()} - {""}

    def contents(self) -> dict[str, str]:
        """Path of each file and link: its mode and owner, or where it points to."""
        found = {}
        for line in run("dpkg-deb", "--contents", self.path).splitlines():
            mode, owner, _size, _day, _time, name = line.split(None, 5)
            if not mode.startswith("d"):
                path, _, target = name.removeprefix(".").partition(" -> ")
                found[path] = f"-> {target}" if target else f"{mode} {owner}"
        return found

    def read(self, path: str) -> bytes:
        """A file of it."""
        archive = subprocess.run(
            ["dpkg-deb", "--fsys-tarfile", str(self.path)], capture_output=True, check=True
        ).stdout
        return subprocess.run(
            ["tar", "xO", f".{path}"], input=archive, capture_output=True, check=True
        ).stdout


class Debs(NamedTuple):
    """The three of one build."""

    directory: Path
    version: str

    def of(self, package: str) -> Deb:
        """One of them."""
        return Deb(self.directory / f"{package}_{self.version}_{architecture()}.deb")

    def all(self) -> list[Deb]:
        """All three."""
        return [self.of(package) for package in PACKAGES]


def as_root(*argv: str | Path) -> list[str]:
    """The command, with sudo unless we are root."""
    words = list(map(str, argv))
    return words if os.geteuid() == 0 else ["sudo", "-n", "env", "LC_ALL=C.UTF-8", *words]


def is_root() -> bool:
    """Whether we may change the machine."""
    return os.geteuid() == 0 or (
        shutil.which("sudo") is not None and attempt("sudo", "-n", "true").returncode == 0
    )


def dpkg(*argv: str | Path, status: int = 0) -> str:
    """What dpkg prints as root; it must end with `status`. Waits while another one runs."""
    # A container may be set up to leave out manual pages and examples, which are looked at here.
    command = as_root("dpkg", "--path-include=/usr/share/*", *argv)
    end = time.monotonic() + 600
    while True:
        done = attempt(*command, seconds=600)
        locked = done.returncode == 2 and "lock" in done.stdout
        if not locked or time.monotonic() > end:
            break
        time.sleep(0.2)
    if done.returncode != status:
        raise harness.Failed(f"{' '.join(command)}: {done.returncode}\n{done.stdout}")
    return done.stdout


def on_machine() -> dict[str, str]:
    """Package → version, of those that dpkg knows anything of."""
    known = {}
    form = "${db:Status-Status} ${Package} ${Version}\n"
    for line in attempt(
        "dpkg-query", "--show", f"--showformat={form}", *PACKAGES
    ).stdout.splitlines():
        status, *words = line.split(" ")
        if len(words) == 2 and words[0] in PACKAGES and status != "not-installed":
            known[words[0]] = words[1]
    return known


def loader_knows() -> list[str]:
    """The lines of the loader's cache that name our library."""
    return [line for line in run("ldconfig", "-p").splitlines() if "libtelemetry." in line]


def purge() -> None:
    """Take off what is there of the three."""
    there = on_machine()
    if there:
        dpkg("--purge", *there)
    RECEIPT.unlink(missing_ok=True)


def refusal() -> str:
    """Why the packages must not be installed here, or "". Cleans up after a run that was killed."""
    there = on_machine()
    if there and not _ours():
        names = " ".join(there)
        return (
            f"this machine has {names}, which this test did not install and would take off; "
            f"first: apt-get purge {names}"
        )
    purge()
    others = loader_knows()
    if others:
        return (
            "the loader finds another libtelemetry, which programs would take instead of the "
            f"package's; take it off first: {others}"
        )
    return ""


def install(*packages: Deb) -> None:
    """Put them on this machine, in place of those that this function has put there."""
    RECEIPT.parent.mkdir(parents=True, exist_ok=True)
    RECEIPT.write_text("under way")
    dpkg("--install", *(deb.path for deb in packages))
    RECEIPT.write_text(_installation())


def _installation() -> str:
    """What tells one installation on this machine from the next."""
    lists = Path("/var/lib/dpkg/info").glob("libtelemetry0*.list")
    return " ".join(f"{path} {path.stat().st_mtime_ns}" for path in lists)


def _ours() -> bool:
    """Whether what is installed was left by a run that was killed, and not put there since."""
    return RECEIPT.exists() and RECEIPT.read_text() in ("under way", _installation())
