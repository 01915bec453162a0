"""File systems that do not work, each in a mount namespace that ends with its process."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest


def private_mounts(mount: str, directory: Path) -> list[str]:
    """What to put before a command so that it runs behind `mount`; skips where nobody may mount."""
    way = ["unshare", "--mount"]
    if os.geteuid() != 0:
        way = ["unshare", "--map-root-user", "--mount"]
    probe = f"mount -t tmpfs none {directory}"
    if subprocess.run([*way, "sh", "-c", probe], capture_output=True).returncode:
        pytest.skip("this user may not mount, not even in a namespace")
    return [*way, "sh", "-c", f'{mount} && exec "$@"', "sh"]
