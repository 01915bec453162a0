"""Every crate that is handed on may be, and its licence text comes along."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kit
import pytest

SCRIPT = kit.REPO / "bindings" / "third_party.py"
RULE = "=" * 100
CARGO_DENY = shutil.which(
    "cargo-deny", path=f"{kit.REPO / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
)


def read(document: str) -> tuple[dict[str, tuple[str, list[int]]], list[str]]:
    """What the file says: licence and texts of each package, and the texts."""
    head, *rest = document.split(f"\n{RULE}\n")
    lines = re.findall(r"^(.+?)(?: \(only in the command\))?: (.+): ((?:\[\d+\] ?)+)$", head, re.M)
    table = {
        name: (license, [int(number) for number in re.findall(r"\d+", texts)])
        for name, license, texts in lines
    }
    return table, [text.strip() for text in rest[1::2]]


def crates(*more: str) -> set[str]:
    """What is linked, as cargo says it."""
    tree = ["tree", "--offline", "--locked", "-e", "normal", "--prefix", "none", "-f", "{p}"]
    lines = kit.run("cargo", *tree, *more, cwd=kit.REPO).stdout.splitlines()
    packages = {" ".join(line.split()[:2]).replace(" v", " ") for line in lines if "(/" not in line}
    assert len(packages) > 20
    return packages


def embedded(binary: Path) -> set[str]:
    """What a binary itself betrays: crates whose places in the source are in its messages."""
    found = re.findall(rb"/registry/src/[^/]+/([a-zA-Z0-9_-]+?)-(\d[^/]*)/", binary.read_bytes())
    return {f"{name.decode()} {version.decode()}" for name, version in found}


@pytest.fixture(scope="module")
def file(installed: kit.Tree) -> str:
    return (installed.root / "share/doc/libtelemetry/THIRD-PARTY-LICENSES.txt").read_text()


def test_every_crate_with_a_text(installed: kit.Tree, file: str) -> None:
    """Of library and command: as cargo lists them, and as the binaries have them in them."""
    table, texts = read(file)
    library = next(name for name in table if name.startswith("Rust standard library "))
    assert set(table) - {library} == crates() | crates("--features", "tool")
    for binary in (kit.BUILD / "libtelemetry.so", kit.BUILD / "telemetry"):
        inside = embedded(binary)
        assert len(inside) > 10
        assert inside <= set(table)
    for name, (license, numbers) in table.items():
        assert license and numbers, name
        for number in numbers:
            assert len(texts[number - 1]) > 100, f"{name}: text {number} is empty"
    used = {number for _, numbers in table.values() for number in numbers}
    assert used == set(range(1, len(texts) + 1))


def test_each_text_is_that_of_the_licence(file: str) -> None:
    """A package's texts contain a sentence of the licence that it names."""
    sentences = {
        "MIT": "without restriction, including without limitation the rights to use, copy",
        "Apache-2.0": "Apache License Version 2.0, January 2004",
        "BSD-3-Clause": "Redistributions of source code must retain the above copyright",
        "ISC": "Permission to use, copy, modify, and/or distribute this software for any purpose",
        "Zlib": "The origin of this software must not be misrepresented",
        "Unicode-3.0": "UNICODE LICENSE V3",
        "CDLA-Permissive-2.0": "Community Data License Agreement - Permissive - Version 2.0",
    }
    table, texts = read(file)
    for name, (license, numbers) in table.items():
        together = " ".join(texts[number - 1] for number in numbers)
        together = " ".join(word for word in together.split() if word != "//")
        # Of several that may be chosen one will do; of several that all hold each.
        for one in license.split(" AND "):
            choices = [word for word in re.findall(r"[\w.-]+", one) if word in sentences]
            assert choices, (name, license)
            assert any(sentences[choice] in together for choice in choices), (name, license)


def test_the_library_alone(tmp_path: Path) -> None:
    """For who hands on the library without the command."""
    kit.run("python3", SCRIPT, tmp_path / "new" / "out.txt", env=kit.environment())
    table, _ = read((tmp_path / "new" / "out.txt").read_text())
    assert {name for name in table if not name.startswith("Rust standard")} == crates()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out.txt"]


def script() -> Any:
    """The generator as a module."""
    spec = importlib.util.spec_from_file_location("third_party", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_a_crate_without_a_text(tmp_path: Path) -> None:
    """It gets the standard one, named as such; where there is none, nothing is written at all."""
    third_party = script()
    texts = third_party.texts_of(third_party.Crate("x", "1.0.0", "MIT OR Apache-2.0"), tmp_path)
    assert [text.file for text in texts] == [
        "standard text of MIT; the crate ships none",
        "standard text of Apache-2.0; the crate ships none",
    ]
    assert all(len(text.body) > 900 for text in texts)
    with pytest.raises(SystemExit, match=r"x 1.0.0 \(GPL-3.0-only\) ships no licence text"):
        third_party.texts_of(third_party.Crate("x", "1.0.0", "GPL-3.0-only"), tmp_path)
    (tmp_path / "LICENSE").write_text("own words")
    texts = third_party.texts_of(third_party.Crate("x", "1.0.0", "GPL-3.0-only"), tmp_path)
    assert texts == [("LICENSE", "own words")]


def test_without_cargo_it_says_so(tmp_path: Path) -> None:
    env = kit.environment(CARGO=str(tmp_path / "cargo"))
    done = kit.run("python3", SCRIPT, tmp_path / "out", env=env, check=False)
    assert done.returncode == 1
    assert "where the build was run" in done.stderr and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_our_own_licence_is_installed(installed: kit.Tree) -> None:
    ours = (installed.root / "share/doc/libtelemetry/LICENSE").read_text()
    assert "Permission is hereby granted" in ours
    assert "TERMS AND CONDITIONS FOR USE, REPRODUCTION, AND DISTRIBUTION" in ours


def deny(*options: str | Path) -> subprocess.CompletedProcess[str]:
    """What cargo-deny says."""
    assert CARGO_DENY
    checks = ("check", "licenses", "bans", "sources")
    command = [CARGO_DENY, "--offline", "--locked", *options, *checks]
    return kit.run(*command, cwd=kit.REPO, check=False)


needs_cargo_deny = pytest.mark.skipif(not CARGO_DENY, reason="cargo-deny is not installed")


@needs_cargo_deny
def test_cargo_deny_is_content() -> None:
    done = deny()
    assert done.stdout == "bans ok, licenses ok, sources ok\n"
    assert done.stderr == ""  # no warnings either
    assert done.returncode == 0


@needs_cargo_deny
@pytest.mark.parametrize(
    "line, instead, complaint",
    [
        ('    "ISC",\n', "", "rejected"),
        ("github.com/rust-lang/crates.io-index", "example.org/index", "source-not-allowed"),
        (
            '{ crate = "tokio"',
            '{ crate = "rustls", reason = "x" },\n    { crate = "tokio"',
            "banned",
        ),
        ('{ crate = "syn@2"', '{ crate = "heck"', "duplicate"),
    ],
)
def test_the_policy_has_teeth(tmp_path: Path, line: str, instead: str, complaint: str) -> None:
    """A policy that does not fit is found: the file is read, and each part of it is looked at."""
    policy = (kit.REPO / ".deny.toml").read_text()
    assert line in policy
    (tmp_path / "deny.toml").write_text(policy.replace(line, instead, 1))
    done = deny("--config", tmp_path / "deny.toml")
    assert done.returncode != 0
    assert re.search(rf"^error\[{complaint}\]", done.stderr, re.MULTILINE), done.stderr
