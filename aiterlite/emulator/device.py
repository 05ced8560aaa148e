"""A device that is not there: load a code object, launch its kernels on CPU tensors.

device = Device("mi300x")
module = device.load("kernel.co")
module.launch("add_one", grid=4, block=256, args={"x": x, "n": x.numel()})
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiterlite import envs
from aiterlite.emulator import library, observe
from aiterlite.emulator import timeline as timelines
from aiterlite.emulator.arguments import MOST_TOLD_APART, Argument, Memory, memory_of, merge, pack
from aiterlite.emulator.errors import CodeObjectError, KernelArgumentError, UnknownKernelError
from aiterlite.emulator.observe import Finding
from aiterlite.emulator.schedule import Schedule
from aiterlite.target import Persona, resolve

Size = int | Sequence[int]


@dataclass(frozen=True)
class BufferFinding:
    """A buffer access outside its resource, which the hardware answers with zeros or drops."""

    pc: int
    listed: int
    instruction: str
    lane: int
    offset: int
    num_records: int
    size: int
    write: bool


@dataclass(frozen=True)
class Report:
    """What a launch did. `instructions` counts those of all waves; what was not asked for is empty."""

    kernel: str
    instructions: int
    ordered: bool
    buffer_findings: tuple[BufferFinding, ...] = ()
    trace: str = ""
    findings: tuple[Finding, ...] = ()
    counters: dict[str, Any] = field(default_factory=dict)
    timeline: dict[str, Any] = field(default_factory=dict)
    # What the checks let pass or stopped looking for, in words: a limit that was reached, a race that the data hide.
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class KernelInfo:
    """What the object says of a kernel."""

    name: str
    arguments: tuple[Argument, ...]
    kernarg_bytes: int
    lds_bytes: int
    scratch_bytes: int
    vgprs: int
    max_workgroup: int
    has_metadata: bool


def _kernel_info(raw: Mapping[str, Any]) -> KernelInfo:
    descriptor = raw["descriptor"]
    arguments = tuple(
        Argument(a["name"], a["value_kind"], a["offset"], a["size"]) for a in raw.get("args", ()) if not a["hidden"]
    )
    return KernelInfo(
        name=raw["name"],
        arguments=arguments,
        kernarg_bytes=max(descriptor["kernarg_size"], raw.get("kernarg_segment_size", 0)),
        lds_bytes=descriptor["group_segment_size"],
        scratch_bytes=descriptor["private_segment_size"],
        vgprs=descriptor["vgprs"],
        max_workgroup=raw.get("max_flat_workgroup_size", 1024),
        has_metadata=raw["has_metadata"],
    )


def _three(size: Size, what: str) -> tuple[int, int, int]:
    sizes = tuple(size) if isinstance(size, Sequence) else (size,)
    if not 1 <= len(sizes) <= 3 or any(not isinstance(n, int) or not 0 < n < 1 << 32 for n in sizes):
        raise KernelArgumentError(f"{what} is {size!r}; allowed: one to three positive numbers")
    padded = (*sizes, 1, 1)
    return padded[0], padded[1], padded[2]


@dataclass
class Module:
    """A loaded code object. `kernels` describes its kernels by name."""

    device: Device
    kernels: dict[str, KernelInfo]
    _handle: Any = field(repr=False)

    @property
    def handle(self) -> Any:
        """The loaded object, as the library's calls take it; not to be kept longer than this."""
        return self._handle

    def launch(
        self,
        kernel: str,
        grid: Size,
        block: Size,
        args: Mapping[str, Any] | Sequence[Any] | bytes = (),
        lds: int = 0,
        *,
        extra: Iterable[Any] = (),
        schedule: Schedule | None = None,
        check_memory: bool = True,
        buffer_findings: bool = False,
        max_instructions: int | None = None,
        trace: tuple[int, int] | None = None,
        trace_lines: int = 100_000,
        sanitize: bool | str | Iterable[str] = False,
        counters: bool = False,
        timeline: int | None = None,
        only: int = 0,
        dump: str | os.PathLike[str] | None = None,
    ) -> Report:
        """Run a kernel to its end.

        `grid` counts workgroups, `block` work-items of one; `lds` is dynamic LDS in bytes. `args` go by the metadata's
        names or order: CPU tensors (or numpy arrays, addresses, None) for pointers, numbers for values; or the packed
        segment as bytes. `extra` are tensors, (address, bytes, name) or `Memory`, that the kernel reaches through
        pointers in memory. `trace` is (linear workgroup, wave). `sanitize` names sanitizers (`observe.CHECKS`), or is
        True for all of them; what they find is in the report, and is no error. `timeline` is the linear workgroup
        whose timeline is wanted (`timeline.py`). With `only`, so many workgroups run, the first of the grid: enough
        for the counters that an estimate of the whole launch takes, and not for its results. `dump` is a file to
        which the launch is written before it runs, its memory beside it (`launch_file`). Raises `EmulatorError`:
        `MemoryViolation` for an access outside the tensors given.
        """
        info = self.kernels.get(kernel)
        if info is None:
            known = ", ".join(sorted(self.kernels)) or "none"
            raise UnknownKernelError(f"no kernel `{kernel}` in the object; it has: {known}")
        if isinstance(args, (bytes, bytearray)):
            kernarg, memory = bytes(args), list[Memory]()
            least = max((a.offset + a.size for a in info.arguments), default=info.kernarg_bytes)
            if len(kernarg) < least:
                raise KernelArgumentError(f"{kernel} declares {least} bytes of arguments, {len(kernarg)} given")
        elif info.has_metadata:
            kernarg, memory = pack(kernel, info.arguments, args, info.kernarg_bytes)
        elif args:
            raise KernelArgumentError(f"{kernel} has no metadata; give its arguments as packed bytes")
        else:
            kernarg, memory = b"", []
        memory += [_extra_memory(item, number) for number, item in enumerate(extra)]
        memory = merge(memory)
        if dump is not None:
            from aiterlite.emulator import launch_file

            sizes = _three(grid, "grid"), _three(block, "block")
            given: Any = args.values() if isinstance(args, Mapping) else args
            shown = [value for value in given if hasattr(value, "data_ptr")]
            launch_file.write(Path(dump), kernel, *sizes, lds, kernarg, memory, shown)
        recording = observe.current()
        watched_schedule = recording.schedule if recording else None
        options = _options(self.device.persona, schedule or watched_schedule or self.device.schedule)
        options.check_memory = check_memory
        options.buffer_findings = buffer_findings
        if max_instructions is not None:
            options.max_instructions = _limit(max_instructions)
        options.trace_lines = trace_lines
        if trace is not None:
            options.trace_group, options.trace_wave = trace
        options.sanitize = observe.check_bits(sanitize) | (recording.sanitize if recording else 0)
        options.count = counters or (recording is not None and recording.count)
        if timeline is not None:
            timelines.ask(options, self.device.persona, timeline)
        elif recording is not None and recording.timeline is not None:
            timelines.ask(options, self.device.persona, recording.timeline)
        if not 0 <= only < 1 << 64:
            raise KernelArgumentError(f"only is {only}; allowed: a number of workgroups, 0 for all")
        options.only = only
        report = library.launch(
            self._handle, kernel, _three(grid, "grid"), _three(block, "block"), lds, kernarg, _ranges(memory), options
        )
        report["notes"] += _padding_notes(memory)
        if recording is not None:
            recording.add(report)
        return Report(
            kernel=kernel,
            instructions=report["instructions"],
            ordered=report["ordered"],
            buffer_findings=tuple(BufferFinding(**finding) for finding in report["buffer_findings"]),
            trace=report.get("trace", ""),
            findings=observe.findings_of(report),
            counters=report.get("counters", {}),
            timeline=report.get("timeline", {}),
            notes=tuple(report["notes"]),
        )

    def __del__(self) -> None:
        handle, self._handle = getattr(self, "_handle", None), None
        if handle is not None:
            library.unload(handle)


def _limit(max_instructions: int) -> int:
    if not 0 <= max_instructions < 1 << 64:
        raise KernelArgumentError(f"max_instructions is {max_instructions}; allowed: a number from 0 (no limit)")
    return max_instructions


def _options(persona: Persona, how: Schedule) -> library.Options:
    return library.Options(
        max_instructions=envs.MAX_INSTRUCTIONS.get(),
        threads=how.threads,
        quantum=how.quantum,
        seed=how.seed,
        fill=how.fill,
        check_memory=True,
        trace_group=-1,
        compute_units=persona.cu_count,
        lds_bytes=persona.lds_bytes,
        xcds=persona.xcds,
    )


def _ranges(memory: Iterable[Memory]) -> list[library.Named]:
    return [(m.base, m.size, m.name, m.writable, m.elements) for m in memory]


def _padding_notes(memory: Iterable[Memory]) -> list[str]:
    return [
        f"memory: the padding between the rows of `{m.name}` may be touched; it is told apart in tensors of up to "
        f"{MOST_TOLD_APART} bytes"
        for m in memory
        if m.with_padding
    ]


def prepare_launch(persona: Persona, tensors: Mapping[str, Any]) -> None:
    """Name the CPU tensors that this thread's next launches through the driver-shaped calls may touch.

    Memory outside them is a `MemoryViolation`; `raise_last_error` raises what a launch met.
    """
    memory = merge(
        item for name, tensor in tensors.items() if tensor is not None and (item := memory_of(tensor, name)) is not None
    )
    recording = observe.current()
    options = _options(persona, (recording.schedule if recording else None) or Schedule())
    if recording is not None:
        options.sanitize, options.count, options.only = recording.sanitize, recording.count, recording.only
        if recording.timeline is not None:
            timelines.ask(options, persona, recording.timeline)
        recording.note(_padding_notes(memory))
    library.set_launch(_ranges(memory), options)


def raise_last_error(status: int) -> None:
    """Raise the typed error of this thread's last launch through the driver-shaped calls, unless status is 0."""
    if status:
        raise library.last_error(status)
    recording = observe.current()
    if recording is not None:
        recording.add(library.last_report())


def _extra_memory(item: Any, number: int) -> Memory:
    if isinstance(item, Memory):
        return item
    if isinstance(item, tuple):
        base, size, name = item
        return Memory(base, size, name)
    memory = memory_of(item, f"extra[{number}]")
    if memory is None:
        raise KernelArgumentError(
            f"extra[{number}] is {type(item).__name__}; allowed: a tensor or (address, bytes, name)"
        )
    return memory


class Device:
    """An AMD chip (`mi300x`, `mi308x`, `mi355x`, ...) and the schedule that its launches use by default."""

    def __init__(self, persona: str | Persona = "mi300x", schedule: Schedule | None = None) -> None:
        if isinstance(persona, str):
            persona = resolve(persona)
        if persona.family != "amd":
            raise KernelArgumentError(f"{persona} is no AMD chip; allowed: mi300x, mi308x, mi355x, gfx942, gfx950, ...")
        self.persona = persona
        self.schedule = schedule or Schedule()

    def load(self, source: str | os.PathLike[str] | bytes) -> Module:
        """A code object from a file or from bytes. Raises `CodeObjectError`."""
        data = bytes(source) if isinstance(source, (bytes, bytearray, memoryview)) else Path(source).read_bytes()
        described = library.describe(data)
        if described["arch"] != self.persona.target:
            raise CodeObjectError(
                f"the object is for {described['arch']}, {self.persona.chip} runs {self.persona.target} code"
            )
        kernels = {raw["name"]: _kernel_info(raw) for raw in described["kernels"]}
        return Module(self, kernels, library.load(data))
