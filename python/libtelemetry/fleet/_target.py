"""What workers run: a function, a coroutine function, a class with start() and stop(), or where to
find one.

Invariants:
- A target that goes to a program of its own goes by name, never by value: module and qualified
  name, in pickle's way. Its arguments go in a memory file that the program inherits, so that
  neither the command line nor the environment shows them.
- ``__main__`` is loaded there under the name ``__mp_main__``, as `multiprocessing` does: what
  stands below ``if __name__ == "__main__":`` does not run again.
"""

from __future__ import annotations

import importlib
import inspect
import os
import pickle
import runpy
import sys
import types
from typing import Any, NamedTuple

from .._native import ConfigError

# The main program is being loaded in a worker: it must not start a fleet there.
loading_main = False


class Spec(NamedTuple):
    """What one worker's process needs to know; the target is an object or an import string."""

    name: str
    target: Any
    kwargs: dict[str, Any]
    # Seconds; 0: never stale.
    stale: float
    # "call" or "start" as the user said it, else "auto".
    ready: str
    grace: float
    item_deadline: float | None
    counters: tuple[str, ...]
    auto_instrument: bool
    fleet: str
    # Where the first process says whether it could load the target; see `_first`.
    first: tuple[int, int] | None = None


class Shape(NamedTuple):
    """How a target is to be called."""

    is_class: bool
    is_async: bool
    # How it takes its worker: "" not, "1" as its first argument, else by that name.
    takes: str


_NAMES = ("worker", "w")


def describe(target: Any, kwargs: dict[str, Any]) -> Shape:
    """Raises ConfigError for what cannot be a worker."""
    if inspect.isclass(target):
        start = getattr(target, "start", None)
        if not callable(start):
            raise ConfigError(
                f"class {target.__qualname__} has no start(); a worker's class needs one"
            )
        named = [one for one in _NAMES if one in _parameters(target) and one not in kwargs]
        return Shape(True, inspect.iscoroutinefunction(start), named[0] if named else "")
    if not callable(target):
        raise ConfigError(
            f"target is {target!r}; allowed: a function, a coroutine function, a class with "
            'start(), or "package.module:name"'
        )
    is_async = inspect.iscoroutinefunction(target) or inspect.iscoroutinefunction(
        getattr(target, "__call__", None)  # noqa: B004  # asks what it is, not whether
    )
    takes = ""
    for name, parameter in _parameters(target).items():
        if name in kwargs or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if parameter.default is parameter.empty or name in _NAMES:
            takes = name if parameter.kind == parameter.KEYWORD_ONLY else "1"
            break
    return Shape(False, is_async, takes)


def _parameters(target: Any) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(target).parameters)
    except (TypeError, ValueError):  # a built-in that does not say
        return {}


def check_string(target: str) -> None:
    """Raises ConfigError for what is no import string."""
    module, _, name = target.partition(":")
    parts = module.split(".") + name.split(".")
    if not all(part.isidentifier() for part in parts):
        raise ConfigError(f'target is {target!r}; allowed: "package.module:name"')


def resolve(target: Any) -> Any:
    """The object that an import string names. Raises ImportError, ConfigError, or what its module
    does.
    """
    if not isinstance(target, str):
        return target
    check_string(target)
    module, _, name = target.partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        if not hasattr(found, part):
            raise ConfigError(f"target is {target!r}: module {module} has no {name}")
        found = getattr(found, part)
    return found


def pack(spec: Spec) -> int:
    """That, and how to import it, in a memory file; its descriptor. Raises ConfigError."""
    try:
        inner = pickle.dumps(spec)
    except Exception as error:
        raise ConfigError(
            f"workers {spec.name!r}: {spec.target!r} or its arguments cannot go to a program "
            f"of its own ({error}). Allowed: an import string, or what a module defines, with "
            "arguments that can be pickled; or start the fleet before there are threads, in mode "
            "'fork'"
        ) from None
    main = sys.modules.get("__main__")
    module = getattr(getattr(main, "__spec__", None), "name", None)
    file = getattr(main, "__file__", None)
    if getattr(spec.target, "__module__", "") == "__main__" and not (module or file):
        raise ConfigError(
            f"workers {spec.name!r}: {spec.target!r} is of a main program without a file (python "
            "-c, an interactive one), which a program of its own cannot import. Allowed: an import "
            "string, or what a module or the file of the main program defines"
        )
    outer = (list(sys.path), list(sys.argv), module, os.path.abspath(file) if file else None, inner)
    fd = os.memfd_create("libtelemetry-fleet-worker", 0)
    data = pickle.dumps(outer)
    while data:
        data = data[os.write(fd, data) :]
    return fd


def unpack(fd: int) -> Spec:
    """What `pack` put there, in the program that inherited it."""
    # Others read the same file: by position, not from where they left it.
    chunks, at = [], 0
    while chunk := os.pread(fd, 1 << 20, at):
        chunks.append(chunk)
        at += len(chunk)
    os.close(fd)
    path, argv, module, file, inner = pickle.loads(b"".join(chunks))
    sys.path[:] = path
    sys.argv[:] = argv
    # A target of this package's own command is no reason to load that again.
    if b"__main__" in inner and (file or module):
        _load_main(module, file)
    spec: Spec = pickle.loads(inner)
    return spec


def _load_main(module: str | None, file: str | None) -> None:
    global loading_main
    loading_main = True
    try:
        if module is not None:
            if module.endswith(".__main__"):
                module = module[: -len(".__main__")]
            names = runpy.run_module(module, run_name="__mp_main__", alter_sys=True)
        else:
            names = runpy.run_path(str(file), run_name="__mp_main__")
    finally:
        loading_main = False
    main = types.ModuleType("__mp_main__")
    main.__dict__.update(names)
    sys.modules["__main__"] = sys.modules["__mp_main__"] = main
