"""The emulator's library at any CPU level, built through the package's own JIT."""

from __future__ import annotations

from pathlib import Path

from aiterlite.emulator import library as emulator_library
from aiterlite.jit import engine

LEVELS = ("x86-64", "x86-64-v3", "x86-64-v4")


def library(level: str = "") -> Path:
    """The shared library for a level; the host's best by default."""
    unit = emulator_library.unit(f"cpu-{level}" if level else "")
    return engine.obtain(unit, build=True).entry.path
