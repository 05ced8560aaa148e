"""What can go wrong when a code object is loaded or run. All derive from `EmulatorError`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiterlite.errors import AiterliteError


class EmulatorError(AiterliteError):
    """Base of the emulator's errors. `report` is what the run reported, empty before one."""

    def __init__(self, message: str, report: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.report: Mapping[str, Any] = report or {}


class CodeObjectError(EmulatorError, ValueError):
    """The bytes are no gfx942 or gfx950 code object that can be loaded, or one for another target than the device's."""


class UnknownKernelError(EmulatorError, LookupError):
    """The object has no kernel of that name."""


class KernelArgumentError(EmulatorError, TypeError):
    """A kernel argument is missing, superfluous, or does not fit the kernel's metadata."""


class LaunchConfigurationError(EmulatorError, ValueError):
    """Grid, block or LDS size that the kernel or the persona cannot take."""


class ExecutionError(EmulatorError, RuntimeError):
    """A kernel stopped before its end.

    `kernel`, `workgroup`, `wave`, `pc` (bytes from the start of the code), `listed` (its address in listings) and
    `instruction` say where.
    """

    def __init__(self, message: str, report: Mapping[str, Any] | None = None) -> None:
        super().__init__(message, report)
        fault = self.report.get("fault", {})
        self.kernel: str = self.report.get("kernel", "")
        self.workgroup: tuple[int, ...] = tuple(fault.get("workgroup", ()))
        self.wave: int = fault.get("wave", -1)
        self.pc: int = fault.get("pc", -1)
        self.listed: int = fault.get("listed", -1)
        self.instruction: str = fault.get("instruction", "")


@dataclass(frozen=True)
class NearestRange:
    """The registered memory nearest to a bad address. `distance` is negative before it, 1 one past its last byte."""

    name: str
    base: int
    bytes: int
    distance: int


class MemoryViolation(ExecutionError):  # noqa: N818 (what happened, in the field\'s words)
    """An access outside the memory that the launch may touch, or a store to memory that it may only read.

    `kind` is `out_of_range`, `read_only` or `misaligned`; `space` one of global, buffer, flat, scratch, LDS and scalar;
    `address` is an offset for LDS and scratch; `lane` is -1 for scalar memory; `nearest` is None for LDS and scratch.
    """

    def __init__(self, message: str, report: Mapping[str, Any] | None = None) -> None:
        super().__init__(message, report)
        fault = self.report.get("fault", {})
        self.kind: str = fault.get("kind", "")
        self.space: str = fault.get("space", "")
        self.write: bool = fault.get("write", False)
        self.lane: int = fault.get("lane", -1)
        self.address: int = fault.get("address", 0)
        self.size: int = fault.get("size", 0)
        self.nearest: NearestRange | None = None
        if "nearest" in fault:
            self.nearest = NearestRange(
                fault["nearest"], fault["nearest_base"], fault["nearest_bytes"], fault["distance"]
            )


class UnsupportedInstructionError(ExecutionError, NotImplementedError):
    """An encoding that the decoder does not know, or an instruction that the executor has no semantics for."""


class RegisterAllocationError(ExecutionError):
    """Code that a kernel reaches names registers that its descriptor does not allocate.

    Raised before the kernel starts, with no workgroup and wave, or where a jump or an index in M0 leads there. The
    hardware would read v0 or s0 in their place, and drop what is written. `register` is the name of the first one.
    """

    def __init__(self, message: str, report: Mapping[str, Any] | None = None) -> None:
        super().__init__(message, report)
        self.register: str = self.report.get("fault", {}).get("register", "")


class ControlFlowError(ExecutionError):
    """Control left the decoded code."""


class InstructionLimitError(ExecutionError):
    """The launch executed more instructions than `max_instructions`, or AITERLITE_MAX_INSTRUCTIONS, allows."""


class DeadlockError(ExecutionError):
    """No wave of a workgroup can continue."""


class TrapError(ExecutionError):
    """The kernel executed s_trap: an assertion, or code that must not be reached."""


# The library's status where what it polls (`emulator.interrupt`) ended the launch.
INTERRUPTED = 11
# By the library's other status codes.
BY_STATUS: dict[int, type[EmulatorError]] = {
    1: CodeObjectError,
    2: UnknownKernelError,
    3: LaunchConfigurationError,
    4: MemoryViolation,
    5: UnsupportedInstructionError,
    6: ControlFlowError,
    7: InstructionLimitError,
    8: DeadlockError,
    9: TrapError,
    10: EmulatorError,
    12: RegisterAllocationError,
}
