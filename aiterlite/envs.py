"""The environment variables, each declared once.

Values are parsed into one immutable snapshot at the first read, so the hot path never touches `os.environ`. A change
of `os.environ` after that is seen by `reload()`; `override(...)` sets values for a scope without touching it.
"""

from __future__ import annotations

import difflib
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from aiterlite.errors import EnvironmentValueError

T = TypeVar("T")


@dataclass(frozen=True)
class Variable(Generic[T]):
    """One environment variable: its name, how its text is parsed, and what it does."""

    name: str
    parse: Callable[[str], T]
    default: T
    allowed: str
    help: str
    default_text: str = ""

    def read(self, environ: Mapping[str, str]) -> T:
        text = environ.get(self.name)
        if text is None or text == "":
            return self.default
        try:
            return self.parse(text)
        except ValueError:
            raise EnvironmentValueError(self.name, text, self.allowed) from None

    def get(self) -> T:
        """The value in the current snapshot."""
        value: T = snapshot().values[self.name]
        return value


_REGISTRY: dict[str, Variable[Any]] = {}


def _declare(variable: Variable[T]) -> Variable[T]:
    _REGISTRY[variable.name] = variable
    return variable


def _choice(name: str, default: str, choices: tuple[str, ...], help: str) -> Variable[str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(text)
        return text

    return _declare(Variable(name, parse, default, ", ".join(choices), help, default))


def _flag(name: str, help: str) -> Variable[bool]:
    words = {"1": True, "true": True, "on": True, "0": False, "false": False, "off": False}

    def parse(text: str) -> bool:
        if text.lower() not in words:
            raise ValueError(text)
        return words[text.lower()]

    return _declare(Variable(name, parse, False, "0, 1, false, true, off, on", help, "0"))


def _positive(name: str, default: float, help: str, default_text: str = "") -> Variable[float]:
    def parse(text: str) -> float:
        value = float(text)
        if not 0 < value < float("inf"):
            raise ValueError(text)
        return value

    return _declare(Variable(name, parse, default, "a number above 0", help, default_text or f"{default:g}"))


def _whole(name: str, default: int, help: str) -> Variable[int]:
    def parse(text: str) -> int:
        value = int(text)
        if not 0 <= value < 1 << 64:
            raise ValueError(text)
        return value

    return _declare(Variable(name, parse, default, "a whole number from 0", help))


def _text(name: str, allowed: str, help: str, default_text: str) -> Variable[str]:
    return _declare(Variable(name, str, "", allowed, help, default_text))


def absolute(text: str) -> str:
    """A path with `~` filled in: a variable is often set without a shell (ENV of an image, a unit file, YAML).

    Raises `ValueError` where nobody knows whose home is meant: it would make a folder named `~`.
    """
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        raise ValueError(f"no home directory is known for {text!r}")
    try:
        return os.path.abspath(expanded)
    except FileNotFoundError:
        raise ValueError(f"{text!r} is relative to a current directory that was deleted") from None


def _path(name: str, allowed: str, help: str, default_text: str) -> Variable[str]:
    return _declare(Variable(name, absolute, "", f"{allowed}; ~ is the home directory", help, default_text))


def _paths(name: str, help: str) -> Variable[tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        return tuple(absolute(part) for part in text.split(os.pathsep) if part)

    allowed = f"directories separated by {os.pathsep!r}; ~ is the home directory"
    return _declare(Variable(name, parse, (), allowed, help, "(none)"))


def _command(name: str, help: str, default_text: str) -> Variable[str]:
    def parse(text: str) -> str:
        # A bare name is looked up in PATH, so only what spells out a home is a path for certain.
        return absolute(text) if text.startswith("~") else text

    return _declare(Variable(name, parse, "", "a path or command", help, default_text))


TARGET = _text(
    "AITERLITE_TARGET",
    "a target id (gfx942, gfx950, sm_90a, cpu, cpu-x86-64-v3, ...), a chip (mi300x, mi308x, mi355x, h100, ...), or a "
    "part of one (mi300x:38)",
    "Act as this target. An AMD target with CPU tensors selects the AMD kernels for them.",
    "(the tensors' device)",
)
CACHE_DIR = _path(
    "AITERLITE_CACHE_DIR", "a directory", "The writable cache: every build lands here.", "(user cache)/aiterlite"
)
CACHE_LAYERS = _paths("AITERLITE_CACHE_LAYERS", "Read-only caches, searched in order before the writable one.")
TRUSTED_LAYERS = _paths(
    "AITERLITE_TRUSTED_LAYERS",
    "Read-only caches whose artifacts may belong to another user (an image built by root, a shared mount). They are "
    "searched after AITERLITE_CACHE_LAYERS; a directory may stand in both.",
)
JIT = _choice(
    "AITERLITE_JIT",
    "auto",
    ("auto", "require-cache", "off"),
    "auto builds what is missing; require-cache makes a miss an error that carries the prebuild command; off neither "
    "builds nor loads kernels, so that only the torch rows of the dispatch tables remain.",
)
TOOLCHAIN = _choice(
    "AITERLITE_TOOLCHAIN",
    "any",
    ("any", "exact"),
    "exact accepts only artifacts that the local toolchain built; any prefers them.",
)
GEMM_REDUCTION = _choice(
    "AITERLITE_GEMM_REDUCTION",
    "deterministic",
    ("deterministic", "fast", "batch_invariant"),
    "How wvSplitKrc, and linear by it, adds up the parts of K: deterministic gives the same bits run to run, fast adds "
    "by atomics, batch_invariant keeps a row's bits also when the number of rows changes, for which linear takes "
    "wvSplitKrc alone. A call's own argument wins.",
)
MXFP4_ACTIVATIONS = _choice(
    "AITERLITE_MXFP4_ACTIVATIONS",
    "auto",
    ("auto", "fp4", "fp8", "bf16"),
    "What fused_moe (per_1x32) and aiterlite.models multiply weights of MXFP4 by, for any number of tokens: fp4 and "
    "fp8 quantise hidden states and what is between the stages to MXFP4 or MXFP8, bf16 keeps their 16 bits, auto goes "
    "by how gates lie, as upstream does for many tokens: fp8 where they take turns, else fp4. Projections of models "
    "have fp4 and bf16, and take fp8 for fp4.",
)
OVERLAP = _choice(
    "AITERLITE_OVERLAP",
    "1",
    ("0", "1"),
    "On sm_90, 1 lets a kernel be set up while the one ahead of it on its stream still runs; it reads and writes "
    "nothing before that one has ended. 0 launches it afterwards.",
)
STRICT = _flag("AITERLITE_STRICT", "A fallback that the caller may not expect is an error instead of a log line.")
ENGINES = _flag(
    "AITERLITE_ENGINES",
    "Put this package under vLLM and SGLang, in each of their processes: it answers to the name aiter where there is "
    "none, and on MI300X vLLM's skinny GEMMs are its own. A line of the log says what was replaced.",
)
LOG = _choice(
    "AITERLITE_LOG",
    "info",
    ("debug", "info", "warning", "error", "quiet"),
    "How much is written to the `aiterlite` logger. info announces builds; debug adds dispatch decisions.",
)
MAX_JOBS = _positive(
    "AITERLITE_MAX_JOBS", 0.0, "Compilers that may run at once.", "(from the CPU and memory limits of the cgroup)"
)
LOCK_TIMEOUT = _positive("AITERLITE_LOCK_TIMEOUT", 600.0, "Seconds to wait for another process that builds a unit.")
BUILD_TIMEOUT = _positive("AITERLITE_BUILD_TIMEOUT", 900.0, "Seconds after which a compiler is killed.")
RECORD = _path(
    "AITERLITE_RECORD",
    "a file path",
    "Write the set of units that this run used, for `build --from`. A file that cannot be written is a warning.",
    "(off)",
)
LAST_LAUNCHES = _path(
    "AITERLITE_LAST_LAUNCHES",
    "a directory",
    "Each process keeps a record of its last launches there, which outlives an abort; `aiterlite last-launches` prints "
    "it. The newest files are the ones to read; nothing deletes old ones.",
    "(off)",
)
LOG_CALLS = _path(
    "AITERLITE_LOG_CALLS",
    "a file path",
    "Append each operator call to this file before it is launched: operands, decision, environment. Each waits for the "
    "device first, so that the last line of a process that died is the call that killed it. `aiterlite replay` runs "
    "them again.",
    "(off)",
)
LOG_TENSORS = _whole(
    "AITERLITE_LOG_TENSORS",
    0,
    "With AITERLITE_LOG_CALLS, keep the values of operands of at most so many bytes each, in a directory beside the "
    "file.",
)
MAX_INSTRUCTIONS = _whole(
    "AITERLITE_MAX_INSTRUCTIONS",
    10_000_000_000,
    "Instructions that the waves of one emulated launch may execute in all before it is taken for endless; 0 is no "
    "limit. The default is what an MI300X executes in some 15 ms, and the emulator in minutes. The argument of a "
    "launch wins.",
)
CXX = _command("AITERLITE_CXX", "The host C++ compiler.", "c++, g++ or clang++ on PATH")
NVCC = _command("AITERLITE_NVCC", "The CUDA compiler.", "$CUDA_HOME/bin/nvcc or nvcc on PATH")
AMDGPU_CLANG = _command(
    "AITERLITE_AMDGPU_CLANG",
    "A clang with the AMDGPU back end.",
    "for each target the first that knows it: of $ROCM_PATH, $ROCM_HOME, the rocm_sdk wheels, /opt/rocm, ziglang",
)


def _vskip(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError(text)
    return text == "1"


VSKIP: Variable[bool | None] = _declare(
    Variable(
        "AITER_ENABLE_VSKIP",
        _vskip,
        None,
        "0, 1",
        "Kernels that use s_setvskip: unset takes what is safe on the chip (never on MI300X), 0 never takes them, "
        "1 prefers them.",
        "(what is safe on the chip)",
    )
)


GPU_ARCHS = _text(
    "GPU_ARCHS",
    "targets, `;` between them",
    "`aiterlite.compat.aiter` alone: the target that `aiter.jit.utils.chip_info.get_gfx` names, the last of several.",
    "(the device's)",
)
# Text, since other programs have a variable of that name: what is no number is an error where it is asked for.
CU_NUM = _text(
    "CU_NUM",
    "a whole number",
    "`aiterlite.compat.aiter` alone: the compute units that `aiter.jit.utils.chip_info.get_cu_num` counts; 0 is the "
    "device's own.",
    "0",
)


def _prefer(text: str) -> str:
    if text not in ("asm", "hip"):
        raise ValueError(text)
    return text


PREFER: Variable[str | None] = _declare(
    Variable(
        "AITERLITE_PREFER",
        _prefer,
        None,
        "asm, hip",
        "Which kind of AMD kernel is taken where both serve a call: assembly, or compiled from HIP. Where the kind has "
        "no kernel for a call the other serves; the decision says so, and AITERLITE_STRICT=1 makes that an error.",
        "(what the dispatch tables prefer)",
    )
)


@dataclass(frozen=True)
class Snapshot:
    """The parsed values of all variables, and a number that changes whenever they may have changed."""

    values: Mapping[str, Any]
    generation: int


_lock = threading.Lock()
_current: Snapshot | None = None
_generation = 0
_overrides: list[dict[str, str]] = []
_warned: set[str] = set()


def registry() -> Mapping[str, Variable[Any]]:
    """All declared variables by name, in the order of declaration."""
    return dict(_REGISTRY)


def snapshot() -> Snapshot:
    """The current values. Raises `EnvironmentValueError` on a value that is not allowed."""
    return _current if _current is not None else _take()


def reload() -> None:
    """Read `os.environ` again at the next use."""
    global _current
    with _lock:
        _current = None


@contextmanager
def override(**values: str | None) -> Iterator[None]:
    """Set variables by name for a scope (None unsets), for this whole process, without writing `os.environ`.

    Scopes of several threads may overlap in any order: while several set one variable, the one that began last decides.
    """
    global _current
    layer = {name: value or "" for name, value in values.items()}
    for name, text in layer.items():
        if name not in _REGISTRY:
            raise EnvironmentValueError(name, text, ", ".join(_REGISTRY))
        _REGISTRY[name].read(layer)
    with _lock:
        _overrides.append(layer)
        _current = None
    try:
        snapshot()
        yield
    finally:
        with _lock:
            # By identity: two scopes may set the same.
            _overrides[:] = [other for other in _overrides if other is not layer]
            _current = None


def _take() -> Snapshot:
    global _current, _generation
    with _lock:
        environ = dict(os.environ)
        for layer in _overrides:
            environ.update(layer)
        values = {name: variable.read(environ) for name, variable in _REGISTRY.items()}
        _warn_unknown(environ)
        _generation += 1
        taken = _current = Snapshot(values, _generation)
        return taken


def unknown(environ: Mapping[str, str]) -> dict[str, str]:
    """The AITERLITE_* names in an environment that nobody declared, each with the nearest declared one (or "")."""
    names = sorted(name for name in environ if name.startswith("AITERLITE_") and name not in _REGISTRY)
    return {name: next(iter(difflib.get_close_matches(name, _REGISTRY, n=1)), "") for name in names}


def _warn_unknown(environ: Mapping[str, str]) -> None:
    for name, near in unknown(environ).items():
        if name not in _warned:
            _warned.add(name)
            advice = f"; did you mean {near}?" if near else ""
            warnings.warn(f"unknown environment variable {name}{advice}", stacklevel=4)


def to_markdown() -> str:
    """The body of docs/environment.md."""
    rows = ["| variable | default | allowed | effect |", "| --- | --- | --- | --- |"]
    for variable in _REGISTRY.values():
        default = variable.default_text or str(variable.default) or "(unset)"
        rows.append(f"| `{variable.name}` | {default} | {variable.allowed} | {variable.help} |")
    return "\n".join(rows) + "\n"
