"""What a wheel holds besides Python files: the shared library and the accelerator, and the tag.

The library comes from cargo, out of ``native/``; or, when LIBTELEMETRY_PREBUILT names one, from
there, and then no Rust is compiled. With a prebuilt library the wheel is for other machines, too:
its tag names the oldest glibc that its symbols allow. Otherwise it is for this machine.

The wheel is ``py3-none``: the library is no extension module, and without the accelerator, which is
built for the limited API and is optional, everything works by ctypes.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Distribution, Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

NATIVE = Path(os.environ.get("LIBTELEMETRY_SOURCE") or "native").resolve()
PREBUILT = os.environ.get("LIBTELEMETRY_PREBUILT")
LIBRARY = "libtelemetry.0.dylib" if sys.platform == "darwin" else "libtelemetry.so.0"


class Build(build_ext):  # type: ignore[misc]  # setuptools has no types
    """The accelerator as far as it can be built, and the library."""

    def build_extensions(self) -> None:
        # A Python that was installed aside has its own directory as a search path here, where
        # whoever gets the wheel has nothing, or something else.
        self.compiler.linker_so = [arg for arg in self.compiler.linker_so if "rpath" not in arg]
        super().build_extensions()

    def run(self) -> None:
        super().run()
        to = Path(self.build_lib, "libtelemetry", LIBRARY)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(prebuilt() if PREBUILT else cargo(), to)
        for path in [to, *to.parent.glob("_accel*.so")]:
            if sys.platform == "linux":
                output(os.environ.get("STRIP", "strip"), "--strip-unneeded", str(path))
            path.chmod(0o755)


class Wheel(bdist_wheel):  # type: ignore[misc]
    """The tag."""

    def get_tag(self) -> tuple[str, str, str]:
        place = super().get_tag()[2]
        needs = oldest_glibc(Path(self.bdist_dir, "libtelemetry")) if PREBUILT else None
        if needs:
            place = f"manylinux_{needs[0]}_{needs[1]}_{platform.machine()}"
        return "py3", "none", place


class Package(Distribution):  # type: ignore[misc]
    """A package for one platform, with or without the accelerator."""

    def has_ext_modules(self) -> bool:
        return True


def manifest(key: str) -> str:
    """That text of Cargo.toml's [package], its first table."""
    path = NATIVE / "Cargo.toml"
    if not path.exists():
        raise SystemExit(
            f"libtelemetry: there is no {path}; in a checkout let pip build: pip install ."
        )
    found = re.search(rf'^{key} = "(.*)"$', path.read_text(encoding="utf-8"), re.M)
    if found is None:
        raise SystemExit(f"libtelemetry: {path} has no {key}")
    return found.group(1)


def version() -> str:
    """Cargo.toml's version, which the package must state as its own."""
    wanted = manifest("version")
    stated = f'__version__ = "{wanted}"'
    if stated not in Path("libtelemetry", "__init__.py").read_text(encoding="utf-8"):
        raise SystemExit(f"libtelemetry/__init__.py does not say {stated}, as Cargo.toml does")
    return wanted


def accelerator() -> list[Extension]:
    """The accelerator where one can be: CPython with a GIL, which alone has the limited API."""
    source = Path("libtelemetry", "_accel.c")
    fits = platform.python_implementation() == "CPython" and not sysconfig.get_config_var(
        "Py_GIL_DISABLED"
    )
    if not fits or not source.exists():
        return []
    extension = Extension(
        "libtelemetry._accel",
        [str(source)],
        py_limited_api=True,
        # Names of directories would end up in the checksum that the linker stores.
        extra_compile_args=["-g0"],
        # Without Python.h ctypes does; but a wheel that is handed on is complete.
        optional=not PREBUILT,
    )
    return [extension]


def prebuilt() -> str:
    """The library that the environment names."""
    if not os.path.isfile(PREBUILT or ""):
        raise SystemExit(f"LIBTELEMETRY_PREBUILT={PREBUILT}: there is no such file")
    return str(PREBUILT)


def cargo() -> str:
    """Build the library; its path."""
    require_tools()
    command = ["cargo", "rustc", "--release", "--lib", "--crate-type", "cdylib", "--locked"]
    command += ["--manifest-path", str(NATIVE / "Cargo.toml")]
    command += ["--message-format", "json-render-diagnostics"]
    print("libtelemetry:", *command, "(takes about two minutes)", flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"libtelemetry: cargo failed with status {done.returncode}, see above")
    for line in done.stdout.splitlines():
        message = json.loads(line)
        if message["reason"] == "compiler-artifact" and message["target"]["name"] == "telemetry":
            for path in message["filenames"]:
                if path.endswith((".so", ".dylib")):
                    return str(path)
    raise SystemExit(
        "libtelemetry: cargo made no shared library; "
        "for a musl target set RUSTFLAGS=-Ctarget-feature=-crt-static"
    )


def require_tools() -> None:
    """End with what is missing, before a minute of work fails for it."""
    needed = manifest("rust-version")
    hint = (
        f"A build from source needs Rust {needed} or later (https://rustup.rs, or your "
        "distribution's cargo) and a C compiler.\nOr set LIBTELEMETRY_PREBUILT to a "
        f"libtelemetry.so of version {manifest('version')} that you have."
    )
    if shutil.which("cargo") is None:
        raise SystemExit(f"libtelemetry: there is no cargo in PATH.\n{hint}")
    said = subprocess.run(["cargo", "--version"], capture_output=True, text=True)
    found = re.match(r"cargo (\d+)\.(\d+)", said.stdout)
    if found is None:
        raise SystemExit(f"libtelemetry: cargo does not work: {said.stderr.strip()}\n{hint}")
    if tuple(map(int, found.groups())) < tuple(map(int, needed.split(".")[:2])):
        raise SystemExit(f"libtelemetry: {said.stdout.strip()} is too old.\n{hint}")
    compiler = os.environ.get("CC", "cc").split()[0]
    if shutil.which(compiler) is None:
        raise SystemExit(f"libtelemetry: there is no C compiler {compiler} in PATH.\n{hint}")


def oldest_glibc(directory: Path) -> tuple[int, int] | None:
    """The oldest glibc with all symbols that the libraries there need; None if they need none."""
    needs = set()
    for path in directory.glob("*.so*"):
        said = output("readelf", "--version-info", "--wide", str(path))
        for name in re.findall(r"Name: GLIBC_(\S+)", said):
            if not re.fullmatch(r"2\.\d+(\.\d+)*", name):
                raise SystemExit(f"libtelemetry: {path.name} needs GLIBC_{name}: no tag says that")
            needs.add((2, int(name.split(".")[1])))
    return max(needs) if needs else None


def output(*command: str) -> str:
    """Run it; what it printed, in English."""
    env = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=env)
    except FileNotFoundError:
        raise SystemExit(f"libtelemetry: there is no {command[0]} in PATH (binutils)") from None
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"libtelemetry: {error}") from None
    return done.stdout


setup(
    version=version(),
    ext_modules=accelerator(),
    cmdclass={"build_ext": Build, "bdist_wheel": Wheel},
    distclass=Package,
)
