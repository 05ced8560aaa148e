"""Executes gfx942 and gfx950 code objects on the host, every memory access checked.

device      Device, Module: load an object, launch its kernels on CPU tensors
schedule    the order of waves and workgroups
arguments   kernel arguments against the metadata
observe     sanitizer findings and counters
counters    a launch's counters as a table
calibration the model of time, and numbers fitted to published times
estimate    how long a launch takes, from its counters
timeline    when the waves of a workgroup issue what, in a model of one compute unit
page        a run as one page
coverage    what an object uses, and what of that can be run
races       the same launch under different schedules
grouping    findings by kind, worst first, in a number of lines
baseline    findings that are known
launch_file a launch in files, to be replayed
inspection  what an object shows without being run
vet         all of it on one page
errors      what can go wrong
library     the shared library behind it
"""

from aiterlite.emulator.coverage import FormUse, ObjectCoverage, coverage
from aiterlite.emulator.device import (
    BufferFinding,
    Device,
    KernelInfo,
    Module,
    Report,
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
    RegisterAllocationError,
    TrapError,
    UnknownKernelError,
    UnsupportedInstructionError,
)
from aiterlite.emulator.library import describe, disassemble, open_library, unallocated_registers, use_library
from aiterlite.emulator.observe import CHECKS, Finding, Recording, watching
from aiterlite.emulator.races import Difference, find_races
from aiterlite.emulator.schedule import SCHEDULES, Schedule

__all__ = [
    "CHECKS",
    "SCHEDULES",
    "BufferFinding",
    "CodeObjectError",
    "ControlFlowError",
    "DeadlockError",
    "Device",
    "Difference",
    "EmulatorError",
    "ExecutionError",
    "Finding",
    "FormUse",
    "InstructionLimitError",
    "KernelArgumentError",
    "KernelInfo",
    "LaunchConfigurationError",
    "MemoryViolation",
    "Module",
    "ObjectCoverage",
    "Recording",
    "RegisterAllocationError",
    "Report",
    "Schedule",
    "TrapError",
    "UnknownKernelError",
    "UnsupportedInstructionError",
    "coverage",
    "describe",
    "disassemble",
    "find_races",
    "open_library",
    "prepare_launch",
    "raise_last_error",
    "unallocated_registers",
    "use_library",
    "watching",
]
