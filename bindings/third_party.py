#!/usr/bin/env python3
"""Write the licences of all that is linked into the library (and the command), with texts.

    python3 bindings/third_party.py OUT [--features tool] [--target TRIPLE]

OUT is a file, or - for stdout. Without --features it speaks of the library alone; with
`--features tool` of the library and the command, and says what only the command has. Needs
Python 3.9 and cargo, and no network once the crates have been built: their sources are in
cargo's registry.

What is listed is what `cargo tree -e normal` lists: crates that are linked, and those whose macros
wrote code that is. A crate without a licence file gets the standard text of its licence, named as
such; one for which there is none is an error, so that the file is complete or not written.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
TEXT = re.compile(r"^(un)?licen[sc]e|^copying|^copyright|^notice", re.IGNORECASE)
SOURCE_CODE = {".rs", ".c", ".h", ".py", ".html"}
# Copies of other people's work inside a crate, whose licence is not at its top.
INNER = ("third_party/*", "src/polyfill/*")
RULE = "=" * 100
# Crates that the standard library is built with on Linux; each may be used under MIT.
RUST_PARTS = (
    "addr2line adler2 cfg_if compiler_builtins gimli hashbrown libc memchr miniz_oxide object "
    "rustc_demangle"
)


class Crate(NamedTuple):
    """One package, as cargo names it."""

    name: str
    version: str
    license: str


class Text(NamedTuple):
    """One licence text, and where it is from."""

    file: str
    body: str


def cargo(*arguments: str) -> str:
    """What cargo prints: without the network if that will do."""
    command = [os.environ.get("CARGO", "cargo"), *arguments, "--locked"]
    for offline in (["--offline"], []):
        try:
            done = subprocess.run([*command, *offline], cwd=ROOT, capture_output=True, text=True)
        except OSError as error:
            raise SystemExit(
                f"{command[0]}: {error.strerror}: run this where the build was run"
            ) from None
        if done.returncode == 0:
            return done.stdout
    raise SystemExit(f"{' '.join(command)}:\n{done.stderr}")


def linked(features: str, target: str | None) -> set[Crate]:
    """The crates of a build with these features, without our own."""
    more = ["--features", features] if features else []
    more += ["--target", target] if target else []
    tree = cargo("tree", "-e", "normal", "--prefix", "none", "-f", "{p}|{l}", *more)
    found = set()
    for line in tree.splitlines():
        package, _, license = line.removesuffix(" (*)").partition("|")
        name, version = package.split()[:2]
        if "(/" not in package:
            found.add(Crate(name, version.removeprefix("v"), license.strip()))
    return found


def places(crates: set[Crate]) -> dict[Crate, Path]:
    """Where the sources of the crates are: in cargo's registry, or where it was told to look."""
    home = Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo")
    found = {
        crate: place
        for crate in crates
        for place in home.glob(f"registry/src/*/{crate.name}-{crate.version}")
    }
    if len(found) < len(crates):
        packages = json.loads(cargo("metadata", "--format-version", "1"))["packages"]
        known = {(p["name"], p["version"]): Path(p["manifest_path"]).parent for p in packages}
        found = {crate: known[crate.name, crate.version] for crate in crates}
    return found


def shipped(place: Path) -> list[Text]:
    """The licence texts in a crate's sources."""
    texts = []
    for directory in [place, *(inner for glob in INNER for inner in sorted(place.glob(glob)))]:
        for path in sorted(directory.iterdir()) if directory.is_dir() else ():
            if TEXT.match(path.name) and path.is_file() and path.suffix not in SOURCE_CODE:
                body = path.read_text(encoding="utf-8", errors="replace").strip("\n")
                if body.strip():
                    texts.append(Text(str(path.relative_to(place)), body))
    return texts


def standard() -> dict[str, str]:
    """The standard texts, by SPDX name: those of our own LICENSE."""
    _, mit, apache = re.split(r"^=+\n", (ROOT / "LICENSE").read_text(), flags=re.MULTILINE)
    mit = re.sub(
        r"^Copyright .*$", "Copyright (c) the authors of the packages named above", mit, flags=re.M
    )
    return {"MIT": mit.strip("\n"), "Apache-2.0": apache.strip("\n")}


def texts_of(crate: Crate, place: Path) -> list[Text]:
    """The texts for one crate. Ends the program if there is none."""
    found = shipped(place)
    if found:
        return found
    texts = standard()
    names = [name for name in re.split(r"[\s()/]+|\bOR\b|\bAND\b", crate.license) if name in texts]
    if not names:
        raise SystemExit(f"{crate.name} {crate.version} ({crate.license}) ships no licence text")
    return [Text(f"standard text of {name}; the crate ships none", texts[name]) for name in names]


def rust() -> tuple[Crate, list[Text]]:
    """The standard library, which every program of Rust is linked with."""
    rustc = os.environ.get("RUSTC", "rustc")
    version = subprocess.run([rustc, "-V"], check=True, capture_output=True, text=True).stdout
    note = (
        "The Rust standard library, copyright the Rust Project contributors, with parts of\n"
        f"{RUST_PARTS},\n"
        "copyright their authors. All may be used under MIT; the tables of Unicode are under\n"
        "Unicode-3.0, whose text is that of the package unicode-ident."
    )
    return Crate("Rust standard library", version.split()[1], "MIT OR Apache-2.0"), [
        Text("note", note),
        *(Text(f"standard text of {name}", body) for name, body in standard().items()),
    ]


def version() -> str:
    """Our version, which is in Cargo.toml alone."""
    found = re.search(r'^version = "(.+)"$', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)
    if not found:
        raise SystemExit("Cargo.toml names no version")
    return found[1]


def document(features: str, target: str | None) -> str:
    """The whole file."""
    library = linked("", target)
    everything = linked(features, target) | library
    where = places(everything)
    entries = [rust()]
    entries += [(crate, texts_of(crate, where[crate])) for crate in sorted(everything)]
    numbers: dict[str, int] = {}  # by the text without its white space: most crates share a few
    bodies: list[str] = []
    users: list[list[str]] = []
    table = []
    for crate, texts in entries:
        mine = []
        for text in texts:
            key = " ".join(text.body.split())
            if key not in numbers:
                numbers[key] = len(bodies)
                bodies.append(text.body)
                users.append([])
            users[numbers[key]].append(f"{crate.name} {crate.version} ({text.file})")
            mine.append(f"[{numbers[key] + 1}]")
        only = "" if crate in library or crate is entries[0][0] else " (only in the command)"
        table.append(f"{crate.name} {crate.version}{only}: {crate.license}: {' '.join(mine)}")
    what = "the library and the command `telemetry`" if features else "the library"
    head = (
        f"Third-party licences of libtelemetry {version()}: what is linked into {what}.\n"
        "Each line names a package, its licence, and the texts below that it comes with.\n"
    )
    parts = [head, "\n".join(table) + "\n"]
    for number, (body, names) in enumerate(zip(bodies, users), 1):
        parts.append(f"{RULE}\n[{number}] " + "\n    ".join(names) + f"\n{RULE}\n\n{body}\n")
    return "\n".join(parts)


def main() -> None:
    """Write OUT as a whole, or not at all."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", metavar="OUT", help="a file, or - for stdout")
    parser.add_argument("--features", default="", help="features of the build, such as tool")
    parser.add_argument("--target", help="target triple (default: this machine's)")
    options = parser.parse_args()
    text = document(options.features, options.target)
    if options.out == "-":
        sys.stdout.write(text)
        return
    out = Path(options.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(f".{out.name}.{os.getpid()}")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(out)


if __name__ == "__main__":
    main()
