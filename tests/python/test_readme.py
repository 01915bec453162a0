"""The README's tables of what is lost when name the tests that prove it: they are there."""

from __future__ import annotations

import re

from harness import ROOT


def test_the_tests_that_the_readme_names_exist() -> None:
    named = set(re.findall(r"`(\w+/\w+\.py)::(\w+)", (ROOT / "README.md").read_text()))
    assert len(named) > 15
    missing = []
    for file, test in sorted(named):
        path = ROOT / "tests" / file
        if not path.exists() or not re.search(rf"^def {test}\(", path.read_text(), re.M):
            missing.append(f"{file}::{test}")
    assert missing == []
