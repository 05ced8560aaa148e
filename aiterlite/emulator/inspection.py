"""What a code object says of itself, and what its code shows without being run: as facts and as findings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from aiterlite.amdgpu import metadata
from aiterlite.emulator import library
from aiterlite.emulator.arguments import signature
from aiterlite.emulator.coverage import ObjectCoverage, coverage
from aiterlite.emulator.device import Module
from aiterlite.emulator.observe import Finding, findings_of

_WAVE = 64


def finding(
    check: str, what: str, mend: str = "", kernel: str = "", pc: int = -1, listed: int = -1, instruction: str = ""
) -> Finding:
    """A finding of what was not run."""
    return Finding(check, pc, instruction, -1, "", what, mend, (0, 0, 0), -1, -1, 1, kernel, listed)


def code_base(image: bytes) -> int:
    """Where listings begin the code: `pc` is counted from there."""
    base: int = library.describe(image)["code_base"]
    return base


def inspect(image: bytes, module: Module) -> tuple[list[dict[str, Any]], list[Finding]]:
    """The facts of each kernel, and what is wrong with the object. `module` is the object, loaded."""
    described = library.describe(image)
    looked = {item["kernel"]: item for item in library.inspect(module.handle)}
    facts: list[dict[str, Any]] = []
    found: list[Finding] = []
    for kernel in described["kernels"]:
        info, seen = module.kernels[kernel["name"]], looked[kernel["name"]]
        facts.append(
            {
                "name": info.name,
                "signature": signature(info.arguments) if info.has_metadata else "(no metadata)",
                "arguments": [[a.name, a.kind, a.offset, a.size] for a in info.arguments],
                "kernarg_bytes": info.kernarg_bytes,
                "scratch_bytes": info.scratch_bytes,
                "block": seen["block"],
                "occupancy": seen["occupancy"],
            }
        )
        found += _descriptor(kernel, seen, module.device.persona.lds_bytes)
        # Nothing was run: no wave met them, and each stands in the code once.
        found += [replace(item, wave=-1, lane=-1, count=1) for item in findings_of(seen)]
    found += _metadata(image, described)
    seen_forms = coverage(image)
    found += _unknown(seen_forms)
    found += _scratch(described, seen_forms)
    for wrong in library.unallocated_registers(image):
        more = f"; {wrong['count']} instructions have such, up to {wrong['highest']}" if wrong["count"] > 1 else ""
        place = (wrong["pc"], wrong["listed"], wrong["instruction"])
        found.append(finding("descriptor", wrong["what"] + more, "", wrong["kernel"], *place))
    return facts, found


def _scratch(described: Mapping[str, Any], seen: ObjectCoverage) -> Iterator[Finding]:
    """Scratch that the code uses, and that the descriptor does not ask for."""
    for kernel in described["kernels"]:
        told = kernel["descriptor"]
        if told["private_segment_size"] or told["uses_dynamic_stack"]:
            continue
        used = [form for form in seen.forms if form.op.startswith("scratch_") and kernel["name"] in form.functions]
        if used:
            what = f"the code uses scratch ({used[0].op}), and the descriptor has 0 bytes of it"
            yield finding("descriptor", what, "state .amdhsa_private_segment_fixed_size", kernel["name"])


def _unknown(seen: ObjectCoverage) -> Iterator[Finding]:
    base = seen.code_base
    for function, listed, reason in seen.unknown:
        yield finding("unknown", reason, "", function, listed - base, listed, "(no instruction)")
    for form in seen.refused:
        times = f", {form.count} times" if form.count > 1 else ""
        what = f"the emulator cannot run this form of it ({form.encoding}{times}): {form.refusal}"
        yield finding("unknown", what, "", form.functions[0], form.listed - base, form.listed, form.example)


def _descriptor(kernel: Mapping[str, Any], seen: Mapping[str, Any], lds_bytes: int) -> Iterator[Finding]:
    """What the hardware is told against what drivers are told, and against what a compute unit has."""
    name, told, o = kernel["name"], kernel["descriptor"], seen["occupancy"]
    if told["group_segment_size"] > lds_bytes:
        what = f"{told['group_segment_size']} bytes of LDS, and a compute unit has {lds_bytes}"
        yield finding("descriptor", what, "use less, or more workgroups", name)
    elif not o["workgroups_per_cu"]:
        what = (
            f"the largest workgroup, {o['waves_per_workgroup']} waves, does not fit on a compute unit by {o['limit']}"
        )
        yield finding("descriptor", what, "use fewer registers, or lower .max_flat_workgroup_size", name)
    if not kernel["has_metadata"]:
        what = "no metadata names this kernel, so that a driver does not know its arguments"
        yield finding("metadata", what, "describe it in .amdgpu_metadata", name)
        return
    given = {
        ".vgpr_count": ("vgpr_count", told["vgprs"]),
        ".agpr_count": ("agpr_count", max(0, told["vgprs"] - told["accum_offset"])),
        ".sgpr_count": ("sgpr_count", (told["sgprs"] + 15) // 16 * 16),
    }
    for field, (key, allocated) in given.items():
        if kernel[key] > allocated:
            what = f"{field} is {kernel[key]}, and the descriptor allocates {allocated}"
            mend = "raise .amdhsa_next_free_vgpr, .amdhsa_accum_offset or .amdhsa_next_free_sgpr"
            yield finding("descriptor", what, mend, name)
    if kernel["wavefront_size"] not in (0, _WAVE):
        what = f".wavefront_size is {kernel['wavefront_size']}"
        yield finding("metadata", what, f"gfx942 and gfx950 have waves of {_WAVE}", name)
    required, largest = kernel["reqd_workgroup_size"], kernel["max_flat_workgroup_size"]
    items = required[0] * required[1] * required[2]
    if items and largest and items > largest:
        what = f".reqd_workgroup_size is {items} work-items, and .max_flat_workgroup_size {largest}"
        yield finding("metadata", what, "raise the latter: a driver refuses the launch", name)
    yield from _arguments(kernel)


def _arguments(kernel: Mapping[str, Any]) -> Iterator[Finding]:
    name, size, told = kernel["name"], kernel["kernarg_segment_size"], kernel["descriptor"]["kernarg_size"]
    if told and told != size:
        what = f".kernarg_segment_size is {size}, and the descriptor's {told}"
        yield finding("descriptor", what, "make them one number", name)
    end, before = 0, ""
    for argument in sorted(kernel["args"], key=lambda item: (item["offset"], item["size"])):
        shown = argument["name"] or argument["value_kind"]
        if argument["offset"] < end:
            what = f"argument `{shown}` at byte {argument['offset']} lies over `{before}`"
            yield finding("metadata", what, "give each its own bytes", name)
        end, before = max(end, argument["offset"] + argument["size"]), shown
    if end > size:
        what = f"argument `{before}` ends at byte {end}, and .kernarg_segment_size is {size}"
        yield finding("metadata", what, "raise it: a driver may copy no more than that", name)


def _metadata(image: bytes, described: Mapping[str, Any]) -> Iterator[Finding]:
    """The sizes that only the metadata repeats, against the descriptor's, and the target."""
    try:
        target, kernels = metadata.read(image)
    except ValueError as error:
        yield finding("metadata", str(error), "assemble it with .amdgpu_metadata")
        return
    named = target.rpartition("-")[2].partition(":")[0]
    if named not in ("", described["arch"]):
        what = f"amdhsa.target is {target}, and the object's header says {described['arch']}"
        yield finding("metadata", what, "let the source name the target that it is assembled for")
    told = {kernel["name"]: kernel["descriptor"] for kernel in described["kernels"]}
    for kernel in kernels:
        descriptor = told.get(kernel["name"])
        if descriptor is None:
            what = "the metadata describes it, and the object exports no descriptor of that name"
            yield finding("metadata", what, "give it .globl and an .amdhsa_kernel", kernel["name"])
            continue
        for field, key, what in (
            ("group_segment_fixed_size", "group_segment_size", "LDS"),
            ("private_segment_fixed_size", "private_segment_size", "scratch"),
        ):
            if kernel.get(field, 0) != descriptor[key]:
                text = f".{field} is {kernel.get(field, 0)}, and the descriptor has {descriptor[key]} bytes of {what}"
                yield finding("descriptor", text, "make them one number", kernel["name"])
