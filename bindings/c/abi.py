#!/usr/bin/env python3
"""Compare the library's binary interface with that of the release before.

    python3 bindings/c/abi.py                                      with the newest other release
    python3 bindings/c/abi.py OLD.so OLD.h NEW.so NEW.h            two that are there

The release before is the newest tag v* of the same major version that is older than this one; its
library is built from git under target/abi, once. Without one there is nothing to compare, which is
said in a line.

What is compared, by abidiff (Debian: abigail-tools) and a C compiler:
- the exported functions of the two libraries;
- the types: released libraries have no debug information, so a stand-in of each header is compiled
  with it, which has an empty function for each prototype. That is what callers see, too;
- the numbers: each constant of the old header is in the new one, with its value.
Allowed are new functions, new constants, and members that are added to the end of telemetry_stats_t
(the caller passes the size it knows). Anything else is an error: status 1, and abidiff's report.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "target" / "abi"


def output(*command: str | Path, cwd: Path = ROOT) -> str:
    """What a command prints. A failure ends the program."""
    done = subprocess.run([*map(str, command)], cwd=cwd, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"abi: {command[0]} ended with {done.returncode}")
    return done.stdout


def manifest_version(root: Path) -> str:
    """The version in Cargo.toml."""
    found = re.search(r'^version = "(.+)"$', (root / "Cargo.toml").read_text(), re.MULTILINE)
    if not found:
        raise SystemExit(f"abi: {root / 'Cargo.toml'} names no version")
    return found[1]


def numbers(version: str) -> tuple[int, ...]:
    """A version as something to sort by; empty for a pre-release, which promises nothing."""
    return tuple(map(int, version.split("."))) if re.fullmatch(r"\d+(\.\d+)+", version) else ()


def release_before() -> str | None:
    """The newest release of this major version that is older than this one, by its tag."""
    ours = numbers(manifest_version(ROOT).partition("-")[0])
    # Without a repository (an unpacked archive) there are no tags.
    if not (ROOT / ".git").exists():
        return None
    releases = {numbers(tag[1:]): tag for tag in output("git", "tag", "--list", "v[0-9]*").split()}
    older = [version for version in releases if version[:1] == ours[:1] and version < ours]
    return releases[max(older)] if older else None


def built(tag: str) -> tuple[Path, Path]:
    """Library and header of a release, built if they are not there yet."""
    tree, build = WORK / tag, WORK / f"{tag}-build"
    commit = output("git", "rev-parse", f"{tag}^{{commit}}").strip()
    stamp = build / "commit"
    if not stamp.exists() or stamp.read_text() != commit:
        print(f"abi: building {tag}", flush=True)
        output("git", "worktree", "prune")
        if tree.exists():
            output("git", "worktree", "remove", "--force", tree)
        output("git", "worktree", "add", "--quiet", "--detach", "--force", tree, commit)
        cargo = [os.environ.get("CARGO", "cargo"), "rustc", "--release", "--lib"]
        output(*cargo, "--crate-type", "cdylib", "--target-dir", build, cwd=tree)
        stamp.write_text(commit)
    return build / "release" / "libtelemetry.so", tree / "include" / "telemetry.h"


def preprocessed(header: Path) -> str:
    """What a compiler reads of a header, and all that it includes."""
    return output(os.environ.get("CC", "cc"), "-E", "-P", header)


STATS = re.compile(r"(?<=struct telemetry_stats_t \{)[^}]*(?=\})")


def as_long_as(old: str, new: str) -> str:
    """`new`, whose telemetry_stats_t ends where that of `old` does, if it begins like that one."""
    before, after = STATS.search(old), STATS.search(new)
    if before and after and after[0].split()[: len(before[0].split())] == before[0].split():
        return STATS.sub(before[0], new)
    return new


def stand_in(text: str, library: Path) -> None:
    """A library with debug information, that has what a preprocessed header declares."""
    prototypes = re.findall(r"^[\w\s*]*?\btelemetry_\w+\s*\([^;{}]*\)(?=;)", text, re.MULTILINE)
    functions = [re.sub(r"__attribute__\s*\(\(\w+\)\)", "", one) for one in prototypes]
    functions = [one.strip() for one in functions if "typedef" not in one]
    if not functions:
        raise SystemExit("abi: a header declares nothing")
    source = library.with_suffix(".c")
    source.write_text(text + "".join(f"{one} {{ __builtin_trap(); }}\n" for one in functions))
    options = ["-g", "-O0", "-shared", "-fPIC", "-w"]
    output(os.environ.get("CC", "cc"), *options, source, "-o", library)


def constants(header: Path) -> dict[str, str]:
    """The numbers that a header gives names to: #define and enum."""
    text = re.sub(r"/\*.*?\*/", "", header.read_text(), flags=re.DOTALL)
    found = re.findall(r"^#define (TELEMETRY_\w+) +(\S+)$", text, re.MULTILINE)
    return dict(found + re.findall(r"\b(TELEMETRY_\w+) = (-?\w+)", text))


def compare(old: Path, old_header: Path, new: Path, new_header: Path) -> bool:
    """Whether programs built with the old one run with the new one."""
    if not shutil.which("abidiff"):
        raise SystemExit("abi: abidiff is missing: apt-get install abigail-tools")
    good = True
    before, after = constants(old_header), constants(new_header)
    for name in before:
        if after.get(name) != before[name]:
            print(f"abi: {name} was {before[name]}, and is {after.get(name, 'gone')}")
            good = False
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        old_text, new_text = preprocessed(old_header), preprocessed(new_header)
        stand_in(old_text, work / "old.so")
        stand_in(as_long_as(old_text, new_text), work / "new.so")
        for one, other in ((old, new), (work / "old.so", work / "new.so")):
            good &= subprocess.run(["abidiff", "--no-added-syms", one, other]).returncode == 0
    return good


def main() -> None:
    """Compare, and say what came of it."""
    new = ROOT / os.environ.get("OUT", "target/release") / "libtelemetry.so"
    new_header = ROOT / "include" / "telemetry.h"
    if len(sys.argv) == 5:
        old, old_header, new, new_header = map(Path, sys.argv[1:])
        name = str(old)
    elif len(sys.argv) == 1:
        tag = release_before()
        if tag is None:
            print("abi: there is no earlier release of this major version to compare with")
            return
        old, old_header = built(tag)
        name = tag
    else:
        raise SystemExit("usage: abi.py [OLD.so OLD.h NEW.so NEW.h]")
    for path in (old, old_header, new, new_header):
        if not path.exists():
            raise SystemExit(f"abi: {path} is missing")
    if not compare(old, old_header, new, new_header):
        raise SystemExit(f"abi: programs built with {name} would not run with {new}")
    print(f"abi: programs built with {name} run with {new}")


if __name__ == "__main__":
    main()
