"""What docs/fleet.md gives to copy: the manifest, the unit and the image do what the page says.

The fleet that runs here is the manifest's own command, with another port.
"""

from __future__ import annotations

import configparser
import contextlib
import json
import re
import shutil
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from fleets import WAIT_S, Manager, own_address, until
from harness import ROOT, TOOL, Program, environment

PAGE = ROOT / "docs" / "fleet.md"
WORKER = "import time\nwhile True: time.sleep(60)\n"
# From TERM to the end of what KILL does not end: beyond the fleet's own grace.
UNDEAD_S = 2


def blocks(language: str) -> list[str]:
    """The page's blocks in that language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.M | re.S)


def settings() -> dict[str, Any]:
    """The defaults, from the page's table."""
    rows = re.findall(r"^\| `(\w+)` \| `(.*?)` \|", PAGE.read_text(), re.M)
    return {name: json.loads(default) for name, default in rows}


def grace_of(arguments: list[str]) -> float:
    return float(arguments[arguments.index("--grace") + 1])


@pytest.fixture(scope="module")
def pod() -> dict[str, Any]:
    (text,) = blocks("yaml")
    manifest: dict[str, Any] = yaml.safe_load(text)
    assert manifest["spec"]["selector"]["matchLabels"].items() <= (
        manifest["spec"]["template"]["metadata"]["labels"].items()
    )
    found: dict[str, Any] = manifest["spec"]["template"]["spec"]
    return found


@pytest.fixture(scope="module")
def container(pod: dict[str, Any]) -> dict[str, Any]:
    (found,) = pod["containers"]
    one: dict[str, Any] = found
    return one


class Answer(NamedTuple):
    status: int
    text: str


class Fleet(Program):
    """A fleet whose endpoint is at that address."""

    def __init__(self, argv: list[str], address: str, log: Path, env: dict[str, str]) -> None:
        super().__init__(argv, log, env)
        self.address = address

    def ask(self, path: str) -> Answer:
        try:
            url = f"http://{self.address}{path}"
            with urllib.request.urlopen(url, timeout=WAIT_S) as answer:
                return Answer(answer.status, answer.read().decode())
        except urllib.error.HTTPError as error:
            with contextlib.closing(error):
                return Answer(error.code, error.read().decode())
        except urllib.error.URLError:
            return Answer(0, "")  # nobody listens

    def get(self, path: str) -> Any:
        """The JSON that it answers."""
        return json.loads(self.ask(path).text)

    def __enter__(self) -> Fleet:
        return self


def runnable(arguments: list[str], address: str, script: Path) -> list[str]:
    """The arguments with the address, the program and the script of this test."""
    assert "consumer.py" in arguments[-1]
    ours = {arguments[-1]: str(script), arguments[-2]: shutil.which("python3") or "python3"}
    ours[arguments[arguments.index("--health") + 1]] = address
    return [ours.get(word, word) for word in arguments]


@pytest.fixture(scope="module")
def fleet(container: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    directory = tmp_path_factory.mktemp("units")
    script = directory / "consumer.py"
    script.write_text(WORKER)
    program, *first = container["command"]
    assert program == "telemetry"
    address = "{}:{}".format(*own_address())
    argv = [str(TOOL), *first, *runnable(container["args"], address, script)]
    env = environment(TELEMETRY_RUNTIME_DIR=str(directory / "run"))
    with Fleet(argv, address, directory / "log", env) as running:
        running.wait_for("readiness", lambda: running.ask("/readyz").status == 200, WAIT_S)
        yield running


def test_the_manifest(fleet: Fleet, pod: dict[str, Any], container: dict[str, Any]) -> None:
    address = container["args"][container["args"].index("--health") + 1]
    (port,) = container["ports"]
    assert address == f":{port['containerPort']}", "the kubelet comes from outside of the pod"
    annotations = yaml.safe_load(blocks("yaml")[0])["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(port["containerPort"])
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] == port["name"]
        assert fleet.ask(container[probe]["httpGet"]["path"]).status == 200, probe
    assert json.loads(fleet.ask("/status").text)["slots"]["ready"] == 4
    startup = container["startupProbe"]
    start_s = settings()["start_deadline_ms"] / 1000
    assert startup["periodSeconds"] * startup["failureThreshold"] > start_s
    assert pod["terminationGracePeriodSeconds"] >= grace_of(container["args"]) + 5


def test_the_routes_and_the_document(fleet: Fleet) -> None:
    text = PAGE.read_text()
    routes = re.findall(r"^\| `(/\w*)` \|", text, re.M)
    assert len(routes) == 5
    for route in routes:
        assert fleet.ask(route).status == 200, route
    assert all(route in fleet.ask("/nothing").text for route in routes)

    def keys(document: Any) -> Any:
        """Names all the way down; those of counts by cause are what has happened."""
        if isinstance(document, list):
            return keys(document[0]) if document else None
        if not isinstance(document, dict):
            return None
        return {k: None if k in ("by_cause", "last_exit") else keys(v) for k, v in document.items()}

    (example,) = (json.loads(block) for block in blocks("json"))
    assert keys(example) | {"reasons": None} == keys(fleet.get("/status"))


def test_the_metrics(fleet: Fleet) -> None:
    real = set(re.findall(r"^# TYPE (\S+)", fleet.ask("/metrics").text, re.M))
    listed = PAGE.read_text().split("\nMetrics, ")[1].split("\n\n")[0]
    named = {f"telemetry_fleet_{name}" for name in re.findall(r"`([a-z_]+)[`{]", listed)}
    named -= {"telemetry_fleet_telemetry_fleet_"}
    # Of workers that say more than this one does.
    beating = {"oldest_beat_age_seconds", "worker_beat_age_seconds", "worker_item_age_seconds"}
    assert named - real == {f"telemetry_fleet_{name}" for name in beating}
    assert real <= named


@pytest.fixture
def unit() -> str:
    (text,) = blocks("ini")
    return text


# Of systemd.unit(5), .exec(5), .service(5) and .kill(5), for machines without systemd.
KNOWN = {
    "Unit": {"Description", "Wants", "After"},
    "Service": {
        *("Type", "NotifyAccess", "User", "RuntimeDirectory", "Environment", "ExecStart"),
        *("ExecReload", "KillMode", "TimeoutStartSec", "TimeoutStopSec", "WatchdogSec", "Restart"),
        "RestartPreventExitStatus",
    },
    "Install": {"WantedBy"},
}


def test_the_unit_is_one(unit: str, tmp_path: Path) -> None:
    """By systemd's own judgement, where there is one."""
    parsed = configparser.ConfigParser(interpolation=None)
    parsed.optionxform = str  # type: ignore[assignment,method-assign]  # keep the case
    parsed.read_string(unit)
    assert {name: {*parsed[name]} - KNOWN[name] for name in parsed.sections()} == {
        name: set() for name in KNOWN
    }
    if shutil.which("systemd-analyze"):
        file = tmp_path / "jobs.service"
        file.write_text(unit.replace("/usr/bin/telemetry", str(TOOL)))
        command = ["systemd-analyze", "verify", "--man=no", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S)
        said = [line for line in done.stderr.splitlines() if "jobs.service" in line]
        assert (done.returncode, said) == (0, []), done.stderr


def test_the_units_numbers(unit: str) -> None:
    value = dict(re.findall(r"^(\w+)=(.*)$", unit, re.M))
    words = value["ExecStart"].split()
    assert float(value["TimeoutStopSec"]) > grace_of(words) + UNDEAD_S
    assert float(value["TimeoutStartSec"]) > settings()["start_deadline_ms"] / 1000
    assert (value["Type"], value["NotifyAccess"], value["KillMode"]) == ("notify", "main", "mixed")
    directory = value["Environment"].removeprefix("TELEMETRY_RUNTIME_DIR=")
    assert directory == f"/run/{value['RuntimeDirectory']}"
    assert value["RestartPreventExitStatus"] == "64"


def test_the_unit_starts_reloads_and_stops(unit: str, tmp_path: Path) -> None:
    """As systemd would: what the manager is told, in its order."""
    (tmp_path / "consumer.py").write_text(WORKER)
    (tmp_path / "jobs.json").write_text('{"stale_ms": 0}')
    command = dict(re.findall(r"^(\w+)=(.*)$", unit, re.M))["ExecStart"].split()
    _, first, *rest = command
    address = "{}:{}".format(*own_address())
    argv = [str(TOOL), first, *runnable(rest, address, tmp_path / "consumer.py")]
    argv[argv.index("--config") + 1] = str(tmp_path / "jobs.json")
    with contextlib.closing(Manager(tmp_path / "notify")) as manager:
        more = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "1000000"}
        env = environment(TELEMETRY_RUNTIME_DIR=str(tmp_path / "run"), **more)
        heard = 0

        with Fleet(argv, address, tmp_path / "log", env) as running:

            def hear(word: str) -> None:
                """After what was heard before."""
                nonlocal heard

                def told() -> int:
                    words = [one for one, message in enumerate(manager.told) if word in message]
                    return next((one + 1 for one in words if one >= heard), 0)

                heard = until(f"{word} is told", told, tell=running.output)

            hear("READY")
            hear("WATCHDOG")
            before = {worker["pid"] for worker in running.get("/status")["workers"]}
            running.process.send_signal(signal.SIGHUP)
            hear("RELOADING")
            hear("READY")
            # At that moment, and not some time later.
            workers = running.get("/status")["workers"]
            now = {worker["pid"] for worker in workers if worker["state"] != "stopping"}
            assert now and not before & now
            running.process.send_signal(signal.SIGWINCH)
            until(
                "its status says so",
                lambda: any("; paused" in told.get("STATUS", "") for told in list(manager.told)),
                tell=running.output,
            )
            running.process.send_signal(signal.SIGTERM)
            hear("STOPPING")
            assert running.process.wait(WAIT_S) == 0, running.output()


def test_the_image() -> None:
    (text,) = blocks("dockerfile")
    lines = dict(re.findall(r"^(\w+) (?:CMD )?(.*)$", text, re.M))
    arguments = json.loads(lines["ENTRYPOINT"])
    assert arguments[:2] == ["telemetry", "fleet"]
    assert arguments[-1] == "--"
    assert grace_of(arguments) + UNDEAD_S <= 10, "docker stop kills after 10 s"
    address = arguments[arguments.index("--health") + 1]
    assert f"{address}/livez" in lines["HEALTHCHECK"]
