"""The CPythons of this machine."""

from __future__ import annotations

import functools
import glob
import os
import subprocess

import pytest

_PLACES = ("~/.pyenv/versions/*/bin/python3", "/usr/local/bin/python3.*", "/usr/bin/python3.*")
_ASK = "import platform, sys; print(platform.python_implementation(), *sys.version_info[:2])"


@functools.lru_cache
def interpreters() -> dict[tuple[int, int], str]:
    """The path of each CPython from 3.9 on, by version."""
    found: dict[tuple[int, int], str] = {}
    for place in _PLACES:
        for path in sorted(glob.glob(os.path.expanduser(place))):
            done = subprocess.run([path, "-c", _ASK], capture_output=True, text=True)
            words = done.stdout.split()
            if done.returncode or len(words) != 3 or words[0] != "CPython":
                continue
            version = (int(words[1]), int(words[2]))
            if version >= (3, 9):
                found.setdefault(version, path)
    return found


def interpreter(version: str) -> str:
    """The path of that one; without it the test is skipped."""
    major, minor = map(int, version.split("."))
    path = interpreters().get((major, minor))
    if path is None:
        pytest.skip(f"there is no CPython {version} here")
    return path
