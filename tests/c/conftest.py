"""The fixtures of the C tests live in programs.py, where tests can import from."""

from programs import collector, collectors, programs, run, signals_pipes  # noqa: F401
