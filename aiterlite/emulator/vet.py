"""Everything that the emulator can say of somebody else's code object, on one page.

    from aiterlite.emulator.vet import vet
    print(vet("kernel.co").page())                                             # without running it
    print(vet("kernel.co", "scale", grid=4, block=256, args={"x": x}).page())  # and run under every sanitizer

Without a run: the object loads, every instruction is known, descriptor and metadata agree, and no wait or wait state is
missing in the straight lines of the code. With one: the launch under all sanitizers in two orders, and without them
under several schedules, after which all tensors must hold the same bits.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from aiterlite.emulator import baseline as baselines
from aiterlite.emulator import grouping, inspection, observe
from aiterlite.emulator.device import Device, Module, Size
from aiterlite.emulator.errors import CodeObjectError, ExecutionError, KernelArgumentError, UnknownKernelError
from aiterlite.emulator.observe import Finding
from aiterlite.emulator.races import find_races
from aiterlite.emulator.schedule import SCHEDULES, Schedule
from aiterlite.target import Persona, resolve

PAGE = 40
_KERNELS_SHOWN = 3
_NOTES_SHOWN = 5
# Apart from the default: the waves in another order, and registers that do not start as zero.
_OTHER_ORDER = Schedule(quantum=16, seed=1, fill=0x7FC0_5A5A)


@dataclass(frozen=True)
class Vetting:
    """What was found. `findings`, the worst first, are those that no baseline has; `facts` describe the kernels."""

    name: str
    target: str
    code_base: int
    facts: tuple[Mapping[str, Any], ...]
    ran: tuple[str, ...]
    findings: tuple[Finding, ...]
    known: tuple[Finding, ...] = ()
    gone: tuple[tuple[str, ...], ...] = ()

    @property
    def ok(self) -> bool:
        return not self.findings

    def page(self, width: int = grouping.WIDTH) -> str:
        """At most 40 lines: the object, its kernels, what was done, and each kind of finding once, the worst first."""
        code = f", code at {self.code_base:#x}" if self.facts else ""
        head = [f"{self.name}: {self.target}, {_plural(len(self.facts), 'kernel')}{code}"]
        for fact in self.facts[:_KERNELS_SHOWN]:
            head += _fact_lines(fact, width)
        if len(self.facts) > _KERNELS_SHOWN:
            head.append(f"and {len(self.facts) - _KERNELS_SHOWN} kernels more")
        head += [_short(line, width) for line in self.ran]
        tail = []
        if self.known or self.gone:
            met = f"known: {grouping.summary(self.known) or 'none'}"
            tail.append(met + (f"; {_plural(len(self.gone), 'known finding')} not met again" if self.gone else ""))
        tail.append(f"FOUND {grouping.summary(self.findings)}" if self.findings else "nothing found")
        return "\n".join([*head, *grouping.lines(self.findings, PAGE - len(head) - len(tail), width), *tail])

    def data(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "file": self.name,
            "target": self.target,
            "code_base": self.code_base,
            "kernels": [dict(fact) for fact in self.facts],
            "ran": list(self.ran),
            "kinds": grouping.data(self.findings),
            "findings": [asdict(finding) for finding in self.findings],
            "known": [asdict(finding) for finding in self.known],
            "gone": [list(name) for name in self.gone],
        }


def vet(
    source: str | os.PathLike[str] | bytes,
    kernel: str | None = None,
    grid: Size = 1,
    block: Size = 64,
    args: Mapping[str, Any] | Sequence[Any] | bytes | None = None,
    lds: int = 0,
    *,
    chip: str | Persona | None = None,
    extra: Iterable[Any] = (),
    reached: Mapping[str, Any] | None = None,
    max_instructions: int | None = None,
    baseline: str | os.PathLike[str] | None = None,
) -> Vetting:
    """Look at a code object, and, where `args` are given, run one of its kernels as `Module.launch` takes it.

    With `kernel` and no `args`, only that one is looked at. `chip` is what it runs on, by default the first of the
    object's target. `reached` are tensors that the kernel gets to through pointers in memory or in a struct. Tensors
    are left as the default schedule leaves them. `max_instructions` is for each run as for `Module.launch`.
    `baseline` is a file of known findings.

    Raises `KernelArgumentError` and `LaunchConfigurationError` for a launch that cannot be made, `UnknownKernelError`
    and `BaselineError`; whatever is wrong with the object is a finding.
    """
    known = baselines.read(Path(baseline)) if baseline is not None else {}
    image = bytes(source) if isinstance(source, (bytes, bytearray, memoryview)) else Path(source).read_bytes()
    name = "the object" if isinstance(source, (bytes, bytearray, memoryview)) else Path(source).name
    try:
        module = _load(image, chip)
    except CodeObjectError as error:
        found = [inspection.finding("errors", f"the object cannot be loaded: {error}")]
        return _vetting(name, ("no target", 0), (), ("not run: it cannot be loaded",), found, known)
    facts, found = inspection.inspect(image, module)
    if kernel is not None:
        _chosen(module, kernel)
        facts = [fact for fact in facts if fact["name"] == kernel]
        # Of functions as well, which it may call.
        found = [item for item in found if item.kernel == kernel or item.kernel not in module.kernels]
    ran = ["looked at without running: every instruction, descriptors, metadata, the straight lines of the code"]
    if args is None:
        ran.append("not run: it was given no arguments")
    else:
        chosen = _chosen(module, kernel)
        extra = list(extra)
        args = _shared(args)
        ran.append(f"run on {module.device.persona.chip}: {chosen}, grid {_by(grid)}, block {_by(block)}")
        options: dict[str, Any] = {"extra": extra}
        if max_instructions is not None:
            options["max_instructions"] = max_instructions
        found += _run(module, chosen, grid, block, args, lds, dict(reached or {}), options, ran)
    return _vetting(name, (module.device.persona.target, inspection.code_base(image)), facts, ran, found, known)


def _vetting(
    name: str,
    target: tuple[str, int],
    facts: Sequence[Mapping[str, Any]],
    ran: Sequence[str],
    found: Sequence[Finding],
    known: dict[baselines.Name, int],
) -> Vetting:
    order = sorted(grouping.merged(found), key=lambda f: (grouping.severity(f.check), f.kernel, f.pc, f.other_pc))
    parts = baselines.split(order, known)
    return Vetting(name, *target, tuple(facts), tuple(ran), parts.new, parts.known, parts.gone)


def _load(image: bytes, chip: str | Persona | None) -> Module:
    from aiterlite.emulator import library

    return Device(chip or resolve(library.describe(image)["arch"])).load(image)


def _chosen(module: Module, kernel: str | None) -> str:
    known = ", ".join(sorted(module.kernels)) or "none"
    if kernel is None and len(module.kernels) != 1:
        raise KernelArgumentError(f"name one kernel of {known}")
    if kernel is not None and kernel not in module.kernels:
        raise UnknownKernelError(f"no kernel `{kernel}` in the object; it has: {known}")
    return kernel or next(iter(module.kernels))


def _run(
    module: Module,
    kernel: str,
    grid: Size,
    block: Size,
    args: Mapping[str, Any] | Sequence[Any] | bytes,
    lds: int,
    reached: Mapping[str, Any],
    options: Mapping[str, Any],
    ran: list[str],
) -> list[Finding]:
    """The findings of all runs; what was done is added to `ran`."""
    tensors = list(_tensors(args, reached))
    before = [tensor.clone() for tensor in tensors]
    found: list[Finding] = []
    # In order, and once though both runs say the same.
    noted: dict[str, None] = {}
    for schedule in (module.device.schedule, _OTHER_ORDER):
        for tensor, start in zip(tensors, before, strict=True):
            tensor.copy_(start)
        try:
            report = module.launch(kernel, grid, block, args, lds, schedule=schedule, sanitize=True, **options)
        except ExecutionError as error:
            found += [*observe.findings_of(error.report), _stopped(error)]
            ran.append("stopped before its end, so that what comes after it was not looked at")
            return found
        found += report.findings
        noted.update(dict.fromkeys(report.notes))
    for tensor, start in zip(tensors, before, strict=True):
        tensor.copy_(start)
    ran += [f"note: {note}" for note in grouping.notes(noted, _NOTES_SHOWN)]
    what = f"{report.instructions} wave-instructions, under all sanitizers in 2 orders"
    try:
        differences = find_races(module, kernel, grid, block, args, lds, reached=reached, **options)
    except ExecutionError as error:
        ran.append(f"{what}; stopped under another schedule")
        return [*found, _stopped(error)]
    ran.append(f"{what}, and without under {len(SCHEDULES) + 1} schedules")
    for difference in differences:
        text = f"`{difference.argument}` has other bits in {difference.bytes_different} bytes, the first at byte "
        text += f"{difference.first}, under {difference.schedule}"
        mend = "a race, an undefined value, or floats added atomically, which is no fault"
        found.append(inspection.finding("schedules", text, mend, kernel))
    return found


def _shared(args: Any) -> Any:
    """The arguments with numpy arrays as tensors of the same memory, which can be set back between runs."""
    if isinstance(args, (bytes, bytearray)):
        return args
    if isinstance(args, Mapping):
        return {name: _as_tensor(value) for name, value in args.items()}
    return [_as_tensor(value) for value in args]


def _as_tensor(value: Any) -> Any:
    interface = getattr(value, "__array_interface__", None)
    if hasattr(value, "data_ptr") or interface is None or not value.ndim or interface["data"][1]:
        return value
    import torch

    return torch.from_numpy(value)


def _tensors(args: Any, reached: Mapping[str, Any]) -> Iterable[Any]:
    """Each tensor once, whichever arguments it is."""
    values = args.values() if isinstance(args, Mapping) else () if isinstance(args, (bytes, bytearray)) else args
    found = {id(value): value for value in (*values, *reached.values()) if hasattr(value, "data_ptr")}
    return found.values()


def _stopped(error: ExecutionError) -> Finding:
    text = str(error)
    _, quoted, rest = text.rpartition(f"`{error.instruction}`: ")
    base = inspection.finding("errors", f"{type(error).__name__}: {rest if quoted else text}", "", error.kernel)
    group = (*error.workgroup, 0, 0, 0)[:3]
    return replace(
        base,
        pc=error.pc,
        listed=error.listed,
        instruction=error.instruction,
        workgroup=(group[0], group[1], group[2]),
        wave=error.wave,
        lane=getattr(error, "lane", -1),
    )


def _fact_lines(fact: Mapping[str, Any], width: int) -> list[str]:
    o = fact["occupancy"]
    lines = textwrap.wrap(f"{fact['name']} {fact['signature']}", width, subsequent_indent="    ")
    if len(lines) > 2:
        lines[1:] = [_short("    " + " ".join(line.strip() for line in lines[1:]), width)]
    block = " x ".join(map(str, fact["block"]))
    lines.append(
        f"  {o['vgprs']} VGPRs, {o['agprs']} AGPRs, {o['sgprs']} SGPRs, {o['lds_bytes']:,} bytes of LDS, "
        f"{fact['scratch_bytes']} of scratch, {fact['kernarg_bytes']} of arguments"
    )
    lines.append(
        f"  workgroups of {block}: {o['workgroups_per_cu']} a CU, {_plural(o['waves_per_simd'], 'wave')} a SIMD, "
        f"limited by {o['limit']}"
    )
    return lines


def _by(size: Size) -> str:
    return " x ".join(map(str, size if isinstance(size, Sequence) else (size,)))


def _short(text: str, width: int) -> str:
    return textwrap.shorten(text, width, placeholder=" ...") if len(text) > width else text


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
