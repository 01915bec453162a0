"""Makes the web frameworks importable that tests/setup.sh puts beside .venv, and notes events."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from harness import ROOT

SDKS = ROOT / ".venv" / "sdks"

# Behind everything else: what .venv has itself stays as it is.
sys.path.append(str(SDKS / "newest"))


def framework(name: str) -> Any:
    """That framework; without it the test is skipped."""
    return pytest.importorskip(name, reason="run tests/setup.sh", exc_type=ImportError)


class Notes(list[dict[str, Any]]):
    """Stands in for a client: keeps what is enqueued."""

    _config = "{}"

    def enqueue(self, event: dict[str, Any]) -> bool:
        """Like the client's."""
        self.append(event)
        return True

    def flush(self, timeout: float) -> bool:
        """Nothing waits."""
        return True


class Broken:
    """Stands in for a client that fails, which the real one does not."""

    _config = "{}"

    def enqueue(self, event: dict[str, Any]) -> bool:
        """Raise."""
        raise RuntimeError("broken client")
