"""This package under the name `aiter`, for engines that import that: vLLM's and SGLang's ROCm code.

    import aiterlite.compat.aiter       # from here on `import aiter` and `from aiter.mla import ...` are this package
    aiterlite.compat.aiter.uninstall()  # and from here on not; what was imported stays what it is
    aiterlite.compat.aiter.install()

It is one act of one process, before the engine is imported. A name that is not offered is not there: an import of it
raises `ImportError`, as of a name that an older aiter does not have, and engines take another way. The exception are
names that SGLang imports in one block with MLA; see docs/compat.md, which lists all names.

Where an aiter is installed, `ShadowError` is raised, and nothing is done.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from aiterlite.compat import aiter_names, aiter_values
from aiterlite.errors import ShadowError
from aiterlite.jit import progress

_DTYPES = "dtypes"


class _Module(ModuleType):
    """A module of aiter. Its functions are set when it is made, so that tracers find them; modules below it, which
    upstream imports with it, come when they are asked for."""

    def __getattr__(self, name: str) -> Any:
        child = f"{self.__name__}.{name}"
        if child in _served and sys.modules.get(self.__name__) is self:
            return importlib.import_module(child)
        raise AttributeError(
            f"module {self.__name__!r} has no attribute {name!r}: docs/compat.md of aiterlite lists all"
        )

    def __dir__(self) -> list[str]:
        children = [name.rpartition(".")[2] for name in _served if name.rpartition(".")[0] == self.__name__]
        return sorted({*super().__dir__(), *children})


class _Dtypes(_Module):
    """`aiter.dtypes`. The 8-bit float is the device's, so no device is looked at before it is asked for."""

    def __getattr__(self, name: str) -> Any:
        if name == "fp8":
            return aiter_values.fp8()
        if name == "d_dtypes":
            return {**aiter_values.DTYPES, "fp8": aiter_values.fp8()}
        return super().__getattr__(name)


class _Finder(MetaPathFinder, Loader):
    """Finds and makes the modules that are served, and no other."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in _served:
            return None
        spec = ModuleSpec(fullname, self, origin=__file__, is_package=True)
        spec.submodule_search_locations = []
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return (_Dtypes if spec.name.endswith(f".{_DTYPES}") else _Module)(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        # Clients look for folders beside it; there are none.
        module.__file__ = __file__
        if isinstance(module, _Dtypes):
            vars(module).update(aiter_values.DTYPES)
            return
        for name, entry in _served[module.__name__].items():
            setattr(module, name, _value(entry))


def _value(entry: aiter_names.Name) -> Any:
    if entry.home == aiter_names.IMPORTS:
        return aiter_values.not_offered(entry.name)
    return getattr(importlib.import_module(entry.home), entry.source or entry.name)


def _modules() -> dict[str, dict[str, aiter_names.Name]]:
    """What is served; dtypes are a module, of the package and of `aiter.utility`."""
    found = aiter_names.served()
    for parent in [name for name, names in found.items() if _DTYPES in names]:
        del found[parent][_DTYPES]
        found[f"{parent}.{_DTYPES}"] = {}
    return found


_served = _modules()
_finder = _Finder()
_lock = threading.Lock()


def install() -> None:
    """Answer to the name `aiter` from here on. Nothing happens where that is so already. Raises `ShadowError` where an
    aiter is installed, or imported."""
    with _lock:
        if _finder in sys.meta_path:
            return
        there = sys.modules.get("aiter")
        spec = importlib.util.find_spec("aiter") if there is None else None
        # A folder of that name without a package in it, such as one that a checkout lies in, has no origin.
        where = getattr(there, "__file__", None) or (spec.origin if spec is not None else None)
        if there is not None or where is not None:
            raise ShadowError(
                f"there is an aiter at {where}, which aiterlite does not take the name of. Uninstall it (pip uninstall "
                "amd-aiter), or import aiterlite's functions by their own names."
            )
        # Before all others: a folder of that name would be found as a package of nothing.
        sys.meta_path.insert(0, _finder)
    offered = sum(entry.is_there for entry in aiter_names.NAMES)
    progress.logger().info("aiterlite answers to the name aiter: %d names", offered)


def uninstall() -> None:
    """Answer no longer. What was imported stays with those who imported it."""
    with _lock:
        if _finder not in sys.meta_path:
            return
        sys.meta_path.remove(_finder)
        for name in [name for name, module in list(sys.modules.items()) if isinstance(module, _Module)]:
            del sys.modules[name]


def is_installed() -> bool:
    return _finder in sys.meta_path


install()
