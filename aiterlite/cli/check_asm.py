"""build --check-asm: assemble every row of the assembly manifests, and hold each object against its row."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any

from aiterlite import tables
from aiterlite.cli import output
from aiterlite.cli.command import Report, UsageError
from aiterlite.errors import AiterliteError
from aiterlite.jit import engine, progress
from aiterlite.jit.arguments import ArgumentStruct
from aiterlite.tables.asm import AsmKernel, AsmVariant
from aiterlite.tables.asm_check import check, check_registers

_HEADERS = ("unit", "target", "result", "resources")


def run(targets: Collection[str]) -> Report:
    """Check the rows for some targets; where none is named, for all targets of each row. Raises `UsageError` for
    targets without a row."""
    served = {target for kernel in tables.asm_kernels() for target in kernel.targets}
    if idle := sorted(set(targets) - served):
        raise UsageError(f"no assembly kernel is for {', '.join(idle)}; there are some for {', '.join(sorted(served))}")
    data = gather(targets)
    bad = [item for item in data["variants"] if item["result"] != "ok"]
    return Report(data, render(data), failed=bool(bad))


def gather(targets: Collection[str]) -> dict[str, Any]:
    wanted = [
        (kernel, variant, target)
        for kernel in tables.asm_kernels()
        for target in kernel.targets
        if not targets or target in targets
        for variant in kernel.variants(target)
    ]
    variants = []
    with progress.bar("assembling", len(wanted)) as step:
        for kernel, variant, target in wanted:
            variants.append(_variant(kernel, variant, target))
            step(kernel.unit)
    structs = dict.fromkeys(kernel.arguments for kernel, _, _ in wanted)
    return {"variants": variants, "structs": [_struct(struct) for struct in structs], "registers": _registers()}


def _variant(kernel: AsmKernel, variant: AsmVariant, target: str) -> dict[str, Any]:
    unit = kernel.device_unit(variant, target)
    item = {
        "kernel": kernel.name,
        "defines": dict(variant.defines),
        "symbol": kernel.symbol,
        "unit": unit.label,
        "target": target,
        "resources": {},
        "mismatches": [],
        "error": "",
    }
    try:
        artifact = engine.obtain(unit, build=True)
        mismatches = check(kernel, variant, target, artifact.data)
        if _registers():
            mismatches = (*mismatches, *check_registers(artifact.data))
    except (AiterliteError, OSError, ValueError) as error:
        return {**item, "result": "failed", "error": str(error)}
    return {
        **item,
        "result": "wrong" if mismatches else "ok",
        "resources": artifact.entry.meta["resources"],
        "mismatches": [asdict(mismatch) | {"text": str(mismatch)} for mismatch in mismatches],
    }


def _registers() -> bool:
    """Whether the emulator's decoder can walk the code: it is a host unit, and torch builds those."""
    return importlib.util.find_spec("torch") is not None


def _struct(struct: ArgumentStruct) -> dict[str, Any]:
    """The layout that launches fill, and that every object with this struct was compared with."""
    try:
        layout = struct.layout()
    except AiterliteError as error:
        return {"name": struct.name, "layout": "", "error": str(error)}
    return {"name": struct.name, "layout": layout.text, "error": ""}


def render(data: Mapping[str, Any]) -> str:
    rows = [
        (
            item["unit"].removesuffix(f" for {item['target']}"),
            item["target"],
            item["result"],
            output.resources(item["resources"]),
        )
        for item in data["variants"]
    ]
    lines = [output.table(_HEADERS, rows)] if rows else []
    for item in data["variants"]:
        lines += [f"wrong: {item['unit']}: {mismatch['text']}" for mismatch in item["mismatches"]]
        lines += [f"failed: {item['unit']}: {item['error']}"] if item["error"] else []
    lines += [f"struct: {item['layout'] or item['error']}" for item in data["structs"]]
    if not data["registers"]:
        lines.append("registers were not held against descriptors: install torch, which builds the emulator's decoder")
    right = sum(item["result"] == "ok" for item in data["variants"])
    return "\n".join([*lines, f"{right} of {output.plural(len(data['variants']), 'object')} as declared"])
