"""What the emulator's tests share in one run: the library, a device a target, and code objects compiled once."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

from emulator import corpus, executor

from aiterlite import emulator
from aiterlite.emulator import Device, Module
from aiterlite.jit import toolchain


def missing() -> str:
    """Why no kernel can be compiled here, or nothing."""
    if toolchain.find("amd") is None:
        return f"no AMDGPU clang: {toolchain.how_to_get('amd')}"
    return "" if toolchain.find("host") else f"no host compiler: {toolchain.how_to_get('host')}"


@functools.cache
def _temporary() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="aiterlite-corpus-")


def folder() -> Path:
    return Path(_temporary().name)


@functools.cache
def device(target: str) -> Device:
    emulator.use_library(str(executor.library()))
    return Device(corpus.PERSONAS[target])


@functools.cache
def module(source: str, target: str, level: str) -> Module:
    """The emulated code object of a corpus source."""
    return device(target).load(corpus.compile_object(source, target, level, folder()))
