"""Fixtures and markers. Nothing here imports torch: a part of the tests runs without it."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from support import TOY_TREE

from aiterlite import envs
from aiterlite.cli import SCHEMA, main
from aiterlite.emulator import library
from aiterlite.errors import AiterliteError
from aiterlite.jit import engine, sources, toolchain
from aiterlite.jit.sources import SourceTree
from aiterlite.jit.store import Entry, Store, open_store

# Before anything loads OpenMP: its threads wait for work by spinning otherwise, on cores that other tests need.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("tests", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
# For runs that repeat others with another Python: what differs there, few examples show.
hypothesis.settings.register_profile("again", hypothesis.settings.get_profile("tests"), max_examples=20)
hypothesis.settings.load_profile("tests")

pytest_plugins = ("pytester", "aiterlite.emulator.pytest_plugin")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "torch: needs torch, in this process or in a child that builds a host unit")
    config.addinivalue_line("markers", "nvcc: compiles for NVIDIA GPUs")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker, missing in (("torch", _no_torch), ("nvcc", _no_nvcc), ("gpu", _no_gpu)):
        if item.get_closest_marker(marker) is not None:
            reason = missing()
            if reason:
                pytest.skip(reason)


@functools.cache
def _no_torch() -> str:
    return "" if importlib.util.find_spec("torch") else "torch is not installed"


@functools.cache
def _no_nvcc() -> str:
    return "" if toolchain.find("cuda") else f"no nvcc: {toolchain.how_to_get('cuda')}"


@functools.cache
def _no_gpu() -> str:
    if _no_torch():
        return _no_torch()
    import torch

    return "" if torch.cuda.is_available() else "no GPU"


def _shared_cache(factory: pytest.TempPathFactory) -> Path:
    """Where the units of this run's tests are built once: for all of its processes, and for all the runs that
    TESTS_CACHE_DIR names one directory to. A key covers all that a unit is made of, and tests of builds have caches of
    their own (`cache_dir`)."""
    if named := os.environ.get("TESTS_CACHE_DIR"):
        return Path(named).absolute()
    folder = factory.getbasetemp()
    # Each process of pytest-xdist has a folder of its own in that of the run.
    return (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "shared-cache"


@pytest.fixture(scope="session", autouse=True)
def _own_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test sees the user's cache or settings, nor writes there.

    The emulator alone, which takes minutes to compile, is copied from that cache where `make demo` has left one that
    fits these sources.
    """
    emulator = _built_emulator()
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("AITERLITE_", "AITER_")):
                patch.delenv(name)
        patch.setenv("AITERLITE_CACHE_DIR", str(_shared_cache(tmp_path_factory)))
        envs.reload()
        if emulator is not None and _built_emulator() is None:
            store = open_store()
            store.prepare()
            staged = store.staging(emulator.meta["unit"]["name"])
            shutil.copy(emulator.path, staged)
            store.publish(staged, emulator.meta, emulator.meta["key"], emulator.directory.name)
        yield


def _built_emulator() -> Entry | None:
    try:
        return engine.lookup(engine.wanted(library.unit()), open_store()).entry
    except AiterliteError:
        # The tests build their own where the cache cannot be read or trusted.
        return None


@pytest.fixture(autouse=True)
def _fresh_settings() -> Iterator[None]:
    """A test that changes the environment or seals the engine leaves no trace."""
    envs.reload()
    yield
    engine.unseal()
    envs.reload()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """torch has one thread: small products and their references are no work for several, and other tests run beside."""
    from torch_threads import threads

    with threads(1):
        yield


@pytest.fixture(scope="session")
def emulator_library() -> str:
    """The emulator's library, built into the cache of the session."""
    from emulator import executor

    return str(executor.library())


@pytest.fixture
def cache_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty writable cache of this test's own."""
    path = tmp_path / "cache"
    monkeypatch.setenv("AITERLITE_CACHE_DIR", str(path))
    monkeypatch.setenv("AITERLITE_LOG", "warning")
    envs.reload()
    return path


@pytest.fixture
def source_tree(tmp_path: Path) -> SourceTree:
    """A private copy of the toy kernels, whose units compile in a fraction of a second."""
    root = tmp_path / "checkout"
    shutil.copytree(TOY_TREE, root)
    return SourceTree(root)


@pytest.fixture
def toy_store(cache_dir: Path, source_tree: SourceTree, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty cache, and the toy kernels in the place of the package's sources."""
    monkeypatch.setattr(sources, "PACKAGE_ROOT", source_tree.root)
    return open_store()


@contextmanager
def _mounted(folder: Path, options: str) -> Iterator[Path]:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"mode=755,{options}", "none", str(folder)]
    if os.geteuid() != 0 or shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a file system cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def noexec(tmp_path: Path) -> Iterator[Path]:
    """A file system from which nothing may be executed."""
    with _mounted(tmp_path / "noexec", "noexec,size=32m") as folder:
        yield folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that is soon full."""
    with _mounted(tmp_path / "small", "size=2m") as folder:
        yield folder


@pytest.fixture
def both(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[str, Any, int]]:
    """Runs a command as text and as JSON; gives the text, the data without the number of its schema, and the exit
    status that both agreed on."""

    def run(*argv: str) -> tuple[str, Any, int]:
        code = main(argv)
        text = capsys.readouterr().out
        assert main([*argv, "--json"]) == code
        data = json.loads(capsys.readouterr().out)
        assert data.pop("schema") == SCHEMA
        return text.removesuffix("\n"), data, code

    return run
