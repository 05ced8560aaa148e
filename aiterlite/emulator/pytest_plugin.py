"""A pytest fixture that fails a test whose emulated kernels a sanitizer finds fault with.

Load it with `-p aiterlite.emulator.pytest_plugin`, or name it in `pytest_plugins` of a conftest.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from aiterlite.emulator import grouping
from aiterlite.emulator.observe import Recording, watching


@pytest.fixture
def sanitized() -> Iterator[Recording]:
    """Watches every emulated launch of the test, those that operators make too, with all sanitizers."""
    with watching(sanitize=True) as seen:
        yield seen
    if seen.findings:
        text = [f"the sanitizers found {grouping.summary(seen.findings)}", *grouping.lines(seen.findings)]
        pytest.fail("\n".join(text), pytrace=False)
