"""The Debian packages as files: contents, dependencies, licences, the same bytes each time."""

from __future__ import annotations

import gzip
import re
from email.utils import parsedate_to_datetime
from pathlib import Path

import debs
import pytest

import harness

FILE, PROGRAM = "-rw-r--r-- root/root", "-rwxr-xr-x root/root"


def examples() -> set[str]:
    """The sources of examples that are committed, from bindings/ on."""
    places = ("bindings/c/examples", "bindings/cpp/examples")
    listed = debs.run("git", "-C", debs.ROOT, "ls-files", *places)
    return {
        name.removeprefix("bindings/").replace("/examples", "", 1)
        for name in listed.split()
        if not name.endswith(".md")
    }


def test_files_are_what_they_should_be(packages: debs.Debs) -> None:
    lib, doc, man = debs.libdir(), "/usr/share/doc", "/usr/share/man"
    real = f"libtelemetry.so.{packages.version}"
    assert packages.of("libtelemetry0").contents() == {
        f"{lib}/{real}": FILE,
        f"{lib}/libtelemetry.so.0": f"-> {real}",
        f"{doc}/libtelemetry0/THIRD-PARTY-LICENSES.txt.gz": FILE,
        f"{doc}/libtelemetry0/changelog.gz": FILE,
        f"{doc}/libtelemetry0/copyright": FILE,
    }
    assert packages.of("libtelemetry-dev").contents() == {
        "/usr/include/telemetry.h": FILE,
        "/usr/include/telemetry.hpp": FILE,
        f"{lib}/cmake/telemetry/telemetry-config-version.cmake": FILE,
        f"{lib}/cmake/telemetry/telemetry-config.cmake": FILE,
        f"{lib}/libtelemetry.a": FILE,
        f"{lib}/libtelemetry.so": "-> libtelemetry.so.0",
        f"{lib}/pkgconfig/telemetry.pc": FILE,
        f"{doc}/libtelemetry-dev/README.md.gz": FILE,
        f"{doc}/libtelemetry-dev/THIRD-PARTY-LICENSES.txt.gz": (
            "-> ../libtelemetry0/THIRD-PARTY-LICENSES.txt.gz"
        ),
        f"{doc}/libtelemetry-dev/changelog.gz": FILE,
        f"{doc}/libtelemetry-dev/copyright": FILE,
        f"{man}/man3/telemetry.h.3.gz": FILE,
        f"{man}/man3/telemetry_fleet.3.gz": FILE,
        **{f"{doc}/libtelemetry-dev/examples/{name}": FILE for name in examples()},
    }
    assert packages.of("telemetry-tools").contents() == {
        "/usr/bin/telemetry": PROGRAM,
        f"{doc}/telemetry-tools/THIRD-PARTY-LICENSES.txt.gz": FILE,
        f"{doc}/telemetry-tools/changelog.gz": FILE,
        f"{doc}/telemetry-tools/copyright": FILE,
        f"{man}/man1/telemetry.1.gz": FILE,
    }


def test_no_script_runs_at_installation(packages: debs.Debs) -> None:
    assert packages.of("libtelemetry0").control_files() == {
        "control",
        "md5sums",
        "shlibs",
        "symbols",
        "triggers",
    }
    triggers = packages.of("libtelemetry0").control("triggers").splitlines()
    assert [line for line in triggers if not line.startswith("#")] == ["activate-noawait ldconfig"]
    for package in ("libtelemetry-dev", "telemetry-tools"):
        assert packages.of(package).control_files() == {"control", "md5sums"}


@pytest.mark.parametrize(
    ("package", "section", "multi_arch"),
    [
        ("libtelemetry0", "libs", "same"),
        ("libtelemetry-dev", "libdevel", "same"),
        ("telemetry-tools", "utils", "foreign"),
    ],
)
def test_control(packages: debs.Debs, package: str, section: str, multi_arch: str) -> None:
    deb = packages.of(package)
    assert deb.field("Package") == package
    assert deb.field("Version") == packages.version
    assert deb.field("Architecture") == debs.architecture()
    assert deb.field("Section") == section
    assert deb.field("Multi-Arch") == multi_arch
    assert deb.field("Priority") == "optional"


@pytest.mark.parametrize(
    ("package", "binary"),
    [("libtelemetry0", "libtelemetry.so.0.*"), ("telemetry-tools", "telemetry")],
)
def test_needs_the_libc_that_it_was_linked_with(
    packages: debs.Debs, tmp_path: Path, package: str, binary: str
) -> None:
    deb = packages.of(package)
    depends = deb.field("Depends")
    found = dict(re.findall(r"(\S+) \(>= ([^)]+)\)", depends))
    assert len(found) == len(depends.split(", "))
    debs.run("dpkg-deb", "--extract", deb.path, tmp_path)
    (file,) = tmp_path.rglob(binary)
    names = debs.run("objdump", "-T", file)
    assert set(found) == {"libc6"} | ({"libgcc-s1"} if "GCC_" in names else set())
    newest = max(
        tuple(map(int, version.split("."))) for version in re.findall(r"GLIBC_([0-9.]+)", names)
    )
    assert tuple(map(int, re.findall(r"\d+", found["libc6"])))[:2] >= newest[:2]


def test_headers_and_library_are_of_one_version(packages: debs.Debs) -> None:
    depends = packages.of("libtelemetry-dev").field("Depends")
    assert depends == f"libtelemetry0 (= {packages.version})"


def test_symbols_are_the_list(packages: debs.Debs) -> None:
    first, *lines = packages.of("libtelemetry0").control("symbols").splitlines()
    assert first == "libtelemetry.so.0 libtelemetry0 #MINVER#"
    names = (debs.ROOT / "bindings" / "c" / "symbols.txt").read_text().split()
    assert lines == [
        "* Build-Depends-Package: libtelemetry-dev",
        *(f" {name}@Base {packages.version}" for name in names),
    ]


@pytest.mark.parametrize("package", debs.PACKAGES)
def test_licences_are_in_it(packages: debs.Debs, package: str) -> None:
    place = f"/usr/share/doc/{package}"
    text = " ".join(packages.of(package).read(f"{place}/copyright").decode().split())
    ours = (debs.ROOT / "LICENSE").read_text()
    (holder,) = re.findall(r"^Copyright \(c\) (.*)", ours, re.M)
    assert f"Copyright: {holder}" in text
    mit = ours.partition(holder)[2].partition("=====")[0]
    for paragraph in mit.strip().split("\n\n"):
        assert " ".join(paragraph.split()) in text.replace(" . ", " ")
    assert "/usr/share/common-licenses/Apache-2.0" in text
    # The headers' package depends on the library's, whose file it points to.
    owner = "libtelemetry0" if package == "libtelemetry-dev" else package
    crates = gzip.decompress(
        packages.of(owner).read(f"/usr/share/doc/{owner}/THIRD-PARTY-LICENSES.txt.gz")
    )
    assert b"rustls" in crates
    assert b"ring" in crates


def test_is_dated_by_the_commit(packages: debs.Debs) -> None:
    changelog = gzip.decompress(
        packages.of("libtelemetry0").read("/usr/share/doc/libtelemetry0/changelog.gz")
    ).decode()
    assert changelog.startswith(f"libtelemetry ({packages.version}) ")
    (date,) = re.findall(r"^ -- .*>  (.*)", changelog, re.M)
    commit = debs.run("git", "-C", debs.ROOT, "log", "-1", "--format=%ct")
    assert parsedate_to_datetime(date).timestamp() == int(commit)


def test_two_builds_are_the_same_bytes(
    packages: debs.Debs, second_build: tuple[harness.Program, Path]
) -> None:
    build, out = second_build
    assert build.process.wait(1200) == 0, build.output()
    again = debs.Debs(out, packages.version)
    for package in debs.PACKAGES:
        first, second = packages.of(package).path, again.of(package).path
        assert first.read_bytes() == second.read_bytes(), package
    # Of ours it has replaced the older one, which `apt install *.deb` would have met.
    assert {path.name for path in out.glob("*.deb")} == {
        *(deb.path.name for deb in again.all()),
        "libtelemetry9_0.0.0_all.deb",
    }


def test_the_checker_is_content(lintian: harness.Program) -> None:
    assert lintian.process.wait(1200) == 0, lintian.output()
