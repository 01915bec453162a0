"""Outside programs, built against the installed tree by pkg-config and CMake, deliver an event."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import urllib.request
from pathlib import Path
from typing import Any

import kit
import pytest

from harness import Program, accepts, free_port, wait_until

OUTSIDE = Path(__file__).parent / "outside"
EXAMPLES = sorted((kit.REPO / "bindings" / "c" / "examples").glob("*.c"))
PAGES = [kit.REPO / "README.md", *sorted((kit.REPO / "bindings" / "c").glob("*.md"))]

SHARED = [
    *(
        (compiler, standard, "app.c")
        for compiler in ("gcc", "clang")
        for standard in ("c99", "c11")
    ),
    ("g++", "c++17", "wrapper.cpp"),
    ("g++", "c++20", "app.c"),
    ("clang++", "c++17", "app.c"),
    ("clang++", "c++20", "wrapper.cpp"),
]
# Each compiler, each standard, and each source once with each way of linking statically.
STATIC = [
    ("gcc", "c99", "app.c", "archive"),
    ("clang", "c11", "app.c", "archive"),
    ("g++", "c++17", "app.c", "archive"),
    ("clang++", "c++20", "wrapper.cpp", "archive"),
    ("gcc", "c11", "app.c", "static"),
    ("clang", "c99", "app.c", "static"),
    ("g++", "c++20", "wrapper.cpp", "static"),
    ("clang++", "c++17", "app.c", "static"),
]


def build(
    tree: kit.Tree, place: Path, compiler: str, standard: str, sources: list[Path], how: str
) -> Path:
    """A program of these sources, strict about warnings, by what pkg-config says."""
    place.mkdir(parents=True, exist_ok=True)
    if "++" in compiler:
        sources = [Path(shutil.copy(source, place / f"{source.stem}.cpp")) for source in sources]
    cflags, libs = tree.flags(how)
    program = place / sources[0].stem
    options = [compiler, f"-std={standard}", *kit.STRICT]
    kit.run(*options, *cflags, *sources, "-o", program, *libs)
    return program


def deliver(tree: kit.Tree, collector: Any, program: Path, event: str, how: str) -> None:
    """The program sends an event of that name; the collector has it, once."""
    done = tree.run(program, collector.url, event, how=how)
    assert done.stdout.split()[0] == kit.version()
    assert done.stderr == ""
    assert collector.count(event) == 1


@pytest.mark.parametrize("compiler, standard, source", SHARED)
def test_shared_by_pkg_config(
    installed: kit.Tree, collector: Any, tmp_path: Path, compiler: str, standard: str, source: str
) -> None:
    sources = [OUTSIDE / source, OUTSIDE / "unit.c"]
    program = build(installed, tmp_path, compiler, standard, sources, "shared")
    assert "libtelemetry.so.0" in kit.is_dynamic(program)
    deliver(installed, collector, program, f"{compiler} {standard} {source} shared", "shared")


@pytest.mark.parametrize("compiler, standard, source, how", STATIC)
def test_static_by_pkg_config(
    installed: kit.Tree,
    collector: Any,
    tmp_path: Path,
    compiler: str,
    standard: str,
    source: str,
    how: str,
) -> None:
    sources = [OUTSIDE / source, OUTSIDE / "unit.c"]
    program = build(installed, tmp_path, compiler, standard, sources, how)
    needed = kit.is_dynamic(program)
    assert not any("telemetry" in name for name in needed)
    assert bool(needed) == (how == "archive")  # static: not even libc
    deliver(installed, collector, program, f"{compiler} {standard} {source} {how}", how)
    # Linked in, and no business of anybody who looks up names in the program.
    archive = kit.run("nm", "-g", "--defined-only", installed.lib / "libtelemetry.a").stdout
    defined = set(re.findall(r"^\w+ [A-Z] (\S+)$", archive, re.MULTILINE))
    assert "telemetry_open" in defined
    assert exported(program) & defined == set()


def exported(program: Path) -> set[str]:
    """What a program or library lets others link with."""
    lines = kit.run("nm", "-D", "--defined-only", program, check=False).stdout.splitlines()
    return {line.split()[-1].split("@")[0] for line in lines}


def test_a_plugin_with_the_archive_in_it_shows_nothing_of_other_libraries(
    installed: kit.Tree, tmp_path: Path
) -> None:
    """All of the archive in a shared object: our names, and few of Rust; no zlib, no crypto."""
    cflags, libs = installed.flags("archive")
    whole = ["-Wl,--whole-archive", libs[0], "-Wl,--no-whole-archive", *libs[1:]]
    plugin = tmp_path / "plugin.so"
    kit.run("gcc", "-shared", "-fPIC", *cflags, OUTSIDE / "unit.c", "-o", plugin, *whole)
    ours = set((kit.REPO / "bindings/c/symbols.txt").read_text().split())
    rest = exported(plugin) - ours - {"other_unit"}
    assert ours <= exported(plugin)
    assert {name for name in rest if not name.startswith(("_R", "rust_"))} == set()


def test_the_private_libraries_are_all_that_the_archive_needs(
    installed: kit.Tree, tmp_path: Path
) -> None:
    """Also where libpthread and libm are libraries of their own."""
    assert installed.pkg_config("--libs-only-l") == ["-ltelemetry"]
    private = set(installed.pkg_config("--static", "--libs-only-l")) - {"-ltelemetry"}
    assert private == {"-lpthread", "-ldl", "-lm"}
    libs = installed.flags("archive")[1]
    whole = ["-Wl,--whole-archive", libs[0], "-Wl,--no-whole-archive"]
    plugin = tmp_path / "plugin.so"
    link = ["gcc", "-shared", "-Wl,-z,defs", "-o", str(plugin), *whole]
    kit.run(*link, *libs[1:])
    without = kit.run(*link, "-nodefaultlibs", "-lc", "-lgcc_s", check=False)
    wanted = set(re.findall(r"undefined reference to `(\w+)'", without.stderr))
    libm = kit.run("nm", "-D", "--defined-only", Path("/") / find("libm.so.6")).stdout
    assert wanted <= {line.split()[-1].split("@")[0] for line in libm.splitlines()}


def find(library: str) -> str:
    """Where the compiler finds a library."""
    return kit.run("gcc", f"-print-file-name={library}").stdout.strip()


@pytest.mark.parametrize("cc, cxx", [("gcc", "g++"), ("clang", "clang++")])
def test_cmake(moved: kit.Tree, collector: Any, tmp_path: Path, cc: str, cxx: str) -> None:
    """Each target in each standard, in a tree that is no longer where it was installed."""
    compilers = [f"-DCMAKE_C_COMPILER={cc}", f"-DCMAKE_CXX_COMPILER={cxx}"]
    said = kit.run(
        "cmake", "-S", OUTSIDE, "-B", tmp_path, f"-DCMAKE_PREFIX_PATH={moved.root}", *compilers
    ).stdout
    assert f"-- telemetry {kit.version()}" in said
    assert dict(re.findall(r"asked for (\S+): (\w+)", said)) == {
        "0.0.1": "1",
        "0.1.0;EXACT": "1",
        "0.1...<1": "1",
        "0.2": "0",
        "1": "0",
        "0.0.9;EXACT": "0",
        "0.1;COMPONENTS;nonsense": "0",
    }
    kit.run("cmake", "--build", tmp_path, "--parallel", "2")
    programs = sorted(path for path in tmp_path.glob("telemetry*-c*") if path.is_file())
    assert len(programs) == 8
    for program in programs:
        is_static = program.name.startswith("telemetry_static")
        assert ("libtelemetry.so.0" in kit.is_dynamic(program)) == (not is_static)
        # CMake itself tells the program where the library is.
        deliver(moved, collector, program, f"{cc} {program.name}", "cmake")


def blocks(page: Path, language: str) -> list[str]:
    """The whole programs of a page."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [text for text in found if re.search(r"\bint main\(", text)]


def test_the_programs_of_the_pages(installed: kit.Tree, collector: Any, tmp_path: Path) -> None:
    """As they stand there, but for the collector's address: both processes' events arrive."""
    programs = [text for page in PAGES for text in blocks(page, "c")]
    assert programs
    for number, text in enumerate(programs):
        name = f"page {number}"
        source = tmp_path / f"page{number}.c"
        assert "http://127.0.0.1:8080" in text
        text = text.replace("http://127.0.0.1:8080", collector.url)
        # A name of its own, of the same length: the length stands beside it.
        own = f"pg_{number:02}"
        assert '\\"hello\\"' in text
        source.write_text(text.replace('\\"hello\\"', f'\\"{own}\\"'))
        program = build(installed, tmp_path / name, "gcc", "gnu11", [source], "shared")
        installed.run(program, how="shared")
        wait_until("the child's event", lambda own=own: collector.count(own) == 2)


@pytest.mark.parametrize("how", ["shared", "archive"])
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_examples(
    installed: kit.Tree, collector: Any, tmp_path: Path, example: Path, how: str
) -> None:
    """Each example of the tree builds outside of it, and delivers all that it has an event for."""
    program = build(installed, tmp_path, "gcc", "gnu11", [example], how)
    text = example.read_text()
    wanted = set(re.findall(r'\\"event\\":\\"([^%"\\]+)|report\([^;"]+, "([^"]+)"', text))
    names = {one or other for one, other in wanted}
    before = {name: collector.count(name) for name in names}
    assert names
    port = free_port()
    is_fleet = "telemetry_fleet_run" in text
    is_server = is_fleet or "listen_on" in text
    arguments = [str(port), "2"] if is_server else [collector.url]
    env = kit.environment(TELEMETRY_ENDPOINT=collector.url)
    env |= {"LD_LIBRARY_PATH": str(installed.lib)} if how == "shared" else {}
    with Program([str(program), *arguments], tmp_path / "log", env, tmp_path) as process:
        if is_server:
            process.wait_for("the server listens", lambda: accepts(port))
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=120) as answer:
                assert answer.status == 200
            if is_fleet:  # its page was that; its jobs come by UDP
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as jobs:
                    jobs.sendto(b"job", ("127.0.0.1", port))
                process.wait_for(
                    "the job's event",
                    lambda: all(collector.count(name) > before[name] for name in names),
                )
            process.stop(signal.SIGTERM)
        assert process.process.wait(120) == 0, process.output()
    missing = {name for name in names if collector.count(name) == before[name]}
    assert missing == set(), process.output()
