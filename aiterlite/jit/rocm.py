"""Where the AMDGPU clangs of this machine are: ROCm's in each layout that it is shipped in, and ziglang's."""

from __future__ import annotations

import glob
import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Iterator

_SYSTEM_ROOT = "/opt/rocm"
# ROCm's own packages have llvm/ (a link to lib/llvm since 6.0); TheRock's archives and wheels have only lib/llvm.
_BIN = (os.path.join("llvm", "bin"), os.path.join("lib", "llvm", "bin"))
# The wheels behind the package rocm_sdk. Release builds put their version behind these names.
_WHEELS = ("_rocm_sdk_core*", "_rocm_sdk_devel*")


def clangs() -> list[str]:
    """The clangs, the one to ask first in front: of $ROCM_PATH and $ROCM_HOME, of the rocm_sdk wheels of this
    environment, of /opt/rocm, of versioned folders beside it (the newest first), and ziglang's. Starts nothing."""
    found: dict[str, str] = {}
    for path in _candidates():
        found.setdefault(os.path.realpath(path), path)
    return list(found.values())


def _candidates() -> Iterator[str]:
    for root in _roots():
        for folder in _BIN:
            path = shutil.which(os.path.join(root, folder, "clang"))
            if path:
                yield path
    spec = importlib.util.find_spec("ziglang")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = os.path.join(folder, "zig")
        if os.access(path, os.X_OK):
            yield path


def _roots() -> Iterator[str]:
    yield from (root for root in (os.environ.get("ROCM_PATH"), os.environ.get("ROCM_HOME")) if root)
    for folder in sys.path:
        for pattern in _WHEELS:
            yield from sorted(glob.glob(os.path.join(glob.escape(folder or "."), pattern)), reverse=True)
    yield _SYSTEM_ROOT
    yield from sorted(glob.glob(f"{_SYSTEM_ROOT}-*"), key=_version, reverse=True)


def _version(path: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", os.path.basename(path))]
