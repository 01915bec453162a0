"""The manual pages know every command, option, function, status, counter, key and variable."""

from __future__ import annotations

import re
from pathlib import Path

import kit
import pytest

PAGES = ("man1/telemetry.1", "man3/telemetry.h.3", "man3/telemetry_fleet.3")


def shown(page: Path) -> str:
    """The page as a reader sees it, in one line: neither hyphenated nor adjusted."""
    formatted = kit.run("mandoc", "-T", "ascii", "-O", "width=1000", page).stdout
    return " ".join(re.sub(r".\x08", "", formatted).split())


@pytest.fixture(scope="module")
def command_page(installed: kit.Tree) -> str:
    return shown(installed.root / "share" / "man" / PAGES[0])


@pytest.fixture(scope="module")
def header_page(installed: kit.Tree) -> str:
    return shown(installed.root / "share" / "man" / PAGES[1])


@pytest.fixture(scope="module")
def fleet_page(installed: kit.Tree) -> str:
    return shown(installed.root / "share" / "man" / PAGES[2])


def synopsis(page: str) -> str:
    return page.split("#include <telemetry.h>")[1].split("DESCRIPTION")[0]


@pytest.mark.parametrize("page", PAGES)
def test_it_is_well_formed(installed: kit.Tree, page: str) -> None:
    path = installed.root / "share" / "man" / page
    lint = kit.run("mandoc", "-T", "lint", "-W", "style", path, check=False).stdout
    problems = [line for line in lint.splitlines() if "longer than 80" not in line]
    assert problems == []
    groff = kit.run("groff", "-man", "-ww", "-T", "ascii", "-z", path)
    assert groff.stderr == ""


def helps(tool: Path, *words: str) -> dict[tuple[str, ...], str]:
    """The --help of a command and of all below it."""
    text = kit.run(tool, *words, "--help").stdout
    found = {words: text}
    commands = re.search(r"^Commands:\n((?:  .*\n)+)", text, re.MULTILINE)
    for name in re.findall(r"^  (\S+)", commands[1], re.MULTILINE) if commands else ():
        if name != "help":
            found |= helps(tool, *words, name)
    return found


def test_every_command_and_option_of_the_command(installed: kit.Tree, command_page: str) -> None:
    everything = helps(installed.tool)
    assert len(everything) >= 6
    for words, text in everything.items():
        assert " ".join(("telemetry", *words)) in command_page
        # "--listen <ADDRESS>" there is "--listen ADDRESS" here.
        for option, value in re.findall(r"^ +(?:-\w, )?(--[a-z-]+)(?: <(\S+)>)?", text, re.M):
            pattern = option + (f"[ =]{re.escape(value)}" if value else r"(?![\w-])")
            assert re.search(pattern, command_page), f"{' '.join(words)} {option} {value}"
        for default in re.findall(r"\[default: (.*?)\]", text):
            assert re.search(
                rf"Default[^.]*: {re.escape(default)}|{default} \(default\)", command_page
            )
        for choice in re.findall(r"\[possible values: (.*?)\]", text):
            assert all(re.search(rf"\b{word}\b", command_page) for word in choice.split(", "))


def test_nothing_that_the_command_does_not_have(installed: kit.Tree, command_page: str) -> None:
    real = "".join(helps(installed.tool).values())
    for option in set(re.findall(r"(?<![\w-])--[a-z-]+", command_page)):
        assert re.search(rf"{option}(?![\w-])", real), option


def test_every_kind_of_fault(installed: kit.Tree, command_page: str) -> None:
    allowed = re.search(r"Allowed: (.*?) or any other status", helps(installed.tool)["collect",])
    assert allowed
    for kind in allowed[1].split(", "):
        assert kind in command_page, kind


def test_every_function(header_page: str, fleet_page: str) -> None:
    """Each is in one of the two pages: in its head, its synopsis and its text."""
    declared: list[str] = []
    for page in (header_page, fleet_page):
        names = re.findall(r"(telemetry_\w+)\(", synopsis(page))
        named = set(re.findall(r"(telemetry_\w+)", page.split("LIBRARY")[0]))
        assert named - {"telemetry_fleet"} == set(names)
        functions = " " + page.split(" FUNCTIONS ")[1]
        for name in names:
            assert f" {name}() " in functions, f"{name} is not described"
        declared += names
    assert sorted(declared) == (kit.REPO / "bindings/c/symbols.txt").read_text().split()


def test_the_signatures_are_the_headers(
    installed: kit.Tree, header_page: str, fleet_page: str, tmp_path: Path
) -> None:
    """A compiler reads the pages' prototypes beside the header's: one that differs is an error."""
    source = tmp_path / "both.c"
    prototypes = f"{synopsis(header_page)}\n{synopsis(fleet_page)}"
    source.write_text(f"#include <telemetry.h>\n{prototypes}\n")
    include = installed.root / "include"
    kit.run("gcc", "-std=c11", "-Wall", "-Werror", "-fsyntax-only", f"-I{include}", source)


def test_the_example_of_fleets(installed: kit.Tree, tmp_path: Path) -> None:
    """It compiles as it stands there."""
    page = installed.root / "share" / "man" / PAGES[2]
    source = tmp_path / "example.c"
    text = page.read_text().split(".SH EXAMPLES\n.nf\n")[1].split("\n.fi")[0]
    source.write_text(text.replace("\\e", "\\") + "\n")
    include = installed.root / "include"
    kit.run("gcc", "-std=c11", *kit.STRICT, "-fsyntax-only", f"-I{include}", source)


def test_every_status_level_and_counter(
    installed: kit.Tree, header_page: str, fleet_page: str
) -> None:
    header = (installed.root / "include" / "telemetry.h").read_text()
    numbers = re.findall(r"^#define (TELEMETRY_\w+) (\d+)$", header, re.MULTILINE)
    numbers += re.findall(r"^ +(TELEMETRY_\w+) = (\d+),$", header, re.MULTILINE)
    assert len(numbers) >= 20
    for name, number in numbers:
        of_fleets = name.startswith(("TELEMETRY_ITEM_", "TELEMETRY_WORKER_"))
        assert f"{name} ({number})" in (fleet_page if of_fleets else header_page), name
    counters = re.findall(r"^  uint64_t (\w+);$", header, re.MULTILINE)
    assert len(counters) >= 28
    described = header_page.split(" COUNTERS ")[1].split(" ENVIRONMENT ")[0]
    described = described.split("queue_events.", 1)[1]  # behind the equation
    place = 0
    for counter in counters:  # in the order of the structure
        assert f" {counter} " in described[place:], counter
        place = described.index(f" {counter} ", place) + 1


def test_every_key_with_its_default(header_page: str) -> None:
    """Those of the table in the README, which is generated from the library's own."""
    readme = (kit.REPO / "README.md").read_text()
    table = readme.split("<!-- keys: generated -->")[1].split("<!-- end of keys -->")[0]
    keys = re.findall(r"^\| `(\S+)` \| (.*?) \|", table, re.MULTILINE)
    assert len(keys) >= 40
    described = header_page.split(" CONFIGURATION ")[1].split(" COUNTERS ")[0]
    known = re.findall(
        r"(?<= )([a-z_.]+) \((?:default: ([^)]*)|no default|the [^)]*|from [^)]*)\)", described
    )
    assert [name for name, _ in known] == [name for name, _ in keys]
    for (name, default), (_, said) in zip(known, keys):
        assert default == (said.strip("`") if said.startswith("`") else ""), name


def test_every_setting_of_a_fleet(fleet_page: str) -> None:
    """Those of the table in docs/fleet.md, which is generated from the library's own."""
    text = (kit.REPO / "docs" / "fleet.md").read_text()
    table = text.split("<!-- settings -->")[1].split("<!-- end of settings -->")[0]
    row = r"^\| `(\w+)` \| `(.*?)` \| (.*?) \| (yes)? ?\| (.*) \|$"
    keys = re.findall(row, table, re.MULTILINE)
    assert len(keys) == table.count("\n| `") >= 30
    described = fleet_page.split(" CONFIGURATION ")[1].split(" ENVIRONMENT ")[0]
    for name, default, allowed, group, meaning in keys:
        star = "*" if group else ""
        meaning = (meaning[0].upper() + meaning[1:]).replace("`", "")
        said = f" {name}{star} (default: {default}) {meaning}. "
        assert said + f"Allowed: {allowed}." in described, name
    assert described.count(" (default: ") == len(keys)


def test_every_variable_that_is_read(header_page: str) -> None:
    """Whatever the library's sources name as a variable is in the page."""
    sources = "".join(path.read_text() for path in (kit.REPO / "src").rglob("*.rs"))
    switches = set(re.findall(r'"(TELEMETRY_TEST_\w+)"', sources))
    assert switches
    for name in switches | {"TELEMETRY_DISABLED", "OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"}:
        assert name in header_page, name
