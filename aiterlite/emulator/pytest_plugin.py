"""Pytest fixtures that fail a test whose emulated kernels a sanitizer finds fault with.

Load them with `-p aiterlite.emulator.pytest_plugin`, or name it in `pytest_plugins` of a conftest.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from aiterlite.emulator import grouping
from aiterlite.emulator.observe import Recording, watching

if TYPE_CHECKING:
    from aiterlite.emulator.vet import Vetting


@pytest.fixture
def sanitized() -> Iterator[Recording]:
    """Watches every emulated launch of the test, those that operators make too, with all sanitizers."""
    with watching(sanitize=True) as seen:
        yield seen
    if seen.findings:
        text = [f"the sanitizers found {grouping.summary(seen.findings)}", *grouping.lines(seen.findings)]
        pytest.fail("\n".join(text), pytrace=False)


@pytest.fixture
def vet() -> Callable[..., Vetting]:
    """`aiterlite.emulator.vet.vet`, which fails the test with its page where it finds anything that no baseline has.

    def test_scale(vet):
        x, y = torch.randn(1024), torch.empty(1024)
        vet("scale.co", "scale", grid=4, block=256, args={"x": x, "y": y, "n": 1024}, baseline="scale.known.json")
        torch.testing.assert_close(y, 2 * x)
    """
    from aiterlite.emulator.vet import vet as run

    def checked(*args: Any, **options: Any) -> Vetting:
        found = run(*args, **options)
        if not found.ok:
            pytest.fail(found.page(), pytrace=False)
        return found

    return checked
