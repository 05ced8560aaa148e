"""Executes gfx942 and gfx950 code objects on the host, every memory access checked.

device      Device, Module: load an object, launch its kernels on CPU tensors
arguments   kernel arguments against the metadata
observe     sanitizer findings and counters
races       the same launch under different schedules
errors      what can go wrong
library     the shared library behind it
"""

from aiterlite.emulator.device import (
    BufferFinding,
    Device,
    KernelInfo,
    Module,
    Report,
    Schedule,
    prepare_launch,
    raise_last_error,
)
from aiterlite.emulator.errors import (
    CodeObjectError,
    ControlFlowError,
    DeadlockError,
    EmulatorError,
    ExecutionError,
    InstructionLimitError,
    KernelArgumentError,
    LaunchConfigurationError,
    MemoryViolation,
    TrapError,
    UnknownKernelError,
    UnsupportedInstructionError,
)
from aiterlite.emulator.library import open_library, use_library
from aiterlite.emulator.observe import CHECKS, Finding, Recording, watching
from aiterlite.emulator.races import Difference, find_races

__all__ = [
    "CHECKS",
    "BufferFinding",
    "CodeObjectError",
    "ControlFlowError",
    "DeadlockError",
    "Device",
    "Difference",
    "EmulatorError",
    "ExecutionError",
    "Finding",
    "InstructionLimitError",
    "KernelArgumentError",
    "KernelInfo",
    "LaunchConfigurationError",
    "MemoryViolation",
    "Module",
    "Recording",
    "Report",
    "Schedule",
    "TrapError",
    "UnknownKernelError",
    "UnsupportedInstructionError",
    "find_races",
    "open_library",
    "prepare_launch",
    "raise_last_error",
    "use_library",
    "watching",
]
