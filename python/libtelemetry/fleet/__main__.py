"""``python -m libtelemetry.fleet pkg.mod:target -n 4``: a fleet without a line of code.

Also the program that the supervisor runs for each worker in mode "exec" (``--worker FD``), and for
a `ProcessManager` (``--manager FD``): then it is run by its path, and finds its package by that.
"""

from __future__ import annotations

import sys

if not __package__:
    import os

    _here = os.path.dirname(os.path.abspath(__file__))
    if sys.path and sys.path[0] == _here:
        del sys.path[0]
    sys.path.insert(0, os.path.dirname(os.path.dirname(_here)))
    __package__ = "libtelemetry.fleet"

import os
import traceback
from typing import Any, NoReturn

from .._native import ConfigError, LibraryNotFound

_USAGE = 64
_NO_WORKER = 71


def worker(fd: int) -> int:
    """Be one worker of a fleet in mode "exec"."""
    from . import _child, _target
    from ._api import api

    # First of all: TERM is the library's from here on, and asks where it had ended the process.
    api().current()
    try:
        spec = _target.unpack(fd)
    except Exception:  # its module may raise anything
        traceback.print_exc()
        return 1
    return _child.run_program(spec)


def _pair(text: str) -> tuple[str, Any]:
    import argparse
    import json

    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{text!r}: KEY=VALUE is allowed")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _object(text: str) -> dict[str, Any]:
    import argparse
    import json

    try:
        found = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(f"{text!r}: one JSON object is allowed")
    return found


def command(arguments: list[str]) -> int:
    """The command line; see ``--help``."""
    import argparse

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            self.print_usage(sys.stderr)
            self.exit(_USAGE, f"{self.prog}: {message}\n")

    parser = Parser(
        prog="python -m libtelemetry.fleet",
        description="Run workers under a supervisor that restarts them, until TERM or INT.",
        epilog="Exit status: 0; 1 if a worker had to be killed; 64 for a mistake here, or a target "
        "that cannot be imported; 69 without the required health endpoint; 70 after too many "
        "restarts; 71 if no worker can be started.",
    )
    parser.add_argument(
        "target", help="package.module:name of a function, coroutine function or class"
    )
    parser.add_argument("-n", "--count", type=int, default=1, help="how many workers (default 1)")
    parser.add_argument(
        "--name", help="what status and logs call them (default: the target's name)"
    )
    parser.add_argument("--health", metavar="HOST:PORT", help="where the health endpoint listens")
    parser.add_argument(
        "--mode", choices=("auto", "fork", "zygote", "exec"), help="how they start (default zygote)"
    )
    parser.add_argument("--grace", type=float, metavar="SECONDS", help="from TERM to KILL")
    parser.add_argument(
        "--stale", type=float, metavar="SECONDS", help="the oldest that a beat may be"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        type=_pair,
        metavar="KEY=VALUE",
        help="any other key of Fleet or of the configuration, as JSON has it: --set surge=2",
    )
    parser.add_argument(
        "--kwargs", type=_object, default={}, metavar="JSON", help="what the target is called with"
    )
    parser.add_argument(
        "--auto-instrument",
        action="store_true",
        default=None,
        help="OpenTelemetry's automatic instrumentation",
    )
    said = parser.parse_args(arguments)
    from ._fleet import Fleet

    name = said.name or said.target.rpartition(":")[2]
    try:
        keys: dict[str, Any] = {}
        options = ("health", "mode", "grace", "stale", "auto_instrument")
        given = [(option, getattr(said, option)) for option in options]
        for key, value in [*(one for one in given if one[1] is not None), *said.set]:
            if key in keys:
                raise ConfigError(f"{key} is given twice: {keys[key]!r} and {value!r}")
            keys[key] = value
        keys.setdefault("mode", "zygote")
        keys.setdefault("name", name.replace(":", "_").replace("/", "_"))
        fleet = Fleet(**keys)
        fleet._await_first()
        fleet.start_worker(name, said.target, said.count, said.kwargs)
        return fleet.run()
    except (ConfigError, LibraryNotFound) as error:
        sys.stderr.write(f"{parser.prog}: {error}\n")
        return _USAGE
    except OSError as error:
        sys.stderr.write(f"{parser.prog}: {error}\n")
        return _NO_WORKER


def main() -> int:
    """What was asked for; the exit status."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["--worker"]:
        return worker(int(arguments[1]))
    if arguments[:1] == ["--manager"]:
        from . import _control

        return _control.run(int(arguments[1]))
    if "" not in sys.path and os.getcwd() not in sys.path and not sys.flags.isolated:
        sys.path.insert(0, os.getcwd())
    return command(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
