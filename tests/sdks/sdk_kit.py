"""Run programs with the official SDKs of one age or the other.

The SDKs lie in directories of their own (tests/setup.sh), so no test imports them: a case is a
function in one of the `cases_*` modules, run in a process of its own, which answers by JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import harness
from harness import BIN, PATIENCE, ROOT, Collector, Failed

HERE = Path(__file__).resolve().parent
AGES = {age: ROOT / ".venv" / "sdks" / age for age in ("newest", "year-old")}


def environment(age: str, **more: str) -> dict[str, str]:
    """The environment of a program that uses the SDKs of that age, and the package of this tree."""
    # What configures the SDKs of the user's own services is not for these.
    own = ("POSTHOG_", "LANGFUSE_", "OTEL_")
    env = {key: one for key, one in harness.environment().items() if not key.startswith(own)}
    env["PYTHONPATH"] = os.pathsep.join(map(str, (AGES[age], HERE, env["PYTHONPATH"])))
    # Nothing is sent because a busy machine takes long from one call to the next.
    env["TELEMETRY_BATCH_MAX_AGE_MS"] = "3600000"
    return {**env, **more}


def run(age: str, case: str, *args: Any, first: str = "", **env: str) -> Any:
    """What ``module.function(*args)`` returns, in a process of its own. Raises Failed.

    `first` is code that runs before anything is imported.
    """
    module, _, function = case.partition(".")
    code = (
        f"{first}\n"
        # The adapters' deadlines are for machines that have time.
        "from libtelemetry.integrations import _sdk\n"
        "_sdk.FLUSH_SECONDS = _sdk.END_SECONDS = 120.0\n"
        f"import json, sys, {module}\n"
        f"result = {module}.{function}(*json.load(sys.stdin))\n"
        "print('\\n' + json.dumps(result))"
    )
    try:
        done = subprocess.run(
            [str(BIN / "python"), "-c", code],
            env=environment(age, **env),
            input=json.dumps(args),
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE,
        )
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{case} did not end\n{error.stdout}\n{error.stderr}") from None
    sys.stderr.write(done.stderr)
    if done.returncode:
        raise Failed(f"{case} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout.rpartition("\n\n")[2].splitlines()[-1])


def mark(event: dict[str, Any]) -> dict[str, Any]:
    """`pid` and `seq` of an event of sdk_app, wherever the format has its properties."""
    for where in (event, event.get("body", {})):
        for name in ("properties", "metadata"):
            if "seq" in (where.get(name) or {}):
                found: dict[str, Any] = where[name]
                return found
    raise Failed(f"an event of nobody: {event}")


class SdkCollector(Collector):
    """`telemetry collect` whose events show `pid` and `seq`."""

    def events(self) -> list[dict[str, Any]]:
        """Each event's mark."""
        return [mark(event) for event in super().events()]
