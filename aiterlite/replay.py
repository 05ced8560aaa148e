"""Logged calls once more, held against this package's kernels for CPUs: in the emulator with all sanitizers, on a GPU,
or on a CPU of another level."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from aiterlite import emulator, envs, operators
from aiterlite.emulator import Finding
from aiterlite.errors import AiterliteError
from aiterlite.ops import operator
from aiterlite.ops.call_file import Call, CallFileError, Rebuilt, rebuild

# What of a call's environment decides; the rest belongs to the machine.
_DECIDES = (envs.GEMM_REDUCTION, envs.OVERLAP, envs.STRICT, envs.VSKIP, envs.PREFER)


@dataclass(frozen=True)
class Difference:
    """An output against the reference's: how many elements are not the same, and the norm of the difference over that
    of the reference (of integers, their share). `broken`: one has a NaN or an infinity where the other has none."""

    unlike: int
    relative: float
    broken: bool


@dataclass
class Outcome:
    """What a replayed call did. `refused` and `failed` are the package's own words."""

    call: Call
    made_up: int = 0
    refused: str = ""
    failed: str = ""
    differences: dict[str, Difference] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def is_right(self, tolerance: float) -> bool:
        close = all(not d.broken and d.relative <= tolerance for d in self.differences.values())
        return close and not self.findings and not self.failed


def replay(call: Call, folder: Path, target: str, device: str = "cpu", sanitize: bool = True, seed: int = 0) -> Outcome:
    """Runs a call as `target` does (empty: as `device` does), and as a CPU. Raises `CallFileError`."""
    if call.op not in operators.NAMES:
        raise CallFileError(f"call {call.number} is of {call.op!r}, which this version has not")
    outcome = Outcome(call)
    given = rebuild(call, folder, device, seed)
    outcome.made_up = given.made_up
    environment = {v.name: call.environment[v.name] for v in _DECIDES if v.name in call.environment}
    quiet = {envs.LOG_CALLS.name: None}
    try:
        with envs.override(**environment, **quiet, AITERLITE_TARGET=target or None):
            with emulator.watching(sanitize) as seen:
                got = _run(call.op, given)
            if device != "cpu":
                torch.cuda.synchronize()
        outcome.findings = list(seen.findings)
    except AiterliteError as error:
        outcome.failed = f"{type(error).__name__}: {error}"
        if call.refused:
            outcome.refused, outcome.failed = outcome.failed, ""
        return outcome
    reference = rebuild(call, folder, "cpu", seed)
    try:
        with envs.override(**environment, **quiet, AITERLITE_TARGET="cpu"):
            wanted = _run(call.op, reference)
    except AiterliteError as error:
        outcome.failed = f"no reference: a CPU does not serve this call: {error}"
        return outcome
    outcome.differences = {name: _difference(got[name].cpu(), value) for name, value in wanted.items()}
    return outcome


def _run(op: str, given: Rebuilt) -> Mapping[str, Tensor]:
    """The outputs of a call: results, and what it writes to."""
    called = operator.OPERATORS[op]
    returned = called.run(*given.arguments, **given.keywords)
    several = returned if isinstance(returned, (tuple, list)) else [returned]
    found = {f"result {i}": result for i, result in enumerate(several) if isinstance(result, Tensor)}
    names = [argument.name for argument in called.overload._schema.arguments]
    arguments = {**dict(zip(names, given.arguments, strict=False)), **given.keywords}
    return found | {name: arguments[name] for name in called.mutates if isinstance(arguments.get(name), Tensor)}


def _difference(got: Tensor, wanted: Tensor) -> Difference:
    if got.shape != wanted.shape:
        return Difference(max(got.numel(), wanted.numel()), float("inf"), True)
    if not wanted.dtype.is_floating_point:
        unlike = int((got != wanted).sum())
        return Difference(unlike, unlike / max(1, wanted.numel()), False)
    a, b = got.double(), wanted.double()
    same = (a == b) | (a.isnan() & b.isnan())
    broken = bool((~same & ~(a.isfinite() & b.isfinite())).any())
    apart = torch.where(same | ~a.isfinite() | ~b.isfinite(), 0.0, a - b)
    norm = float(torch.where(b.isfinite(), b, 0.0).norm())
    distance = float(apart.norm())
    return Difference(int((~same).sum()), 0.0 if distance == 0 else distance / norm if norm else float("inf"), broken)
