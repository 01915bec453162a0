"""What is in the wheel, how it is tagged, and that the same sources give the same bytes."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import subprocess
import tarfile
import zipfile
from pathlib import Path

from packaging_kit import build_wheel, check, run, tool

from harness import LIBRARY, ROOT

SOURCE = ROOT / "python" / "libtelemetry"
MANIFEST = re.search(r'^version = "(.*)"', (ROOT / "Cargo.toml").read_text(), re.M)
VERSION = MANIFEST.group(1) if MANIFEST else "?"
PAGE = (ROOT / "python" / "README.md").read_text()
INFO = f"libtelemetry-{VERSION}.dist-info"
NATIVE = {"libtelemetry/libtelemetry.so.0", "libtelemetry/_accel.abi3.so"}


def test_names(dist: Path) -> None:
    names = sorted(path.name for path in dist.iterdir())
    assert names[1] == f"libtelemetry-{VERSION}.tar.gz"
    tag = r"py3-none-manylinux_2_(\d+)_x86_64"
    wheel = re.fullmatch(rf"libtelemetry-{re.escape(VERSION)}-{tag}\.whl", names[0])
    assert wheel is not None
    assert len(names) == 2
    assert f"Linux with glibc 2.{wheel.group(1)} or later" in PAGE


def test_content(wheel: Path) -> None:
    python = {f"libtelemetry/{path.relative_to(SOURCE)}" for path in SOURCE.rglob("*.py")}
    with zipfile.ZipFile(wheel) as archive:
        modes = {entry.filename: entry.external_attr >> 16 for entry in archive.infolist()}
        licences = {
            name: archive.read(f"{INFO}/licenses/{name}").decode()
            for name in ("LICENSE", "THIRD-PARTY-LICENSES.txt")
        }
    package = {name for name in modes if not name.startswith(INFO)}
    assert package == python | NATIVE | {"libtelemetry/py.typed"}
    assert {stat.S_IMODE(modes[name]) for name in package - NATIVE} == {0o644}
    assert {stat.S_IMODE(modes[name]) for name in NATIVE} == {0o755}
    assert licences["LICENSE"] == (ROOT / "LICENSE").read_text()
    # Everything linked, by Cargo.lock's names; and not what only the command has.
    assert re.search(r"^rustls \d\S+: ", licences["THIRD-PARTY-LICENSES.txt"], re.M)
    assert not re.search(r"^clap \d", licences["THIRD-PARTY-LICENSES.txt"], re.M)


def test_metadata(wheel: Path, tmp_path: Path) -> None:
    program = """
import sys, zipfile
from packaging.metadata import Metadata
with zipfile.ZipFile(sys.argv[1]) as archive:
    text = archive.read(sys.argv[2] + "/METADATA")
found = Metadata.from_email(text, validate=True)
print(found.version, found.requires_python, found.license_expression, found.license_files)
print(found.description_content_type, found.requires_dist)
print(found.description, end="")
"""
    python = tool("python")
    said = check(python, "-c", program, wheel, INFO, env=dict(os.environ), cwd=tmp_path)
    first, second, description = said.split("\n", 2)
    licences = "['LICENSE', 'THIRD-PARTY-LICENSES.txt']"
    assert first == f"{VERSION} >=3.9 MIT OR Apache-2.0 {licences}"
    assert second.startswith("text/markdown [<Requirement('orjson; extra == \"fast\"')>]")
    assert description.strip() == PAGE.strip()
    for link in re.findall(r"\]\(([\w.]+)\)", PAGE):
        assert (ROOT / "python" / link).exists(), link


def test_library_is_the_built_one_without_symbols(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    library = tmp_path / "libtelemetry" / "libtelemetry.so.0"
    assert library.stat().st_size < LIBRARY.stat().st_size

    def said(command: str, path: Path) -> str:
        return subprocess.check_output([*command.split(), path], text=True)

    assert "libtelemetry.so.0" in said("readelf -d", library)
    assert ".symtab" not in said("readelf -SW", library)
    exported = said("nm -D --defined-only", library)
    assert exported.split() == said("nm -D --defined-only", LIBRARY).split()
    for name in NATIVE:
        # Neither a path of the machine that built it, nor libpython.
        dynamic = said("readelf -d", tmp_path / name)
        assert "RPATH" not in dynamic
        assert "RUNPATH" not in dynamic
        assert "libpython" not in dynamic


def test_auditwheel_has_the_same_tag_and_adds_nothing(wheel: Path, tmp_path: Path) -> None:
    env = {**os.environ, "PATH": f"{tool('auditwheel').parent}:{os.environ['PATH']}"}
    shown = " ".join(check("auditwheel", "show", wheel, env=env, cwd=tmp_path).split())
    tag = wheel.stem.split("-")[-1]
    assert f'consistent with the following platform tag: "{tag}"' in shown
    check("auditwheel", "repair", "--wheel-dir", tmp_path, wheel, env=env, cwd=tmp_path)
    with zipfile.ZipFile(tmp_path / wheel.name) as repaired, zipfile.ZipFile(wheel) as ours:
        files = [name for name in repaired.namelist() if not name.endswith("/")]
        assert sorted(files) == sorted(ours.namelist())
        for name in NATIVE:
            assert repaired.read(name) == ours.read(name)


def test_the_same_sources_give_the_same_bytes(dist: Path, tmp_path: Path) -> None:
    """From another directory that is no checkout, under another umask, at another time of files."""
    tree = tmp_path / "elsewhere"
    to = tmp_path / "dist"
    to.mkdir()
    date = check("git", "log", "-1", "--format=%ct", env=dict(os.environ), cwd=ROOT).strip()
    before = os.umask(0o077)
    try:
        for part in ("python", "src", "include", "bindings"):
            shutil.copytree(ROOT / part, tree / part, copy_function=shutil.copyfile)
        for name in ("Cargo.toml", "Cargo.lock", "LICENSE"):
            shutil.copyfile(ROOT / name, tree / name)
        (tree / "python" / "build_wheel.sh").chmod(0o755)
        (tree / "target").mkdir()
        (tree / "target" / "packaging").symlink_to(ROOT / "target" / "packaging")
        build_wheel(to, tree, SOURCE_DATE_EPOCH=date)
    finally:
        os.umask(before)

    def sums(directory: Path) -> dict[str, str]:
        return {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()
        }

    assert sums(to) == sums(dist)


def test_sdist_builds_only_with_its_own_version(sdist: Path, tmp_path: Path) -> None:
    """The package states Cargo.toml's version, or there is no wheel."""
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path)
    (tree,) = tmp_path.iterdir()
    manifest = tree / "native" / "Cargo.toml"
    manifest.write_text(manifest.read_text().replace(f'"{VERSION}"', '"9.9.9"', 1))
    build = [tool("python"), "-m", "build", "--no-isolation", "--wheel", tree]
    done = run(*build, env={**os.environ, "LIBTELEMETRY_PREBUILT": str(LIBRARY)}, cwd=tmp_path)
    assert done.returncode != 0
    assert '__init__.py does not say __version__ = "9.9.9"' in done.stdout
    manifest.write_text(manifest.read_text().replace('"9.9.9"', f'"{VERSION}"', 1))
    done = run(*build, env={**os.environ, "LIBTELEMETRY_PREBUILT": "/no/such.so"}, cwd=tmp_path)
    assert done.returncode != 0
    assert "LIBTELEMETRY_PREBUILT=/no/such.so: there is no such file" in done.stdout
