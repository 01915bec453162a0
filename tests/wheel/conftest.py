"""The wheel and the source distribution of this tree, made once by what `make wheel` runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent.parent / "python"))

import packaging_kit  # it needs that path


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of both."""
    directory = tmp_path_factory.mktemp("dist")
    packaging_kit.build_wheel(directory)
    return directory


@pytest.fixture(scope="session")
def wheel(dist: Path) -> Path:
    """The only wheel there."""
    (found,) = dist.glob("*.whl")
    return found


@pytest.fixture(scope="session")
def sdist(dist: Path) -> Path:
    """The only source distribution there."""
    (found,) = dist.glob("*.tar.gz")
    return found


@pytest.fixture(scope="session")
def installing(
    sdist: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[packaging_kit.Installing]:
    """The installation of the source distribution, which may still be under way."""
    begun = packaging_kit.Installing(sdist, tmp_path_factory.mktemp("sdist"))
    with begun.program:
        yield begun


@pytest.fixture(scope="session", autouse=True)
def _begin_early(request: pytest.FixtureRequest) -> None:
    """It compiles for half a minute: let the tests that come first run meanwhile."""
    if any("installing" in getattr(item, "fixturenames", ()) for item in request.session.items):
        request.getfixturevalue("installing")


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """A directory with nothing in it, to run users' programs in."""
    directory = tmp_path / "empty"
    os.mkdir(directory)
    return directory
