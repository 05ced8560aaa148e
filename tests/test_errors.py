"""Errors keep what they say on their way between processes."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from aiterlite import dispatch, errors
from aiterlite.errors import AiterliteError
from aiterlite.tables import gemm
from aiterlite.target import resolve

DECISION = dispatch.decide(gemm.WV_SPLIT_K, gemm.GemmProblem(1, 256, 7168), resolve("mi300x"))
EXAMPLES: list[AiterliteError] = [
    errors.AiterliteError("text"),
    errors.ArgumentError("linear", "x", "of dtype int8", "bfloat16", "Convert it."),
    errors.EnvironmentValueError("AITERLITE_JIT", "x", "auto, off"),
    errors.TargetError("text"),
    errors.NotOfferedError("text"),
    errors.ShadowError("text"),
    errors.DispatchError("text", DECISION),
    errors.JitError("text"),
    errors.SourceError("text"),
    errors.ToolchainNotFoundError("text"),
    errors.BuildError("unit", "a.cpp:1: error", "hint", "/log", "command"),
    errors.BuildTimeoutError("unit", "no end", "", "/log", "command"),
    errors.MissingArtifactError("unit", ["/a", "/b"], "aiterlite build", "why"),
    errors.JitDisabledError("text"),
    errors.SealedError("text"),
    errors.CaptureError("text"),
    errors.LockTimeoutError("text"),
    errors.CacheDirectoryError("text"),
    errors.UntrustedArtifactError("text"),
    errors.DamagedArtifactError("text", "/leaf"),
    errors.BundleError("text"),
    errors.LoadError("text"),
    errors.ExecutorError("text"),
    errors.LaunchError("kernel", 9, "invalid", (4, 1, 1), (64, 1, 1), "n=1"),
]


def test_every_error_has_an_example() -> None:
    defined = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, AiterliteError)}
    assert {type(error) for error in EXAMPLES} == defined


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("travel", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy])
def test_an_error_crosses_to_another_process_whole(error: AiterliteError, travel: Any) -> None:
    """Worker pools and servers pickle them; one that cannot be rebuilt there breaks the pool instead."""
    arrived = travel(error)
    assert type(arrived) is type(error) and str(arrived) == str(error)
    kept = {name: value for name, value in vars(error).items() if name != "decision"}
    assert {name: value for name, value in vars(arrived).items() if name != "decision"} == kept


def test_messages_hold_what_a_person_needs() -> None:
    text = str(EXAMPLES[10])
    assert text.splitlines() == [
        "building unit failed: a.cpp:1: error",
        "  hint: hint",
        "  full log: /log",
        "  repeat with: command",
    ]
    assert "hint" not in str(errors.BuildError("unit", "error"))
    missing = str(EXAMPLES[12])
    assert "(why)" in missing and "searched: /a, /b" in missing and "prebuild with: aiterlite build" in missing
    assert str(EXAMPLES[1]) == "linear: argument `x` is of dtype int8; allowed: bfloat16. Convert it."
    assert isinstance(EXAMPLES[1], ValueError) and isinstance(EXAMPLES[2], ValueError)
