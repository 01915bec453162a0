"""The Debian packages installed: found with nothing set, upgraded, and gone without a trace."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import debs
import pytest

import harness

# Says which library it runs with, and delivers an event of a fork; told so on stdin, one more.
PROGRAM = r"""
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <telemetry.h>

int main(int argc, char **argv) {
  char text[512];
  telemetry_t *t;
  snprintf(text, sizeof text, "{\"endpoint\":\"%s\"}", argc > 1 ? argv[1] : "");
  if (telemetry_open(text, &t) != TELEMETRY_OK) return 1;
  FILE *maps = fopen("/proc/self/maps", "r");
  while (maps && fgets(text, sizeof text, maps))
    if (strstr(text, "libtelemetry")) fputs(strchr(text, '/'), stdout);
  puts(telemetry_version());
  fflush(stdout);
  if (fork() == 0) {
    telemetry_enqueue(t, "{\"event\":\"child\"}", 17);
    return 0;
  }
  wait(NULL);
  if (fgets(text, sizeof text, stdin)) telemetry_enqueue(t, "{\"event\":\"line\"}", 16);
  return telemetry_shutdown(t, 60000);
}
"""

PYTHON = r"""
import os
import sys
from libtelemetry import Client

client = Client(sys.argv[1])
print(*{line.split()[-1] for line in open("/proc/self/maps") if "libtelemetry" in line})
if os.fork() == 0:
    client.enqueue({"event": "child"})
    raise SystemExit
os.wait()
client.enqueue({"event": "python"})
raise SystemExit(not client.flush(timeout=60))
"""

CPP = r"""
#include <string>

#include <telemetry.hpp>

int main(int, char **argv) {
  telemetry::client client("{\"endpoint\":\"" + std::string(argv[1]) + "\"}");
  client.enqueue(R"({"event":"c++"})");
}
"""

CMAKE = """
cmake_minimum_required(VERSION 3.16)
project(app C)
find_package(telemetry {version} REQUIRED)
add_executable(shared app.c)
target_link_libraries(shared telemetry::telemetry)
add_executable(static app.c)
target_link_libraries(static telemetry::telemetry_static)
"""


def traces() -> set[str]:
    """Everything on this machine that has one of our names."""
    name = ("-name", "*libtelemetry*", "-o", "-name", "telemetry-tools*")
    return set(
        debs.run("find", "/etc", "/usr", "/var/lib", "/var/cache", "-xdev", *name).split("\n")
    )


@pytest.fixture(scope="module")
def before() -> set[str]:
    """What has one of our names without the packages. Fails where they are somebody else's."""
    if not debs.is_root():
        pytest.skip("installing packages needs root, or sudo without a password")
    why = debs.refusal()
    if why:
        pytest.fail(why)
    return traces()


@pytest.fixture(scope="module")
def installed(packages: debs.Debs, before: set[str]) -> Iterator[debs.Debs]:
    """The packages on this machine; after the last test of this file it is as it was before."""
    try:
        debs.install(*packages.all())
        yield packages
    finally:
        debs.purge()


@pytest.fixture
def taker(
    installed: debs.Debs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[harness.Collector]:
    """The installed command, collecting."""
    monkeypatch.setattr(harness, "TOOL", Path("/usr/bin/telemetry"))
    with harness.Collector(tmp_path) as running:
        yield running


@pytest.fixture
def source(installed: debs.Debs, tmp_path: Path) -> Path:
    """A user's program."""
    path = tmp_path / "app.c"
    path.write_text(PROGRAM)
    return path


def library(version: str) -> str:
    """The file that the loader must take."""
    return str(debs.libdir() / f"libtelemetry.so.{version}")


def arrived(taker: harness.Collector) -> list[str]:
    """The events that it took, sorted."""
    return sorted(event["event"] for event in taker.events())


def compile_and_link(source: Path) -> Path:
    """As in the README: cc app.c $(pkg-config --cflags --libs telemetry)."""
    flags = debs.run("pkg-config", "--cflags", "--libs", "telemetry").split()
    program = source.with_suffix("")
    debs.run("cc", source, "-o", program, *flags)
    return program


def test_loader_finds_it(installed: debs.Debs) -> None:
    (line,) = [line for line in debs.loader_knows() if "libtelemetry.so.0 " in line]
    # /lib is /usr/lib on a merged system, and the cache may name either.
    assert Path(line.split(" => ")[1]).resolve() == Path(library(installed.version))
    assert debs.on_machine() == dict.fromkeys(debs.PACKAGES, installed.version)


def test_files_are_as_packed(installed: debs.Debs) -> None:
    for package in debs.PACKAGES:
        assert debs.run("dpkg", "--verify", package) == ""
        for path in installed.of(package).contents():
            assert os.path.exists(path), path  # links lead somewhere


def test_pkg_config_needs_no_directories(installed: debs.Debs) -> None:
    assert debs.run("pkg-config", "--cflags", "--libs", "telemetry").split() == ["-ltelemetry"]
    assert debs.run("pkg-config", "--modversion", "telemetry").strip() == installed.version
    # The file is of one architecture, as the library is.
    found = debs.run("pkg-config", "--variable=pcfiledir", "telemetry").strip()
    assert Path(found) == debs.libdir() / "pkgconfig"


def test_c_program(installed: debs.Debs, source: Path, taker: harness.Collector) -> None:
    program = compile_and_link(source)
    *mapped, version = debs.run(program, taker.url).split()
    assert set(mapped) == {library(installed.version)}
    assert version == installed.version
    assert arrived(taker) == ["child"]


def test_static_c_program(source: Path, taker: harness.Collector) -> None:
    archive = debs.run("pkg-config", "--variable=archive", "telemetry").strip()
    assert Path(archive) == debs.libdir() / "libtelemetry.a"
    program = source.with_suffix("")
    debs.run("cc", source, archive, "-o", program, "-lpthread", "-ldl", "-lm")
    assert len(debs.run(program, taker.url).split()) == 1  # no library is mapped
    assert arrived(taker) == ["child"]


def test_cpp_program(installed: debs.Debs, tmp_path: Path, taker: harness.Collector) -> None:
    (tmp_path / "app.cpp").write_text(CPP)
    program = tmp_path / "app"
    debs.run("c++", "-std=c++17", "-Wall", tmp_path / "app.cpp", "-o", program, "-ltelemetry")
    debs.run(program, taker.url)
    assert arrived(taker) == ["c++"]


def test_cmake_project(installed: debs.Debs, source: Path, taker: harness.Collector) -> None:
    directory = source.parent
    (directory / "CMakeLists.txt").write_text(CMAKE.format(version=installed.version))
    debs.run("cmake", "-S", directory, "-B", directory / "build")
    debs.run("cmake", "--build", directory / "build")
    *mapped, _ = debs.run(directory / "build" / "shared", taker.url).split()
    assert set(mapped) == {library(installed.version)}
    assert len(debs.run(directory / "build" / "static", taker.url).split()) == 1
    assert arrived(taker) == ["child", "child"]


def test_c_example_of_the_documentation(
    installed: debs.Debs, tmp_path: Path, taker: harness.Collector
) -> None:
    place = "/usr/share/doc/libtelemetry-dev/examples/c/quickstart.c"
    debs.run("cc", place, "-o", tmp_path / "quickstart", "-ltelemetry")
    debs.run(tmp_path / "quickstart", taker.url)
    assert arrived(taker) == ["hello", "hello from a fork"]


def test_system_python(installed: debs.Debs, taker: harness.Collector) -> None:
    output = debs.run(
        "/usr/bin/python3", "-c", PYTHON, taker.url, PYTHONPATH=str(debs.ROOT / "python")
    )
    accelerator = str(debs.ROOT / "python" / "libtelemetry" / "_accel.abi3.so")
    assert set(output.split()) - {accelerator} == {library(installed.version)}
    assert arrived(taker) == ["child", "python"]


def test_command_and_manual(installed: debs.Debs) -> None:
    assert debs.run("telemetry", "--version").strip() == f"telemetry {installed.version}"
    assert debs.run("man", "-w", "telemetry").strip() == "/usr/share/man/man1/telemetry.1.gz"
    for page in ("telemetry.h", "telemetry_fleet"):
        assert debs.run("man", "-w", page).strip() == f"/usr/share/man/man3/{page}.3.gz"


def test_upgrade_under_a_running_program(
    installed: debs.Debs, source: Path, taker: harness.Collector, tmp_path: Path
) -> None:
    program = compile_and_link(source)
    old = older(installed, tmp_path)
    debs.install(*old.all())
    assert debs.on_machine() == dict.fromkeys(debs.PACKAGES, old.version)
    with subprocess.Popen(
        [program, taker.url],
        env=debs.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdin and running.stdout
        try:
            assert running.stdout.readline().strip() == library(old.version)
            debs.install(*installed.all())
            debs.install(installed.of("libtelemetry0"))  # over itself
            running.communicate("go on\n", timeout=120)
        finally:
            running.kill()
    assert running.returncode == 0
    assert arrived(taker) == ["child", "line"]
    assert not Path(library(old.version)).exists()
    assert library(installed.version) in debs.run(program, taker.url).split()
    assert debs.run("dpkg", "--verify", *debs.PACKAGES) == ""


def older(packages: debs.Debs, directory: Path) -> debs.Debs:
    """The same packages as an older version."""
    old = debs.Debs(directory, "0.0.0")
    for package in debs.PACKAGES:
        tree = directory / package
        debs.run("dpkg-deb", "--raw-extract", packages.of(package).path, tree)
        control = tree / "DEBIAN" / "control"
        control.write_text(control.read_text().replace(packages.version, old.version))
        (tree / "DEBIAN" / "md5sums").unlink()
        if package == "libtelemetry0":
            there = tree / library(packages.version).lstrip("/")
            there.rename(there.with_name(f"libtelemetry.so.{old.version}"))
            link = there.with_name("libtelemetry.so.0")
            link.unlink()
            link.symlink_to(f"libtelemetry.so.{old.version}")
        debs.run("dpkg-deb", "--root-owner-group", "-Znone", "--build", tree, old.of(package).path)
    return old


def test_library_stays_while_it_is_needed(installed: debs.Debs) -> None:
    refused = debs.dpkg("--remove", "libtelemetry0", status=1)
    assert "libtelemetry-dev:" in refused
    assert "depends on libtelemetry0 (=" in refused
    assert debs.on_machine() == dict.fromkeys(debs.PACKAGES, installed.version)


def test_nothing_is_left(installed: debs.Debs, before: set[str]) -> None:
    files = {path for deb in installed.all() for path in deb.contents()}
    assert all(map(os.path.lexists, files))
    debs.dpkg("--remove", *debs.PACKAGES)
    assert debs.on_machine() == {}, "there is nothing that only purge would take off"
    assert [path for path in files if os.path.lexists(path)] == []
    assert debs.loader_knows() == []
    assert debs.attempt("pkg-config", "telemetry").returncode == 1
    assert debs.attempt("man", "-w", "telemetry.h").returncode == 16
    assert traces() <= before
