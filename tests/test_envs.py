"""The environment registry: parsing, snapshots, overrides, and its agreement with code and documentation."""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import aiterlite
from aiterlite import envs
from aiterlite.errors import EnvironmentValueError

PACKAGE = Path(aiterlite.__file__).parent
DOCUMENT = PACKAGE.parent / "docs" / "environment.md"


@pytest.fixture(autouse=True)
def _unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in envs.registry():
        monkeypatch.delenv(name, raising=False)


def set_variable(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    envs.reload()


def test_the_issue_s_variables_are_declared() -> None:
    assert set(envs.registry()) >= {
        "AITERLITE_TARGET",
        "AITERLITE_CACHE_DIR",
        "AITERLITE_CACHE_LAYERS",
        "AITERLITE_JIT",
        "AITERLITE_STRICT",
        "AITERLITE_LOG",
        "AITERLITE_MAX_JOBS",
        "AITER_ENABLE_VSKIP",
    }


def test_defaults_hold_when_nothing_is_set() -> None:
    for variable in envs.registry().values():
        assert variable.get() == variable.default, variable.name


def test_an_empty_value_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    set_variable(monkeypatch, "AITERLITE_JIT", "")
    assert envs.JIT.get() == "auto"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("AITERLITE_JIT", "require-cache", "require-cache"),
        ("AITERLITE_STRICT", "1", True),
        ("AITERLITE_STRICT", "TRUE", True),
        ("AITERLITE_STRICT", "off", False),
        ("AITERLITE_MAX_JOBS", "3", 3.0),
        ("AITERLITE_LOCK_TIMEOUT", "0.5", 0.5),
        ("AITER_ENABLE_VSKIP", "0", False),
        ("AITER_ENABLE_VSKIP", "1", True),
        ("AITERLITE_CACHE_LAYERS", f"/a{os.pathsep}{os.pathsep}/b/../c", ("/a", "/c")),
        ("AITERLITE_CACHE_LAYERS", "~/a", ("/home/me/a",)),
        ("AITERLITE_TRUSTED_LAYERS", "~/a:~", ("/home/me/a", "/home/me")),
        ("AITERLITE_CACHE_DIR", "~/cache", "/home/me/cache"),
        ("AITERLITE_CACHE_DIR", "cache", "/cache"),
        ("AITERLITE_RECORD", "~/kernels.json", "/home/me/kernels.json"),
        ("AITERLITE_RECORD", "a/../kernels.json", "/kernels.json"),
        ("AITERLITE_CXX", "~/bin/g++", "/home/me/bin/g++"),
        ("AITERLITE_NVCC", "~/cuda/bin/nvcc", "/home/me/cuda/bin/nvcc"),
        ("AITERLITE_AMDGPU_CLANG", "~/bin/zig", "/home/me/bin/zig"),
        ("AITERLITE_CXX", "g++-12", "g++-12"),
    ],
)
def test_values_are_parsed(monkeypatch: pytest.MonkeyPatch, name: str, text: str, value: object) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.chdir("/")
    set_variable(monkeypatch, name, text)
    assert envs.registry()[name].get() == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("AITERLITE_JIT", "Auto"),
        ("AITERLITE_JIT", "never"),
        ("AITERLITE_STRICT", "yes"),
        ("AITERLITE_STRICT", "2"),
        ("AITERLITE_LOG", "verbose"),
        ("AITERLITE_TOOLCHAIN", "local"),
        ("AITERLITE_MAX_JOBS", "0"),
        ("AITERLITE_MAX_JOBS", "-1"),
        ("AITERLITE_MAX_JOBS", "many"),
        ("AITERLITE_LOCK_TIMEOUT", "nan"),
        ("AITERLITE_BUILD_TIMEOUT", "inf"),
        ("AITER_ENABLE_VSKIP", "true"),
        ("AITERLITE_CACHE_DIR", "~no.such.user/cache"),
        ("AITERLITE_CACHE_LAYERS", "/a:~no.such.user/cache"),
        ("AITERLITE_RECORD", "~no.such.user/kernels.json"),
        ("AITERLITE_CXX", "~no.such.user/g++"),
    ],
)
def test_a_bad_value_is_an_error_that_lists_the_good_ones(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    set_variable(monkeypatch, name, text)
    variable = envs.registry()[name]
    with pytest.raises(EnvironmentValueError) as caught:
        variable.get()
    assert (caught.value.variable, caught.value.got, caught.value.allowed) == (name, text, variable.allowed)
    assert name in str(caught.value) and repr(text) in str(caught.value) and variable.allowed in str(caught.value)
    with pytest.raises(EnvironmentValueError):
        envs.snapshot()


def test_vskip_has_three_values(monkeypatch: pytest.MonkeyPatch) -> None:
    assert envs.VSKIP.get() is None
    set_variable(monkeypatch, "AITER_ENABLE_VSKIP", "0")
    assert envs.VSKIP.get() is False


def test_an_unknown_variable_is_a_warning_with_the_nearest_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envs, "_warned", set())
    set_variable(monkeypatch, "AITERLITE_CACHEDIR", "/x")
    with pytest.warns(
        UserWarning, match="unknown environment variable AITERLITE_CACHEDIR; did you mean AITERLITE_CACHE_DIR"
    ):
        envs.snapshot()


def test_the_environment_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = envs.snapshot()
    monkeypatch.setenv("AITERLITE_JIT", "off")
    assert envs.JIT.get() == "auto"
    assert envs.snapshot() is first
    envs.reload()
    assert envs.JIT.get() == "off"
    assert envs.snapshot().generation > first.generation


def test_an_override_lasts_for_its_scope_and_writes_no_environ(monkeypatch: pytest.MonkeyPatch) -> None:
    set_variable(monkeypatch, "AITERLITE_JIT", "off")
    before = dict(os.environ)
    with envs.override(AITERLITE_JIT="require-cache", AITER_ENABLE_VSKIP="1"):
        assert (envs.JIT.get(), envs.VSKIP.get()) == ("require-cache", True)
        with envs.override(AITERLITE_JIT=None):
            assert (envs.JIT.get(), envs.VSKIP.get()) == ("auto", True)
        assert envs.JIT.get() == "require-cache"
        assert dict(os.environ) == before
    assert (envs.JIT.get(), envs.VSKIP.get()) == ("off", None)


def test_a_bad_override_is_refused_and_undone() -> None:
    for bad in ({"AITERLITE_JIT": "sometimes"}, {"AITERLITE_JITT": "off"}):
        with pytest.raises(EnvironmentValueError), envs.override(**bad):
            pass
    assert envs.JIT.get() == "auto"


def test_overrides_of_two_threads_may_overlap_in_any_order() -> None:
    """A begins, B begins, A ends, B ends: what B saw and what is left are as if they had never met."""
    first, second = envs.override(AITERLITE_JIT="off", AITERLITE_MAX_JOBS="3"), envs.override(AITERLITE_JIT="off")
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert (envs.JIT.get(), envs.MAX_JOBS.get()) == ("off", 0.0)
    second.__exit__(None, None, None)
    assert envs.JIT.get() == "auto"


def test_overrides_of_many_threads_leave_nothing_behind() -> None:
    seen: list[tuple[str, float]] = []

    def work(index: int) -> None:
        for _ in range(50):
            with envs.override(AITERLITE_MAX_JOBS=str(index + 1)):
                seen.append(("inside", envs.MAX_JOBS.get()))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 300 and {value for _, value in seen} <= {1.0, 2.0, 3.0, 4.0, 5.0, 6.0}
    assert envs.MAX_JOBS.get() == 0.0


def test_a_bad_override_is_never_in_effect_for_other_threads() -> None:
    other: list[str] = []
    before = envs.snapshot()
    with pytest.raises(EnvironmentValueError), envs.override(AITERLITE_JIT="sometimes"):
        other.append(envs.JIT.get())
    assert other == [] and envs.snapshot() is before


@given(st.text(alphabet=st.characters(exclude_categories=("Cs",), exclude_characters="\0")))
def test_no_text_crashes_a_parser(text: str) -> None:
    for variable in envs.registry().values():
        try:
            variable.read({variable.name: text})
        except EnvironmentValueError as error:
            assert error.variable == variable.name


def test_no_other_module_reads_the_package_s_variables() -> None:
    """A variable that code mentions is declared, or is a macro of the kernel sources."""
    kernels = "".join(path.read_text() for folder in ("csrc", "asm") for path in (PACKAGE / folder).rglob("*.*"))
    declared = set(envs.registry())
    for path in PACKAGE.rglob("*.py"):
        mentioned = set(re.findall(r"\b(?:AITERLITE|AITER)_[A-Z0-9_]*[A-Z0-9]\b", path.read_text()))
        # Those of aiter's attributes are no variables here.
        stray = {name for name in mentioned - declared if name not in kernels and "AITER_CONFIG" not in name}
        assert not stray, f"{path.name} mentions {stray}"


@pytest.mark.skipif(not DOCUMENT.parent.is_dir(), reason="the documentation is not part of an installed package")
def test_the_documentation_agrees_with_the_registry() -> None:
    assert envs.to_markdown() in DOCUMENT.read_text()
