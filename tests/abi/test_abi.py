"""The library and the command as the linker, the loader and a compiler see them."""

import os
import pathlib
import re
import subprocess

import pytest

REPO = pathlib.Path(__file__).parent.parent.parent
BUILD = pathlib.Path(os.environ.get("LIBTELEMETRY_BUILD", REPO / "target" / "release"))
INCLUDE = pathlib.Path(os.environ.get("LIBTELEMETRY_INCLUDE", REPO / "include"))
LIBRARY = BUILD / "libtelemetry.so"
HEADER = INCLUDE / "telemetry.h"


def output(*command):
    return subprocess.run([*map(str, command)], check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """The library and the command as they are installed: stripped."""
    place = tmp_path_factory.mktemp("tree")
    script = REPO / "bindings" / "c" / "install.sh"
    env = {
        **os.environ,
        "OUT": str(BUILD),
        "DESTDIR": str(place),
        "PREFIX": "/p",
        "LIBDIR": "/p/lib",
    }
    subprocess.run([script, "install"], env=env, check=True, stdout=subprocess.DEVNULL)
    return place / "p"


# What is built, what is installed, and the command.
BINARIES = ["built", "installed", "command"]
LIBRARIES = ["built", "installed"]


@pytest.fixture
def binary(request, tree):
    installed = {
        "installed": tree / "lib" / "libtelemetry.so",
        "command": tree / "bin" / "telemetry",
    }
    return LIBRARY if request.param == "built" else installed[request.param]


@pytest.fixture
def dynamic(binary):
    return output("readelf", "-dW", binary)


@pytest.fixture
def segments(binary):
    return output("readelf", "-lW", binary)


def listed():
    return (REPO / "bindings" / "c" / "symbols.txt").read_text().split()


def test_the_list_is_sorted():
    assert listed() == sorted(set(listed()))


@pytest.mark.parametrize("binary", LIBRARIES, indirect=True)
def test_exports_are_the_list(binary):
    lines = output("nm", "-D", "--defined-only", binary).splitlines()
    # "T name" or "T name@@VERSION"; A is the version itself.
    names = [line.split()[2].split("@")[0] for line in lines if line.split()[1] != "A"]
    assert sorted(names) == listed()


def test_header_declares_the_list():
    text = re.sub(r"/\*.*?\*/|//[^\n]*", "", HEADER.read_text(), flags=re.S)
    declared = re.findall(r"\b(telemetry_\w+)\s*\(", text)
    assert sorted(declared) == listed()


@pytest.mark.parametrize("binary", LIBRARIES, indirect=True)
def test_soname(dynamic):
    assert re.findall(r"SONAME.*\[(.*)\]", dynamic) == ["libtelemetry.so.0"]


@pytest.mark.parametrize("binary", LIBRARIES, indirect=True)
def test_is_never_unloaded(dynamic):
    assert re.search(r"FLAGS_1.*\bNODELETE\b", dynamic)


@pytest.mark.parametrize("binary", BINARIES, indirect=True)
def test_needs_libc_only(dynamic):
    needed = set(re.findall(r"NEEDED.*\[(.*)\]", dynamic))
    assert needed <= {
        "libc.so.6",
        "libgcc_s.so.1",
        "libm.so.6",
        "libpthread.so.0",
        "libdl.so.2",
        "ld-linux-x86-64.so.2",
        "ld-linux-aarch64.so.1",
    }


@pytest.mark.parametrize("binary", BINARIES, indirect=True)
def test_hardened(dynamic, segments):
    assert not re.search(r"\bR(UN)?PATH\b", dynamic)
    assert not re.search(r"\bTEXTREL\b", dynamic)
    # Full RELRO: bound at load, and the tables are read-only from then on.
    assert "GNU_RELRO" in segments
    assert re.search(r"FLAGS.*\bBIND_NOW\b", dynamic) or re.search(r"FLAGS_1.*\bNOW\b", dynamic)
    (stack,) = re.findall(r"GNU_STACK.*", segments)
    assert re.search(r"\bRW\b", stack) and "RWE" not in stack
    for load in re.findall(r"LOAD .*", segments):
        assert not re.search(r"\bRWE\b", load), load


@pytest.mark.parametrize("binary", ["command"], indirect=True)
def test_the_command_may_be_loaded_anywhere(binary, dynamic):
    assert re.search(
        r"Type:\s+DYN \(Position-Independent Executable", output("readelf", "-hW", binary)
    )
    assert re.search(r"FLAGS_1.*\bPIE\b", dynamic)


def test_stripped_size(tmp_path, tree):
    stripped = tmp_path / "stripped.so"
    output("strip", "-o", stripped, LIBRARY)
    assert stripped.stat().st_size < 4 << 20
    installed = (tree / "lib" / "libtelemetry.so").stat().st_size
    # As small, but for what strip keeps of a library.
    assert installed < stripped.stat().st_size + 4096


def test_numbers_sizes_and_signatures():
    """Compiled in C: what pins.c says of them is true."""
    pins = pathlib.Path(__file__).parent / "pins.c"
    for compiler in ("gcc", "clang"):
        flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", "-fsyntax-only"]
        subprocess.run([compiler, *flags, f"-I{INCLUDE}", pins], check=True)


def test_all_of_the_header_is_pinned():
    text = (pathlib.Path(__file__).parent / "pins.c").read_text()
    header = HEADER.read_text()
    assert sorted(re.findall(r"^  \.\w+ = (\w+),$", text, re.M)) == listed()
    counters = re.findall(r"^  uint64_t (\w+);$", header, re.M)
    assert re.findall(r"^COUNTER\(\d+, (\w+)\);$", text, re.M) == counters
    numbers = re.findall(r"^#define (TELEMETRY_\w+) (\d+)$", header, re.M)
    numbers += re.findall(r"^  (TELEMETRY_\w+) = (\d+),$", header, re.M)
    assert sorted(re.findall(r"^PIN\((\w+) == (\d+)\);$", text, re.M)) == sorted(numbers)


@pytest.mark.parametrize(
    "compiler, standard, suffix",
    [
        ("cc", "c99", "c"),
        ("cc", "c11", "c"),
        ("c++", "c++17", "cpp"),
    ],
)
def test_header_compiles(tmp_path, compiler, standard, suffix):
    """Alone, twice, in two units of one program, and with every name used."""
    name = "telemetry.h"
    uses = "\n".join(f"  used[n++] = (function){symbol};" for symbol in listed())
    (tmp_path / f"one.{suffix}").write_text(
        f'#include "{name}"\n#include "{name}"\nint other(void);\ntypedef void (*function)(void);\n'
        f"int main(void) {{\n  function used[{len(listed())}];\n  int n = 0;\n{uses}\n"
        "  telemetry_stats_t stats;\n  telemetry_level level = TELEMETRY_WARN;\n"
        "  telemetry_status status = TELEMETRY_OK;\n"
        "  return used[0] && sizeof stats && level == 2 && !status && other()"
        f" && n == {len(listed())} ? 0 : 1;\n}}\n"
    )
    (tmp_path / f"two.{suffix}").write_text(
        f'#include "{name}"\nint other(void);\n'
        "int other(void) { return (int)telemetry_abi_version(); }\n"
    )
    (tmp_path / "libtelemetry.so.0").symlink_to(LIBRARY.resolve())
    program = tmp_path / "program"
    subprocess.run(
        [
            compiler,
            f"-std={standard}",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-pedantic",
            f"-I{INCLUDE}",
            str(tmp_path / f"one.{suffix}"),
            str(tmp_path / f"two.{suffix}"),
            "-o",
            str(program),
            str(tmp_path / "libtelemetry.so.0"),
            f"-Wl,-rpath,{tmp_path}",
        ],
        check=True,
    )
    assert subprocess.run([str(program)]).returncode == 0
