"""A pytest plugin that lists what the executor runs and no test of the session has loaded.

    PYTHONPATH=tests python -m pytest -p emulator.exercised tests/test_emulator_*.py

The session fails if a mnemonic is missing. An instruction counts where a code object that
holds it in a form that runs is loaded.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from emulator import refusals

from aiterlite.emulator.coverage import coverage
from aiterlite.emulator.device import Device

_loaded: set[str] = set()
_missing: list[str] = []


def pytest_configure() -> None:
    load = Device.load

    def recorded(self: Device, source: Any) -> Any:
        module = load(self, source)
        data = Path(source).read_bytes() if isinstance(source, (str, os.PathLike)) else bytes(source)
        _loaded.update(form.op for form in coverage(data).forms if not form.refusal)
        return module

    Device.load = recorded  # type: ignore[method-assign]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    executed = {i.mnemonic for i in refusals.stored() for t in i.targets if i.refusal(t) != refusals.NO_SEMANTICS}
    _missing.extend(sorted(executed - _loaded))
    if _missing and exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any) -> None:
    terminalreporter.section("instructions that no test loaded")
    terminalreporter.write_line(", ".join(_missing) or "none")
