"""Calls of operators with operands made up for a problem: for demonstrations, benchmarks and the emulator.

A file a family; its `SAMPLES` maps operators to what makes a `Sample` of (problem, seed).
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aiterlite.errors import ArgumentError
from aiterlite.tables import TABLES, family_of

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Exact:
    """An output that has these very bits; a NaN is any NaN."""

    value: Tensor

    def error(self, got: Tensor) -> float:
        """How many elements differ."""
        value, got = self.value, got.cpu()
        if (got.shape, got.dtype) != (value.shape, value.dtype):
            return max(1, value.numel())
        same = (got == value) & (got.float().signbit() == value.float().signbit())
        return int((~(same | (got.isnan() & value.isnan()))).sum())

    def of_bound(self, got: Tensor) -> float:
        """0 where all bits are right, else infinity."""
        return float("inf") if self.error(got) else 0.0


@dataclass(frozen=True)
class Within:
    """An output that may differ from `value`, in float64, by `bound`."""

    value: Tensor
    bound: Tensor

    def error(self, got: Tensor) -> float:
        """The largest difference."""
        return float((got.cpu().double() - self.value).abs().max()) if got.numel() else 0.0

    def of_bound(self, got: Tensor) -> float:
        """The largest share of the bound that an element uses; nan where an element is."""
        apart = (got.cpu().double() - self.value).abs()
        return float(torch.where(apart == 0, 0.0, apart / self.bound).max()) if got.numel() else 0.0


@dataclass(frozen=True)
class Sample:
    """A call of an operator.

    `inputs` are its tensors by name, on the CPU. `bind` takes such tensors, on any device and new for each run, since a
    call may write to them, and makes the call of the public function with the operator's arguments; `results` names
    what it returns. `outputs` says what each result, and each input that is written to, must be. `baseline` takes
    tensors by name and does the same by torch alone, where torch has such a call.
    """

    inputs: Tensors
    bind: Callable[[Tensors], functools.partial[Any]]
    results: tuple[str, ...]
    outputs: Mapping[str, Exact | Within]
    baseline: Callable[[Tensors], Any] | None = None

    def fresh(self, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """The inputs once more, with their strides."""
        return {
            name: torch.empty_strided(t.size(), t.stride(), dtype=t.dtype, device=device).copy_(t)
            for name, t in self.inputs.items()
        }

    def run(self, device: torch.device | str = "cpu") -> Tensors:
        """The outputs of one call on fresh inputs."""
        given = self.fresh(device)
        return self.named(self.bind(given)(), given)

    def named(self, returned: Any, given: Tensors) -> Tensors:
        """The outputs by name: what a call on `given` returned, and what it wrote to."""
        several = returned if isinstance(returned, (tuple, list)) else (returned,) if self.results else ()
        results = dict(zip(self.results, several, strict=True))
        return {name: results[name] if name in results else given[name] for name in self.outputs}

    def error(self, got: Tensors) -> float:
        """The largest error of any output."""
        return max(output.error(got[name]) for name, output in self.outputs.items())

    def of_bound(self, got: Tensors) -> float:
        """The largest share of its bound that any output uses: at most 1 where all are right."""
        shares = [output.of_bound(got[name]) for name, output in self.outputs.items()]
        return next((share for share in shares if share != share), max(shares))


def sample(op: str, problem: Any, seed: int = 0) -> Sample:
    """Operands of random numbers for a problem of an operator. Raises `ArgumentError`."""
    if op not in TABLES:
        raise ArgumentError("sample", "op", op, ", ".join(TABLES))
    make: Callable[[Any, int], Sample] = importlib.import_module(family_of(op).samples).SAMPLES[op]
    try:
        if any(isinstance(value, int) and value >= 1 << 63 for value in vars(problem).values()):
            raise OverflowError("sizes have 64 bits")
        return make(problem, seed)
    except (RuntimeError, OverflowError, MemoryError) as error:
        # torch allocated as much as it could.
        said = str(error).partition("\n")[0]
        raise ArgumentError("sample", "problem", f"{problem} ({said})", "one whose operands fit in memory") from None
