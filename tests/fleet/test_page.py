"""The fleet's page as a browser shows it.

Headless Chromium loads it from a running supervisor; what the picture holds (rows, states, the
banner) is compared with the status, and not its pixels. docs/page.png is how it looked last.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import harness

LIMIT = 180
# Delays are drawn from this: nobody comes back while the page is looked at.
DAY_MS = 86_400_000
PICTURE = Path(__file__).parent / "docs" / "page.png"

# By its slot: one that works, one that is gone at once, one that must not be started again.
WORKER = r"""
case "$TELEMETRY_FLEET" in
*slot=0,*) trap 'exit 0' TERM; while :; do sleep 0.05; done ;;
*slot=1,*) exit 3 ;;
*) exit 78 ;;
esac
"""


class Table(HTMLParser):
    """The cells of all rows, and the text of the whole page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.text = ""
        self._cell = self._hidden = False
        self.feed(page)

    def handle_starttag(self, tag: str, _attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self._cell = True
            self.rows[-1].append("")
        self._hidden = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._cell = False
        self._hidden = False

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.text += data
            if self._cell:
                self.rows[-1][-1] += data.strip()


def status(port: int) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/status", timeout=LIMIT) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def states(found: dict[str, Any]) -> dict[int, str]:
    return {worker["slot"]: worker["state"] for worker in found["workers"]}


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[int]:
    """A fleet with a worker in each of three states; the port of its endpoint."""
    settings = {"crash_limit": 1, "backoff_base_ms": DAY_MS, "backoff_cap_ms": DAY_MS}
    flags = ["-n", "3", "--name", "shop", "--config", json.dumps(settings)]
    flags += ["--health", "127.0.0.1:0", "--", "sh", "-c", WORKER]
    command = [str(harness.TOOL), "fleet", *flags]
    environment = {**os.environ, "TELEMETRY_RUNTIME_DIR": str(tmp_path / "run")}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stderr is not None
        line = next(line for line in process.stderr if "health endpoint" in line)
        found = re.search(r"port (\d+)", line)
        assert found, line
        yield int(found[1])
    finally:
        process.terminate()
        process.communicate(timeout=LIMIT)


def chromium(url: str, picture: Path) -> str:
    """The document as headless Chromium has it after a while; its picture in that file."""
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip("no chromium")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    flags += ["--window-size=1280,640", "--virtual-time-budget=2500"]
    command = [program, *flags, "--dump-dom", f"--screenshot={picture}", url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=True)
    return done.stdout


def test_a_browser_shows_each_worker_in_its_state(fleet: int, tmp_path: Path) -> None:
    deadline = time.monotonic() + LIMIT
    wanted = {0: "ready", 1: "crash_looping", 2: "failed"}
    while states(status(fleet)) != wanted:
        assert time.monotonic() < deadline, states(status(fleet))
        time.sleep(0.05)
    found = status(fleet)
    url = f"http://127.0.0.1:{fleet}/"
    picture = tmp_path / "page.png"
    page = Table(chromium(url, picture))

    rows = {row[0]: row for row in page.rows if row and row[0].isdigit()}
    assert set(rows) == {"0", "1", "2"}
    for worker in found["workers"]:
        row = " ".join(rows[str(worker["slot"])])
        assert worker["state"].replace("_", " ") in row.replace("_", " "), row
        assert worker["name"] in row
        if worker["pid"] is not None:
            assert str(worker["pid"]) in row
    assert "78" in " ".join(rows["2"])
    for word in ["shop", *found["reasons"]]:
        assert word in page.text, word
    assert found["reasons"] == ["crash_loop:slot=1", "failed:slot=2,code=78"]
    assert "not ready" in page.text.lower()

    header = picture.read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n" and header[16:24] == bytes.fromhex("0000050000000280")
    if os.environ.get("UPDATE"):
        shutil.copy(picture, PICTURE)
    assert PICTURE.exists()
