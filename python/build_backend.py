"""The PEP 517 backend: setuptools, on a tree that is complete.

A checkout has the package in ``python/`` and the library's source beside it; a source distribution
has the same source in ``native/``. From a checkout everything is first laid out as in a source
distribution, in a temporary directory, so that there is one way to build and a file that is missing
there is missing at once. What is built depends on the sources and on SOURCE_DATE_EPOCH only.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

from setuptools import build_meta

HERE = Path(__file__).resolve().parent
PARTS = ("libtelemetry", "examples")
NATIVE = ("Cargo.toml", "Cargo.lock", "src", "include")
SOURCES = (".py", ".pyi", ".typed", ".c", ".h", ".md", ".in", ".toml")

Settings = Optional[dict[str, Any]]


def build_sdist(directory: str, settings: Settings = None) -> str:
    """Write the source distribution into `directory`; its file name."""
    to = os.path.abspath(directory)
    with _complete_tree():
        name: str = build_meta.build_sdist(to, settings)
    _rewrite(Path(to, name))
    return name


def build_wheel(
    directory: str, settings: Settings = None, metadata_directory: str | None = None
) -> str:
    """Build the library if it is not given, and write a wheel into `directory`; its file name."""
    to = os.path.abspath(directory)
    with _complete_tree():
        name: str = build_meta.build_wheel(to, settings, None)
        return name


def prepare_metadata_for_build_wheel(directory: str, settings: Settings = None) -> str:
    """The metadata that the wheel will have; the name of its directory in `directory`."""
    to = os.path.abspath(directory)
    with _complete_tree():
        name: str = build_meta.prepare_metadata_for_build_wheel(to, settings)
        return name


def build_editable(
    directory: str, settings: Settings = None, metadata_directory: str | None = None
) -> str:
    """Refuse: a checkout has no library in the package, and needs no installation either."""
    raise SystemExit(
        "libtelemetry: there is no editable installation. To work in a checkout: make build, and "
        "export PYTHONPATH=python LIBTELEMETRY_PATH=target/release/libtelemetry.so"
    )


@contextlib.contextmanager
def _complete_tree() -> Iterator[None]:
    """Work in a tree that has all the sources: this one, or a copy of the checkout's."""
    os.umask(0o022)  # modes end up in the archives
    if (HERE / "native").is_dir():
        yield
        return
    root = HERE.parent
    if not (root / "Cargo.toml").is_file():
        raise SystemExit(f"libtelemetry: neither {HERE}/native nor {root}/Cargo.toml is there")
    # cargo builds in the checkout, where `make build` has perhaps built the same already.
    os.environ.setdefault("LIBTELEMETRY_SOURCE", str(root))
    before = os.getcwd()
    with tempfile.TemporaryDirectory(prefix="libtelemetry-") as tree:
        _lay_out(root, Path(tree))
        os.chdir(tree)
        try:
            yield
        finally:
            os.chdir(before)


def _lay_out(root: Path, tree: Path) -> None:
    for path in sorted(HERE.iterdir()):
        if path.is_file() and path.suffix in SOURCES:
            _copy(path, tree / path.name)
    for part in PARTS:
        for path in sorted((HERE / part).rglob("*")):
            if path.is_file() and path.suffix in SOURCES:
                _copy(path, tree / path.relative_to(HERE))
    for part in NATIVE:
        paths = [root / part]
        if paths[0].is_dir():
            paths = sorted(paths[0].rglob("*"))
        for path in paths:
            if path.is_file():
                _copy(path, tree / "native" / path.relative_to(root))
    _copy(root / "LICENSE", tree / "LICENSE")
    if shutil.which("cargo") is None:
        raise SystemExit("libtelemetry: there is no cargo in PATH, which a checkout needs")
    script = [sys.executable, str(root / "bindings" / "third_party.py")]
    subprocess.run([*script, str(tree / "THIRD-PARTY-LICENSES.txt")], check=True)


def _copy(path: Path, to: Path) -> None:
    # Not its mode, which depends on who cloned.
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, to)


def _rewrite(archive: Path) -> None:
    """Write the archive anew: sorted, nobody's, and as old as SOURCE_DATE_EPOCH says."""
    now = int(os.environ.get("SOURCE_DATE_EPOCH") or time.time())
    with tarfile.open(archive) as old:
        files = [
            (member, old.extractfile(member).read())  # type: ignore[union-attr]  # a regular file
            for member in sorted(old.getmembers(), key=lambda member: member.name)
            if member.isfile()
        ]
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as new:
        for member, content in files:
            entry = tarfile.TarInfo(member.name)
            entry.size = len(content)
            entry.mtime = now
            entry.mode = stat.S_IRUSR | stat.S_IWUSR | stat.S_IRGRP | stat.S_IROTH
            new.addfile(entry, io.BytesIO(content))
    with archive.open("wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=now) as packed:
        packed.write(plain.getvalue())
