"""Builds the packages once, by the README's command; what takes long works beside the tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import debs
import pytest

import harness


@pytest.fixture(scope="session")
def packages() -> debs.Debs:
    """The packages that `make deb` leaves in dist; what they hold is built already."""
    path = os.environ["PATH"]  # has cargo in it, whom the list of licences may need
    debs.run("make", "-C", debs.ROOT, "-o", "build", "deb", seconds=1200, PATH=path)
    return debs.Debs(debs.ROOT / "dist", debs.version())


@pytest.fixture(scope="session", autouse=True)
def lintian(
    packages: debs.Debs, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[harness.Program]:
    """Debian's checker, at work on them."""
    log = tmp_path_factory.mktemp("lintian") / "log"
    paths = [str(deb.path) for deb in packages.all()]
    with debs.beside(log, "lintian", "--fail-on", "error,warning", *paths) as running:
        yield running


@pytest.fixture(scope="session", autouse=True)
def second_build(
    packages: debs.Debs, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[harness.Program, Path]]:
    """A build by somebody else, under way, and where to: a directory with two packages already."""
    out = tmp_path_factory.mktemp("dist")
    (out / f"libtelemetry0_0.0.0_{debs.architecture()}.deb").touch()
    (out / "libtelemetry9_0.0.0_all.deb").touch()
    build = debs.ROOT / "bindings" / "debian" / "build.sh"
    theirs = {"TZ": "Asia/Tokyo", "HOME": str(out), "LC_ALL": "C", "DEB_BUILD_OPTIONS": "nostrip"}
    command = ("sh", "-c", 'umask 077; exec "$0" "$1"', str(build), str(out))
    with debs.beside(out / "log", *command, **theirs) as running:
        yield running, out
