"""Whether an assembled object is what its row of the manifest and its argument struct say.

In assembly nothing but care holds the kernel descriptor (what the hardware obeys), the metadata (what a driver obeys)
and the code (what is executed) together, and a launch believes the manifest. Each is compared here, with no GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from aiterlite.amdgpu import code_object, encoding
from aiterlite.amdgpu.metadata import read as read_metadata
from aiterlite.emulator import unallocated_registers
from aiterlite.jit.arguments import Field, Layout, differences
from aiterlite.jit.sources import SourceTree
from aiterlite.jit.spec import CODE_OBJECT_VERSION
from aiterlite.tables.asm import WAVE_SIZE, AsmKernel, AsmVariant


@dataclass(frozen=True)
class Mismatch:
    """One thing that an object and its row disagree in, and what to do about it."""

    what: str
    found: str
    declared: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}: found {self.found}, declared {self.declared}; {self.remedy}"


def check(
    kernel: AsmKernel, variant: AsmVariant, target: str, image: bytes, tree: SourceTree | None = None
) -> tuple[Mismatch, ...]:
    """What is wrong with the object that a variant of a kernel became for a target; its argument struct is declared in
    `tree`, this package's by default.

    Raises `ValueError` on bytes that are no code object, and `SourceError` where the argument struct's header is wrong.
    """
    return tuple(_check(kernel, variant, target, image, kernel.arguments.layout(tree)))


def check_registers(image: bytes) -> tuple[Mismatch, ...]:
    """Registers that the object's code names and its descriptors do not allocate: a wave would read v0 or s0 in their
    place, and lose what it writes.

    The emulator's decoder walks the code, so that its library is built if need be. Raises `CodeObjectError`.
    """
    found = []
    for item in unallocated_registers(image):
        what, _, mend = item["what"].rpartition(": raise ")
        more = f" and {item['count'] - 1} more" if item["count"] > 1 else ""
        place = f"`{item['instruction']}` at {item['kernel']}+{item['pc']:#x}{more}"
        found.append(Mismatch(f"register {item['highest']}", place, what.rpartition("allocates, ")[2], f"raise {mend}"))
    return tuple(found)


def _check(kernel: AsmKernel, variant: AsmVariant, target: str, image: bytes, struct: Layout) -> Iterator[Mismatch]:
    named, kernels = read_metadata(image)
    for where, found in (("e_flags", code_object.target(image)), ("amdhsa.target", named.rpartition("-")[2])):
        if found.partition(":")[0] != target:
            yield Mismatch(
                f"target in {where}", found or "none", target, "let the source name the target it is assembled for"
            )
    version = code_object.version(image)
    if version != CODE_OBJECT_VERSION:
        remedy = "build it by this package's command, which asks for that version"
        yield Mismatch("code object version", str(version), str(CODE_OBJECT_VERSION), remedy)
    by_name = {item["name"]: item for item in kernels}
    metadata = by_name.get(kernel.symbol)
    if metadata is None:
        others = ", ".join(by_name) or "none"
        yield Mismatch("kernel in the metadata", others, kernel.symbol, "rename the kernel, or correct `symbol` here")
    exported = code_object.symbols(image)
    missing = [name for name in (kernel.symbol, f"{kernel.symbol}.kd") if name not in exported]
    for name in missing:
        shown = ", ".join(sorted(exported)) or "none"
        yield Mismatch("exported symbol", shown, name, "give the kernel .globl and an .amdhsa_kernel of its name")
    if metadata is None or missing:
        return
    descriptor = code_object.descriptor(image, kernel.symbol)
    yield from _kernarg(struct, metadata, descriptor)
    yield from _resources(variant, metadata, descriptor)
    yield from _code(kernel, code_object.code(image, kernel.symbol))


def _kernarg(struct: Layout, metadata: dict[str, Any], descriptor: code_object.Descriptor) -> Iterator[Mismatch]:
    for where, size in (
        (".kernarg_segment_size", metadata.get("kernarg_segment_size", 0)),
        (".amdhsa_kernarg_size", descriptor.kernarg_bytes),
    ):
        if size != struct.size:
            remedy = f"make it the size of {struct.name}"
            yield Mismatch(f"kernarg size in {where}", f"{size} bytes", f"{struct.size} bytes", remedy)
    arguments = [
        Field(
            name=str(item.get("name", f"#{index}")),
            offset=item.get("offset", 0),
            size=item.get("size", 0),
            code="",
            pointer=item.get("value_kind") == "global_buffer",
        )
        for index, item in enumerate(metadata["args"])
    ]
    for name, found, declared in differences(struct.fields, arguments):
        remedy = f"list the fields of {struct.name} in .args, and load each from its own offset"
        yield Mismatch(f"argument {name}", found, declared, remedy)


def _resources(variant: AsmVariant, metadata: dict[str, Any], descriptor: code_object.Descriptor) -> Iterator[Mismatch]:
    vgprs, agprs = metadata.get("vgpr_count", 0), metadata.get("agpr_count", 0)
    for where, size in ((".wavefront_size", metadata.get("wavefront_size")), ("the descriptor", descriptor.wave_size)):
        if size != WAVE_SIZE:
            remedy = "gfx942 and gfx950 have waves of 64 lanes"
            yield Mismatch(f"wave size in {where}", str(size), str(WAVE_SIZE), remedy)
    allocated = max(vgprs, descriptor.vgprs)
    if allocated > variant.max_vgprs:
        remedy = "use fewer registers, or declare fewer waves_per_simd"
        declared = f"{variant.max_vgprs} for {variant.waves_per_simd} waves a SIMD"
        yield Mismatch("VGPRs", str(allocated), f"at most {declared}", remedy)
    for what, used, given in (
        (".vgpr_count", vgprs, descriptor.vgprs),
        (".agpr_count", agprs, max(0, descriptor.vgprs - descriptor.accum_offset)),
        (".sgpr_count", metadata.get("sgpr_count", 0), descriptor.sgprs),
    ):
        if used > given:
            remedy = "raise .amdhsa_next_free_vgpr, .amdhsa_accum_offset or .amdhsa_next_free_sgpr"
            yield Mismatch(f"{what} beyond what the descriptor gives", str(used), str(given), remedy)
    lds = metadata.get("group_segment_fixed_size", 0)
    if lds != descriptor.lds_bytes:
        remedy = "make .group_segment_fixed_size and .amdhsa_group_segment_fixed_size one number"
        yield Mismatch("LDS in the metadata", f"{lds} bytes", f"{descriptor.lds_bytes} bytes in the descriptor", remedy)
    if max(lds, descriptor.lds_bytes) > variant.lds_bytes:
        found = f"{max(lds, descriptor.lds_bytes)} bytes"
        yield Mismatch("LDS", found, f"at most {variant.lds_bytes} bytes", "use less, or declare more lds_bytes")
    for what, count in (
        ("scratch in the metadata", metadata.get("private_segment_fixed_size", 0)),
        ("scratch in the descriptor", descriptor.scratch_bytes),
        ("spilled VGPRs", metadata.get("vgpr_spill_count", 0)),
        ("spilled SGPRs", metadata.get("sgpr_spill_count", 0)),
    ):
        if count:
            yield Mismatch(what, str(count), "0", "assembly kernels keep everything in registers and LDS")
    largest = metadata.get("max_flat_workgroup_size", 0)
    if largest < variant.block:
        remedy = "a driver refuses larger workgroups: raise it to the declared waves * 64"
        yield Mismatch(".max_flat_workgroup_size", str(largest), f"at least {variant.block}", remedy)


def _code(kernel: AsmKernel, code: bytes) -> Iterator[Mismatch]:
    if not code:
        yield Mismatch("code", "0 bytes", "a kernel", "give the kernel's symbol a .size")
        return
    found = encoding.setvskip_offsets(code)
    if found and not kernel.vskip:
        at = ", ".join(f"{kernel.symbol}+{offset:#x}" for offset in found)
        yield Mismatch("s_setvskip", at, "none", "remove it, or mark the row vskip=True so that dispatch asks first")
    if kernel.vskip and not found:
        yield Mismatch("s_setvskip", "none", "vskip=True", "unmark the row: dispatch would refuse it for nothing")
