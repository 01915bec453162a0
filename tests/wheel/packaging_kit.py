"""Build the wheel, and make environments that know nothing of this tree."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from harness import LIBRARY, ROOT, Program

# cargo's own variables for a build that is quick: what is proven is that everything is there. The
# crates are compiled once.
QUICK = {
    "CARGO_PROFILE_RELEASE_LTO": "off",
    "CARGO_PROFILE_RELEASE_OPT_LEVEL": "0",
    "CARGO_PROFILE_RELEASE_CODEGEN_UNITS": "16",
    "CARGO_TARGET_DIR": str(ROOT / "target" / "packaging" / "cargo"),
    "CARGO_NET_OFFLINE": "true",
}
# Where cargo and rustup keep what they have.
HOMES = {key: os.environ[key] for key in ("CARGO_HOME", "RUSTUP_HOME") if key in os.environ}
HOMES["HOME"] = os.environ["HOME"]
SITE = "import sysconfig; print(sysconfig.get_path('platlib'))"


def run(
    *command: str | Path, env: dict[str, str], cwd: Path, seconds: float = 600
) -> subprocess.CompletedProcess[str]:
    """Run it; its output with it. The environment is `env` alone."""
    return subprocess.run(
        list(map(str, command)),
        env=env,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
    )


def check(*command: str | Path, env: dict[str, str], cwd: Path, seconds: float = 600) -> str:
    """`run` of what must succeed; its output."""
    done = run(*command, env=env, cwd=cwd, seconds=seconds)
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}"
    return done.stdout


def build_wheel(to: Path, root: Path = ROOT, **more: str) -> None:
    """Run the script of `make wheel` in the tree `root`, with the library that is tested."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    env |= {"DIST": str(to), "LIBTELEMETRY_PREBUILT": str(LIBRARY.resolve()), **more}
    # The environment of the tools is made by a download, once.
    check(root / "python" / "build_wheel.sh", env=env, cwd=to, seconds=1200)


def tool(name: str) -> Path:
    """One of the programs that python/packaging.txt lists."""
    return ROOT / "target" / "packaging" / "bin" / name


class Bare:
    """A virtual environment, and what a program in it sees: its commands and nothing of ours."""

    def __init__(self, python: str, directory: Path) -> None:
        self.directory = directory
        self.python = directory / "bin" / "python"
        self.env = {"PATH": str(directory / "bin"), "HOME": str(directory), "LANG": "C.UTF-8"}
        # The second that is the default may be too short for a last flush on a busy machine.
        self.env["TELEMETRY_EXIT_TIMEOUT_MS"] = "60000"
        check(python, "-m", "venv", "--without-pip", directory, env=self.env, cwd=directory.parent)
        # The pip of that Python itself, without the seconds that a copy of it takes.
        self.pip: list[str | Path] = [python, "-m", "pip", "--python", self.python]
        if run(python, "-m", "pip", "--version", env=self.env, cwd=directory).returncode:
            check(self.python, "-m", "ensurepip", env=self.env, cwd=directory)
            self.pip = [self.python, "-m", "pip"]
        self.site = Path(check(self.python, "-c", SITE, env=self.env, cwd=directory).strip())

    def install(self, what: Path) -> str:
        """Install that file, and nothing from anywhere else."""
        options = ["--no-index", "--no-cache-dir", "--disable-pip-version-check"]
        return check(
            *self.pip, "install", *options, what, env=self.env, cwd=self.directory, seconds=600
        )

    def uninstall(self) -> None:
        """Remove it."""
        command = [*self.pip, "uninstall", "--yes", "libtelemetry"]
        check(*command, env=self.env, cwd=self.directory)

    def files(self) -> set[Path]:
        """What is installed, by path."""
        return {
            path for path in self.site.rglob("*") if "pip" not in str(path.relative_to(self.site))
        }


class Installing:
    """pip at work on the source distribution, without the network."""

    def __init__(self, sdist: Path, directory: Path) -> None:
        self.bare = Bare(sys.executable, directory / "venv")
        options = ["--no-index", "--no-cache-dir", "--find-links", str(_setuptools(directory))]
        command = ["nice", *map(str, self.bare.pip), "install", *options, str(sdist)]
        env = {**self.bare.env, **HOMES, **QUICK, "PATH": os.environ["PATH"]}
        self.program = Program(command, directory / "pip.log", env, cwd=directory)

    def wait(self) -> None:
        """Wait until it is installed."""
        assert self.program.process.wait(2400) == 0, self.program.output()


def _setuptools(cwd: Path) -> Path:
    """A directory with setuptools, which pip gives a build to itself."""
    wheels = ROOT / "target" / "packaging" / "wheels"
    if not list(wheels.glob("setuptools-*.whl")):
        pinned = (ROOT / "python" / "packaging.txt").read_text().split()
        (setuptools,) = (word for word in pinned if word.startswith("setuptools=="))
        download = [tool("python"), "-m", "pip", "download", "--quiet", "--no-deps", setuptools]
        check(*download, "--dest", wheels, env=dict(os.environ), cwd=cwd, seconds=600)
    return wheels
