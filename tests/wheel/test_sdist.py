"""The source distribution is installed by pip, offline, where cargo is; and says what is missing.

The installation is begun by the first test of this directory and goes on beside the others.
"""

from __future__ import annotations

from pathlib import Path

from packaging_kit import HOMES, Installing, check, run, tool


def test_install(installing: Installing, empty: Path) -> None:
    bare = installing.bare
    installing.wait()
    inside = bare.site / "libtelemetry"
    (wheel,) = bare.site.glob("libtelemetry-*.dist-info/WHEEL")
    assert "Tag: py3-none-linux_x86_64" in wheel.read_text()
    assert (wheel.parent / "licenses" / "THIRD-PARTY-LICENSES.txt").exists()
    assert (inside / "_accel.abi3.so").exists()
    program = (
        "import libtelemetry; client = libtelemetry.Client('file:x.ndjson');"
        "client.enqueue({'n': 1}); print(client.flush(60), client._native.path)"
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
