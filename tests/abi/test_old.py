"""A program built long ago runs with today's library; `make abi` sees what would break it."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
from test_abi import HEADER, LIBRARY, REPO

OLD = pathlib.Path(__file__).parent / "old"
ABI = REPO / "bindings" / "c" / "abi.py"
STRICT = ["-std=c11", "-Wall", "-Wextra", "-Werror"]
STUB = ["-shared", "-fPIC", "-Wl,-soname,libtelemetry.so.0"]


def clean():
    foreign = ("TELEMETRY_", "OTEL_", "MAKE", "GIT_")
    return {key: value for key, value in os.environ.items() if not key.startswith(foreign)}


def test_an_old_program(tmp_path):
    """Linked with a library that has the old names only; it finds the new one at run time."""
    stub, new, program = tmp_path / "libtelemetry.so", tmp_path / "new", tmp_path / "old"
    subprocess.run(["cc", *STRICT, *STUB, OLD / "stub.c", "-o", stub], check=True)
    flags = ["-pedantic", f"-I{OLD}", f"-L{tmp_path}"]
    subprocess.run(["cc", *STRICT, *flags, OLD / "old.c", "-o", program, "-ltelemetry"], check=True)
    stub.unlink()
    new.mkdir()
    (new / "libtelemetry.so.0").symlink_to(LIBRARY.resolve())
    out = tmp_path / "events.ndjson"
    env = {**clean(), "LD_LIBRARY_PATH": str(new)}
    done = subprocess.run(
        [program, f"file:{out}"], env=env, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stderr) == (0, "")
    events = [json.loads(line)["event"] for line in out.read_text().splitlines()]
    assert events == ["from an old program"] * 3


def test_the_old_interface_is_part_of_the_new_one(tmp_path):
    """The frozen header against today's, by the same comparison as between releases."""
    stub = tmp_path / "old.so"
    subprocess.run(["cc", *STRICT, *STUB, OLD / "stub.c", "-o", stub], check=True)
    done = compare(stub, OLD / "telemetry.h", LIBRARY, HEADER)
    assert done.returncode == 0, done.stdout


def compare(*four):
    return subprocess.run(
        [sys.executable, ABI, *map(str, four)],
        env=clean(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


# A change of the header: what is said of it, or None if it is allowed.
CHANGES = {
    "nothing": ("", "", None),
    "a function more": (
        "#endif // __cplusplus",
        "#endif // __cplusplus\nvoid telemetry_new(void);",
        None,
    ),
    "a counter more": (
        "  uint64_t media_bytes;",
        "  uint64_t media_bytes;\n  uint64_t more;",
        None,
    ),
    "a level more": (
        "  TELEMETRY_DEBUG = 4,",
        "  TELEMETRY_DEBUG = 4,\n  TELEMETRY_TRACE = 5,",
        None,
    ),
    "a counter in between": (
        "  uint64_t expired;",
        "  uint64_t more;\n  uint64_t expired;",
        "offset changed",
    ),
    "a counter gone": ("  uint64_t media_bytes;", "", "size changed"),
    "a counter of another type": (
        "  uint64_t media_bytes;",
        "  double media_bytes;",
        "type of 'uint64_t media_bytes' changed",
    ),
    "a parameter of another type": (
        "telemetry_flush(telemetry_t *t,\n",
        "telemetry_flush(int t,\n",
        "parameter 1",
    ),
    "a parameter more": (
        "telemetry_free(telemetry_t *t)",
        "telemetry_free(telemetry_t *t, int n)",
        "was added",
    ),
    "another result": (
        "uint32_t telemetry_abi_version",
        "uint64_t telemetry_abi_version",
        "return type",
    ),
    "a status with another number": (
        "TELEMETRY_IO 6",
        "TELEMETRY_IO 9",
        "TELEMETRY_IO was 6, and is 9",
    ),
    "a level gone": ("  TELEMETRY_DEBUG = 4,", "", "TELEMETRY_DEBUG was 4, and is gone"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_change_means(tmp_path, change):
    before, after, said = CHANGES[change]
    text = HEADER.read_text()
    assert before in text
    header = tmp_path / "telemetry.h"
    header.write_text(text.replace(before, after, 1))
    done = compare(LIBRARY, HEADER, LIBRARY, header)
    assert (done.returncode == 0) == (said is None), done.stdout
    assert said is None or said in done.stdout, done.stdout


def test_a_function_that_only_the_library_has_lost(tmp_path):
    """The header still declares it: the libraries themselves are compared, too."""
    stub = tmp_path / "old.so"
    subprocess.run(["cc", *STRICT, *STUB, OLD / "stub.c", "-o", stub], check=True)
    done = compare(LIBRARY, HEADER, stub, HEADER)
    assert done.returncode == 1
    then = (OLD / "telemetry.h").read_text()
    lost = [
        name
        for name in (REPO / "bindings" / "c" / "symbols.txt").read_text().split()
        if f"{name}(" not in then
    ]
    assert re.search(rf"\b{len(lost)} Removed", done.stdout), done.stdout
    assert "telemetry_upload" in done.stdout


def git(tree, *arguments):
    who = [
        "-c",
        "user.name=Test",
        "-c",
        "user.email=test@example.org",
        "-c",
        "commit.gpgsign=false",
    ]
    subprocess.run(
        ["git", *who, *arguments], cwd=tree, env=clean(), check=True, stdout=subprocess.DEVNULL
    )


# Stands for cargo: compiles the release's one C file to where cargo would put the library.
CARGO = """#!/bin/sh
while [ "$1" != --target-dir ]; do shift; done
mkdir -p "$2/release"
echo built >>"$LOG"
exec cc -shared -fPIC library.c -Iinclude -o "$2/release/libtelemetry.so"
"""


def release(tree, version, functions):
    """A commit with that version and these functions; its library is built where ours would be."""
    (tree / "Cargo.toml").write_text(f'[package]\nname = "libtelemetry"\nversion = "{version}"\n')
    prototypes = "".join(f"int {name}(int n);\n" for name in functions)
    (tree / "include" / "telemetry.h").write_text(prototypes)
    bodies = "".join(f"int {name}(int n) {{ return n; }}\n" for name in functions)
    (tree / "library.c").write_text(f'#include "telemetry.h"\n{bodies}')
    git(tree, "add", "-A")
    git(tree, "commit", "-q", "-m", version)
    out = tree / "target" / "release"
    out.mkdir(parents=True, exist_ok=True)
    source, include = tree / "library.c", tree / "include"
    subprocess.run(
        ["cc", "-shared", "-fPIC", source, f"-I{include}", "-o", out / "libtelemetry.so"],
        check=True,
    )


def test_the_release_before_is_built_from_its_tag(tmp_path):
    """In a repository of its own: from the first release, which has nothing to compare with."""
    tree, log = tmp_path / "tree", tmp_path / "log"
    (tree / "bindings" / "c").mkdir(parents=True)
    (tree / "include").mkdir()
    (tree / ".gitignore").write_text("/target/\n")
    script = tree / "bindings" / "c" / "abi.py"
    shutil.copy(ABI, script)
    cargo = tmp_path / "cargo"
    cargo.write_text(CARGO)
    cargo.chmod(0o755)
    git(tree, "init", "-q")

    def run():
        env = {**clean(), "CARGO": str(cargo), "LOG": str(log)}
        done = subprocess.run(
            [sys.executable, script],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return done.returncode, done.stdout

    first, second = "telemetry_open", "telemetry_flush"
    release(tree, "0.1.0", [first, second])
    none = (0, "abi: there is no earlier release of this major version to compare with\n")
    assert run() == none
    git(tree, "tag", "v0.1.0")
    assert run() == none
    # With more it grows; what is no release, later, or of another major version does not count.
    release(tree, "0.2.0", [first, second, "telemetry_new"])
    for tag in ("v0.1.5-rc.1", "v0.2.0", "v0.3.0", "v1.0.0", "vnext"):
        git(tree, "tag", tag)
    status, said = run()
    assert status == 0, said
    assert "programs built with v0.1.0 run with" in said
    # With less the release before is the one that counts, and its function is missed.
    release(tree, "0.2.1", [first, second])
    status, said = run()
    assert status == 1
    assert re.search(r"1 Removed", said) and "telemetry_new" in said
    assert "programs built with v0.2.0 would not run" in said
    assert run() == (status, said.replace("abi: building v0.2.0\n", ""))
    assert log.read_text() == "built\nbuilt\n"  # each once
