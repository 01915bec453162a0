"""The source distribution is installed by pip, offline, where cargo is; and says what is missing.

The library is built without optimisation, by the variables that cargo has for it: what is proven is
that everything is there. Its crates are compiled once, in target/packaging.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from packaging_kit import Bare, check, run, tool

from harness import ROOT

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


def build_tools(to: Path) -> list[str]:
    """The options that make pip take setuptools, which builds, from this machine."""
    wheels = ROOT / "target" / "packaging" / "wheels"
    if not list(wheels.glob("setuptools-*.whl")):
        pinned = (ROOT / "python" / "packaging.txt").read_text().split()
        (setuptools,) = (word for word in pinned if word.startswith("setuptools=="))
        download = [tool("python"), "-m", "pip", "download", "--quiet", "--no-deps", setuptools]
        check(*download, "--dest", wheels, env=dict(os.environ), cwd=to, seconds=120)
    return ["--no-index", "--find-links", str(wheels), "--no-cache-dir"]


def test_install(sdist: Path, empty: Path, tmp_path: Path) -> None:
    bare = Bare(sys.executable, tmp_path / "venv")
    env = {**bare.env, **HOMES, **QUICK, "PATH": os.environ["PATH"]}
    command = [*bare.pip, "install", *build_tools(tmp_path), sdist]
    check(*command, env=env, cwd=empty, seconds=400)
    inside = bare.site / "libtelemetry"
    (wheel,) = bare.site.glob("libtelemetry-*.dist-info/WHEEL")
    assert "Tag: py3-none-linux_x86_64" in wheel.read_text()
    assert (wheel.parent / "licenses" / "THIRD-PARTY-LICENSES.txt").exists()
    accelerated = (ROOT / "python" / "libtelemetry" / "_accel.c").exists()
    assert (inside / "_accel.abi3.so").exists() == accelerated
    program = (
        "import libtelemetry; client = libtelemetry.Client('file:x.ndjson');"
        "client.enqueue({'n': 1}); print(client.flush(10), client._native.path)"
    )
    said = check(bare.python, "-c", program, env=bare.env, cwd=empty)
    assert said == f"True {inside / 'libtelemetry.so.0'}\n"
    assert '"n":1' in (empty / "x.ndjson").read_text()


def test_what_is_missing_is_named(sdist: Path, tmp_path: Path) -> None:
    # Not isolated: that is proven above, and takes seconds.
    pip = [tool("python"), "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", sdist]
    path = tmp_path / "path"
    path.mkdir()
    (path / "sh").symlink_to("/bin/sh")

    def attempt() -> str:
        done = run(*pip, env={**HOMES, "PATH": str(path)}, cwd=tmp_path)
        assert done.returncode != 0
        assert "A build from source needs Rust 1." in done.stdout
        return done.stdout

    assert "there is no cargo in PATH" in attempt()
    cargo = path / "cargo"
    cargo.write_text("#!/bin/sh\necho 'cargo 1.63.0 (fd9c4297c 2022-07-01)'\n")
    cargo.chmod(0o755)
    assert "cargo 1.63.0 (fd9c4297c 2022-07-01) is too old" in attempt()
    cargo.write_text("#!/bin/sh\necho 'cargo 1.999.0'\n")
    assert "there is no C compiler cc in PATH" in attempt()
