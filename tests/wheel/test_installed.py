"""The wheel, installed by each CPython's own pip into a bare environment, does its work there."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from interpreters import interpreters
from packaging_kit import Bare, check, run

from harness import LIBRARY, ROOT, Collector

PYTHONS = {".".join(map(str, version)): path for version, path in interpreters().items()}
PROGRAM = Path(__file__).with_name("program.py")


@pytest.mark.parametrize("version", PYTHONS)
def test_install_use_uninstall(
    version: str, wheel: Path, empty: Path, tmp_path: Path, collector: Collector
) -> None:
    bare = Bare(PYTHONS[version], tmp_path / "venv")
    before = bare.files()
    bare.install(wheel)
    # But for what a busy machine has CPython say of a fork: python/test_fork.py has that.
    warnings = ("-W", "error", "-W", "ignore:This process:DeprecationWarning")
    said = check(bare.python, *warnings, PROGRAM, collector.url, env=bare.env, cwd=empty)
    found = json.loads(said)

    inside = bare.site / "libtelemetry"
    assert found["package"] == str(inside)
    assert len(set(found["version"])) == 1
    assert found["mapped in the child"] == found["mapped"]
    files = ["_accel.abi3.so", "libtelemetry.so.0"]
    assert found["mapped"] == [str(inside / name) for name in files]
    # One extends its SDK's classes, the other is uWSGI's.
    missing = found["not imported"]
    assert sorted(missing) == ["libtelemetry.integrations.opentelemetry", "libtelemetry.uwsgi"]
    assert "pip install opentelemetry-sdk" in missing["libtelemetry.integrations.opentelemetry"]
    assert "inside uWSGI only" in missing["libtelemetry.uwsgi"]

    events = collector.events()
    origins = sorted(event["from"] for event in events if "from" in event)
    methods = [f"multiprocessing {method}" for method in ("fork", "forkserver", "spawn")]
    assert origins == ["before the fork", *methods, "the child", "the end", "the parent"]
    (logged,) = (event for event in events if "from" not in event)
    assert "3 left" in json.dumps(logged)

    bare.uninstall()
    assert bare.files() - before == set()


def test_the_example_of_the_page(wheel: Path, empty: Path, tmp_path: Path) -> None:
    page = (ROOT / "python" / "README.md").read_text()
    first = re.search(r"^```python\n(.*?)^```", page, re.M | re.S)
    assert first is not None
    (empty / "try.py").write_text(first.group(1))
    bare = Bare(next(iter(PYTHONS.values())), tmp_path / "venv")
    bare.install(wheel)
    said = check(bare.python, "try.py", env=bare.env, cwd=empty)
    assert said.startswith("2 from the parent, and one from the child:\n")
    origins = [json.loads(line)["from"] for line in said.splitlines()[1:]]
    assert sorted(origins) == ["child", "parent", "parent, after the fork"]


def test_a_library_of_another_abi_is_named(wheel: Path, empty: Path, tmp_path: Path) -> None:
    """Whether it lies in the package or is named by the environment."""
    bare = Bare(next(iter(PYTHONS.values())), tmp_path / "venv")
    bare.install(wheel)
    stub = tmp_path / "stub.c"
    stub.write_text("unsigned telemetry_abi_version(void) { return 2; }\n")
    library = bare.site / "libtelemetry" / "libtelemetry.so.0"
    program = "import libtelemetry; print(libtelemetry.Client('file:x.ndjson')._native.path)"

    def open_client(**more: str) -> subprocess.CompletedProcess[str]:
        return run(bare.python, "-c", program, env={**bare.env, **more}, cwd=empty)

    # Its own, although the system has one, too.
    assert open_client(LD_LIBRARY_PATH=str(LIBRARY.parent)).stdout == f"{library}\n"
    other = tmp_path / "other.so"
    name = "-Wl,-soname,libtelemetry.so.0"
    subprocess.run(["cc", "-shared", "-fPIC", name, "-o", other, stub], check=True)
    expected = "has ABI version 2, this package needs 1; install the library and the package"
    done = open_client(LIBTELEMETRY_PATH=str(other))
    assert done.returncode == 1
    assert (
        f"LibraryNotFound: libtelemetry was not found; tried\n  {other}: {expected}" in done.stdout
    )

    # In the package and on the system: whoever runs this test may have a good one there.
    system = tmp_path / "system"
    system.mkdir()
    for place in (system / "libtelemetry.so.0", system / "libtelemetry.so", library):
        place.unlink(missing_ok=True)
        place.write_bytes(other.read_bytes())
    done = open_client(LD_LIBRARY_PATH=str(system))
    assert done.returncode == 1
    for place in (str(library), "libtelemetry.so.0", "libtelemetry.so"):
        assert f"\n  {place}: {expected}" in done.stdout
