"""The version stands in Cargo.toml; every other place where one is stated says the same."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from pathlib import Path

import kit
import pytest

# Three numbers that are not part of more, as 127.0.0.1 is.
NUMBERS = re.compile(r"(?<![\d.])\d+\.\d+\.\d+(?![\d]|\.\d)")
# What speaks of other people's versions.
OTHERS = {"LICENSE", "THIRD-PARTY-LICENSES.txt"}


def test_the_named_places(installed: kit.Tree) -> None:
    version = kit.version()
    said = {
        "pkg-config": installed.pkg_config("--modversion")[0],
        "command": kit.run(installed.tool, "--version").stdout.split()[1],
        "library": library_version(installed.lib / "libtelemetry.so"),
        "file": os.path.realpath(installed.lib / "libtelemetry.so.0").partition(".so.")[2],
    }
    cmake = installed.lib / "cmake/telemetry/telemetry-config-version.cmake"
    found = re.search(r'set\(PACKAGE_VERSION "(.*?)"\)', cmake.read_text())
    said["cmake"] = found[1] if found else ""
    for page in (installed.root / "share/man").rglob("telemetry*"):
        found = re.search(r'^\.TH .*"libtelemetry (\S+)"', page.read_text(), re.MULTILINE)
        said[page.name] = found[1] if found else ""
    head = (installed.root / "share/doc/libtelemetry/THIRD-PARTY-LICENSES.txt").read_text()
    said["licences"] = head.split(":")[0].split()[-1]
    assert len(said) == 9
    assert set(said.values()) == {version}, said


def library_version(library: Path) -> str:
    """What telemetry_version() says."""
    function = ctypes.CDLL(str(library)).telemetry_version
    function.restype = ctypes.c_char_p
    version: bytes = function()
    return version.decode()


def test_nothing_in_the_installed_tree_states_another(installed: kit.Tree) -> None:
    """Whatever looks like a version in a text file is ours."""
    seen = 0
    for path in installed.root.rglob("*"):
        binary = {".a", ".so", ".0"} & set(path.suffixes) or path == installed.tool
        if path.is_file() and not binary and path.name not in OTHERS:
            for number in NUMBERS.findall(path.read_text()):
                assert number == kit.version(), path
                seen += 1
    assert seen >= 4


def test_the_number_in_the_soname_is_the_major_version(installed: kit.Tree) -> None:
    dynamic = kit.run("readelf", "-dW", installed.lib / "libtelemetry.so").stdout
    found = re.search(r"SONAME.*\[libtelemetry\.so\.(\d+)\]", dynamic)
    assert found
    assert found[1] == kit.version().split(".")[0]
    assert (
        f'IMPORTED_SONAME "libtelemetry.so.{found[1]}"'
        in (installed.lib / "cmake/telemetry/telemetry-config.cmake").read_text()
    )


def test_the_package_of_python() -> None:
    manifest = (kit.REPO / "python" / "pyproject.toml").read_text()
    stated = re.search(r'^version = "(.*?)"', manifest, re.MULTILINE)
    dynamic = re.search(r'^dynamic = \[.*"version"', manifest, re.MULTILINE)
    assert bool(stated) != bool(dynamic)
    assert not stated or stated[1] == kit.version()
    code = "import libtelemetry; print(libtelemetry.__version__)"
    env = kit.environment(
        PYTHONPATH=str(kit.REPO / "python"), LIBTELEMETRY_PATH=str(kit.BUILD / "libtelemetry.so")
    )
    assert kit.run(sys.executable, "-c", code, env=env).stdout.strip() == kit.version()


def test_the_changes_begin_with_this_version() -> None:
    changes = (kit.REPO / "README.md").read_text().split("\n## Changes\n")[1]
    stated = re.search(r"\*\*(\d\S*)\*\*", changes)
    assert stated and stated[1] == kit.version()


def test_cargo_knows_no_other() -> None:
    lock = (kit.REPO / "Cargo.lock").read_text()
    found = re.search(r'^name = "libtelemetry"\nversion = "(.*?)"', lock, re.MULTILINE)
    assert found and found[1] == kit.version()


@pytest.mark.parametrize("version", ["0.2.0-rc.1", "3.4.5"])
def test_another_version_in_cargo_toml_is_another_everywhere(tmp_path: Path, version: str) -> None:
    """The names and texts of an installation follow Cargo.toml, with no second place to change."""
    tree = tmp_path / "tree"
    for part in ("bindings/c", "bindings/cpp", "include"):
        (tree / part).mkdir(parents=True)
    manifest = (kit.REPO / "Cargo.toml").read_text()
    (tree / "Cargo.toml").write_text(manifest.replace(f'"{kit.version()}"', f'"{version}"', 1))
    for name in ("LICENSE", "include/telemetry.h", "bindings/cpp/telemetry.hpp"):
        (tree / name).symlink_to(kit.REPO / name)
    for path in (kit.REPO / "bindings/c").iterdir():
        if path.name != "install.sh":
            (tree / "bindings/c" / path.name).symlink_to(path)
    script = tree / "bindings/c/install.sh"
    script.write_bytes((kit.REPO / "bindings/c/install.sh").read_bytes())
    env = kit.environment(PREFIX=str(tmp_path / "p"), OUT=str(kit.BUILD), STRIP="true")
    said = kit.run("bash", script, "install", env=env).stdout
    assert f"libtelemetry {version} " in said
    root = kit.Tree(tmp_path / "p")
    assert root.pkg_config("--modversion") == [version]
    assert (root.lib / f"libtelemetry.so.{version}").is_file()
    assert os.readlink(root.lib / f"libtelemetry.so.{version[0]}") == f"libtelemetry.so.{version}"
    texts = [path for path in root.root.rglob("*") if path.suffix in {".pc", ".cmake", ".1", ".3"}]
    texts = [path for path in texts if path.is_file() and "libtelemetry.so" not in path.name]
    assert len(texts) == 6
    for path in texts:
        assert kit.version() not in path.read_text(), path
    major = int(version[0])
    asked = {
        f"{major}.0": True,
        f"{major}.9": False,
        f"{major + 1}": False,
        f"{major - 1}.0": False,
    }
    for request, suits in asked.items():
        assert serves(root, request) == suits, request


def serves(tree: kit.Tree, request: str) -> bool:
    """Whether CMake would take the tree for a request."""
    given = {"": request, "_MAJOR": request.split(".")[0], "_COUNT": str(request.count(".") + 1)}
    options = [f"-DPACKAGE_FIND_VERSION{name}={value}" for name, value in given.items()]
    script = tree.root / "ask.cmake"
    file = tree.lib / "cmake/telemetry/telemetry-config-version.cmake"
    script.write_text(f'include("{file}")\nmessage(STATUS "${{PACKAGE_VERSION_COMPATIBLE}}")\n')
    answer = kit.run("cmake", *options, "-P", script).stdout.split()[-1]
    assert answer in ("TRUE", "FALSE")
    return answer == "TRUE"
