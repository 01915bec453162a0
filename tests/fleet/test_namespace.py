"""A fleet that is PID 1, as in a container: orphans are its children."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from fleets import Fleet, Fleets, group, state_of, until

MODES = ["call", "zygote", "self"]


OWN = ("unshare", "--pid", "--fork", "--mount-proc")
AS_NOBODY = ("unshare", "--user", "--map-root-user", *OWN[1:])
"""Who is not root makes one in a user namespace of his own."""


def namespace() -> tuple[str, ...]:
    """How one is made here; () if containers forbid it."""
    for way in (OWN, AS_NOBODY):
        if subprocess.run([*way, "true"], capture_output=True, check=False).returncode == 0:
            return way
    return ()


WAY = namespace()
pytestmark = pytest.mark.skipif(not WAY, reason="no pid namespace can be made here")


def inside(fleet: Fleet) -> int:
    """The number that its PID 1 has out here."""

    def found() -> int:
        for pid in fleet.processes():
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            numbers = next(line for line in lines if line.startswith("NSpid:")).split()[1:]
            if len(numbers) == 2 and numbers[1] == "1":
                return pid
        return 0

    return int(fleet.until("it is PID 1", found))


@pytest.mark.parametrize("mode", MODES)
def test_orphans_are_reaped_and_term_works(fleets: Fleets, mode: str) -> None:
    config = {"mode": "zygote"} if mode == "zygote" else {}
    fleet = fleets.make(
        group(
            "orphan=2,orphan=2,orphan=1,ready,1?s0?die=9,beat",
            3,
            kind=mode.replace("zygote", "call"),
            healthy_after_ms=1,
        ),
        prefix=WAY,
        **config,
    )
    status = fleet.until_status(
        "replaced", lambda s: s["slots"]["ready"] == 3 and s["restarts"]["total"] == 1
    )
    assert status["supervisor"]["pid"] == 1
    assert len(fleet.log("grandchild")) >= 9
    first = inside(fleet)

    def zombies() -> list[str]:
        children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        return [child for child in children if state_of(int(child)) == "Z"]

    fleet.until("no zombies are left", lambda: not zombies())
    os.kill(first, signal.SIGTERM)
    assert fleet.end() == 0, fleet.tell()
    until("nobody is left", lambda: not fleet.processes(), tell=fleet.tell)


def test_a_second_term_and_usr2_as_pid_1(fleets: Fleets) -> None:
    fleet = fleets.make(
        group("ready,forever", 2),
        prefix=WAY,
    )
    fleet.until_ready(2)
    pids = fleet.pids()
    first = inside(fleet)
    os.kill(first, signal.SIGUSR2)
    fleet.until_said("takes over 2 worker(s)")
    fleet.until_ready(2)
    assert fleet.pids() == pids
    os.kill(first, signal.SIGTERM)
    fleet.until_status("draining", lambda s: s["state"] == "draining")
    os.kill(first, signal.SIGTERM)
    assert fleet.end() == 1, fleet.tell()
    until("nobody is left", lambda: not fleet.processes(), tell=fleet.tell)
