"""A launch's counters as a table: `print(to_text(report.counters, persona))`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiterlite.hardware import architecture
from aiterlite.target import Persona


def bytes_floor_us(counters: Mapping[str, Any], persona: Persona) -> float | None:
    """Microseconds that the launch's bytes of global memory, each counted once, take at the published bandwidth.

    A floor from a published figure, no time. None where the persona has no such figure.
    """
    if not persona.memory_gb_per_s:
        return None
    traffic = counters["bytes"]["global"]
    return float((traffic["unique_read"] + traffic["unique_written"]) / (persona.memory_gb_per_s * 1e3))


def matrix_floor_us(counters: Mapping[str, Any], persona: Persona) -> float | None:
    """Microseconds that the launch's matrix cycles take, spread evenly over all matrix units at the published clock.

    A floor from published figures, no time. None where the persona has no such figure.
    """
    simds = architecture(persona.target).simds
    if not persona.clock_mhz or not persona.cu_count or not simds:
        return None
    return float(counters["matrix_cycles"] / (persona.cu_count * simds) / persona.clock_mhz)


def to_text(counters: Mapping[str, Any], persona: Persona | None = None) -> str:
    """The counters of one launch (`Report.counters`, or an entry of `Recording.counters`) as lines of text."""
    lines = [f"{counters['workgroups']} workgroups, {counters['waves']} waves on {counters['target']}"]
    if "kernel" in counters:
        lines[0] = f"`{counters['kernel']}`: {lines[0]}"
    kinds = {kind: n for kind, n in counters["instructions"].items() if n or kind == "total"}
    lines += _table("wave-instructions", kinds)
    lines += [f"  {name:<32}{m['count']:>14,}  {m['cycles']:,} matrix cycles" for name, m in counters["mfma"].items()]
    lines += _table("issue cycles", {unit: n for unit, n in counters["issue_cycles"].items() if n or unit == "total"})
    lines.append(f"matrix-unit cycles{counters['matrix_cycles']:>16,}")
    lds = counters["lds"]
    if lds["accesses"]:
        lines.append(
            f"LDS: {lds['accesses']:,} accesses, {lds['cycles']:,} cycles,"
            f" {lds['conflict_cycles']:,} of them for bank conflicts"
        )
    lines += _traffic(counters)
    for what, c in counters["coalescing"].items():
        if c["accesses"]:
            lines.append(
                f"{what}s: {c['accesses']:,} accesses, {c['segments64']:,} segments of 64 bytes"
                f" (least {c['minimum64']:,}), {c['segments128']:,} of 128 (least {c['minimum128']:,})"
            )
    o = counters["occupancy"]
    lines.append(
        f"occupancy: {o['workgroups_per_cu']} workgroups a CU, {o['waves_per_simd']} waves a SIMD,"
        f" limited by {o['limit']}"
        f" ({o['vgprs']} VGPRs, {o['agprs']} AGPRs, {o['sgprs']} SGPRs, {o['lds_bytes']:,} bytes of LDS,"
        f" {o['waves_per_workgroup']} waves a workgroup)"
    )
    if persona is not None:
        lines += _roofline(counters, persona)
    return "\n".join(lines)


def _table(title: str, numbers: Mapping[str, int]) -> list[str]:
    return [title, *(f"  {name:<16}{number:>14,}" for name, number in numbers.items())]


def _traffic(counters: Mapping[str, Any]) -> list[str]:
    rows = {f"{space} memory" if space != "lds" else "LDS": t for space, t in counters["bytes"].items()}
    rows |= {f"`{name}`": t for name, t in counters["arguments"].items()}
    lines = [f"{'bytes':<34}{'read':>16}{'written':>16}{'read once':>16}{'written once':>16}"]
    for name, t in rows.items():
        if not t["read"] and not t["written"]:
            continue
        once = (t.get(key, "") for key in ("unique_read", "unique_written"))
        cells = (t["read"], t["written"], *once)
        lines.append(f"  {name:<32}" + "".join(f"{n:>16,}" if n != "" else f"{n:>16}" for n in cells))
    return lines


def _roofline(counters: Mapping[str, Any], persona: Persona) -> list[str]:
    by_bytes, by_matrix = bytes_floor_us(counters, persona), matrix_floor_us(counters, persona)
    parts = []
    if by_bytes is not None:
        parts.append(f"bytes {by_bytes:.3f} us ({persona.memory_gb_per_s / 1e3:g} TB/s)")
    if by_matrix is not None:
        parts.append(f"matrix units {by_matrix:.3f} us ({persona.cu_count} CUs, {persona.clock_mhz} MHz)")
    if not parts:
        return []
    return [f"floor computed from published figures, not a time: {', '.join(parts)}, on {persona.chip}"]
