"""The examples of the adapters' own documentation, run as they stand."""

from __future__ import annotations

import importlib
import textwrap


def example(module: str, host: str) -> str:
    """Run it, with the host of its service replaced where it names one."""
    text = importlib.import_module(f"libtelemetry.integrations.{module}").__doc__ or ""
    lines = text.splitlines()[1:]
    block = [line for line in lines[: lines.index(prose(lines))] if line]
    code = textwrap.dedent("\n".join(block))
    if module == "segment":
        from segment import analytics

        analytics.host = host
    exec(code.replace("https://eu.i.posthog.com", host), {})
    return code


def prose(lines: list[str]) -> str:
    """The first line of text after the example."""
    return next(line for line in lines if line and not line.startswith(" "))
