"""build --check-asm: assemble every row of the assembly manifests, and hold each object against its row."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any

from aiterlite import tables
from aiterlite.amdgpu import kernarg
from aiterlite.cli import output
from aiterlite.cli.command import Report
from aiterlite.errors import AiterliteError
from aiterlite.jit import engine, loader, progress
from aiterlite.tables.asm import AsmKernel, AsmVariant
from aiterlite.tables.asm_check import check
from aiterlite.target import launch_target

_HEADERS = ("unit", "target", "result", "resources")


def run(targets: Collection[str]) -> Report:
    """Check the rows for some targets, or, where none is named, for all of theirs."""
    data = gather(targets)
    bad = [item for item in (*data["variants"], *data["structs"]) if item["result"] != "ok"]
    return Report(data, render(data), failed=bool(bad))


def gather(targets: Collection[str]) -> dict[str, Any]:
    wanted = [
        (kernel, variant, target)
        for kernel in tables.ASM_KERNELS
        for target in kernel.targets
        if not targets or target in targets
        for variant in kernel.variants(target)
    ]
    variants = []
    with progress.bar("assembling", len(wanted)) as step:
        for kernel, variant, target in wanted:
            variants.append(_variant(kernel, variant, target))
            step(kernel.unit)
    layouts = {kernel.kernarg.name: kernel.kernarg for kernel, _, _ in wanted}
    structs = [_struct(layout) for layout in layouts.values()]
    return {"variants": variants, "structs": structs}


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
    except (AiterliteError, OSError, ValueError) as error:
        return {**item, "result": "failed", "error": str(error)}
    return {
        **item,
        "result": "wrong" if mismatches else "ok",
        "resources": artifact.entry.meta["resources"],
        "mismatches": [asdict(mismatch) | {"text": str(mismatch)} for mismatch in mismatches],
    }


def _struct(layout: kernarg.KernargLayout) -> dict[str, Any]:
    """How the host fills a struct, as its own compiler laid it out, against what the manifest declares."""
    item = {"name": layout.name, "declared": layout.text, "digest": layout.digest, "differences": []}
    try:
        found = kernarg.read(loader.host_library(tables.KERNARG_HOSTS[layout.name](launch_target())), layout.name)
    except (AiterliteError, OSError) as error:
        return {**item, "result": "failed", "found": "", "error": str(error)}
    differences = [
        f"{what}: found {given}, declared {wanted}"
        for what, given, wanted in (
            *kernarg.differences(layout.arguments, found.arguments),
            *([("size", str(found.size), str(layout.size))] if found.size != layout.size else []),
        )
    ]
    result = "ok" if found == layout else "wrong"
    return {**item, "result": result, "found": found.text, "error": "", "differences": differences}


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
    for item in data["structs"]:
        if item["result"] == "wrong":
            remedy = "declare in tables/<family>_asm.py what the host fills, and load that in the kernels"
            lines.append(f"wrong: {item['name']}: {'; '.join(item['differences'])}; {remedy}")
        elif item["result"] == "failed":
            lines.append(f"failed: {item['name']}: {item['error']}")
    counts = [
        f"{sum(item['result'] == 'ok' for item in data[kind])} of {output.plural(len(data[kind]), noun)} as declared"
        for kind, noun in (("variants", "object"), ("structs", "argument struct"))
    ]
    return "\n".join([*lines, "; ".join(counts)])
