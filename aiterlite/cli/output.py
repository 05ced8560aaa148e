"""Tables, sizes, ages."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[str] = ()) -> str:
    """Aligned text, one line a row; the columns named in `right` are aligned to the right."""
    lines = [list(headers), *map(list, rows)]
    for line in lines:
        if len(line) != len(headers):
            raise ValueError(f"a row of {len(line)} cells under {len(headers)} headers: {line}")
    widths = [max(len(line[column]) for line in lines) for column in range(len(headers))]
    text = []
    for line in lines:
        cells = [
            cell.rjust(width) if name in right else cell.ljust(width)
            for name, cell, width in zip(headers, line, widths, strict=True)
        ]
        text.append("  ".join(cells).rstrip())
    return "\n".join(text)


def pretty_table(headers: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[str] = ()) -> str:
    """The same with rich's rules where rich is installed."""
    try:
        from rich import box
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        return table(headers, rows, right)
    view = Table(box=box.ROUNDED)
    for name in headers:
        view.add_column(name, justify="right" if name in right else "left", no_wrap=True)
    for row in rows:
        view.add_row(*row)
    # The width of the terminal is no reason to drop a column.
    console = Console(width=1000, color_system=None)
    with console.capture() as captured:
        console.print(view, markup=False, highlight=False)
    return captured.get().rstrip("\n")


def size(count: int) -> str:
    amount, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{count} B" if unit == "B" else f"{amount:.1f} {unit}"


def age(seconds: float) -> str:
    """A duration in its largest unit: 42 s, 5 min, 3 h, 12 d."""
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


_RESOURCES = (
    ("vgprs", "{} VGPR"),
    ("agprs", "{} AGPR"),
    ("sgprs", "{} SGPR"),
    ("lds_bytes", "{} B LDS"),
    ("registers", "{} registers"),
    ("shared_bytes", "{} B shared"),
)
_SPILLS = ("vgpr_spills", "sgpr_spills", "spill_store_bytes", "spill_load_bytes", "scratch_bytes", "stack_bytes")


def resources(kernels: Mapping[str, Mapping[str, int]]) -> str:
    """Registers, LDS and spills; of several kernels, the most of each."""
    most: dict[str, int] = {}
    for counts in kernels.values():
        for name, count in counts.items():
            most[name] = max(most.get(name, 0), count)
    parts = [text.format(most[name]) for name, text in _RESOURCES if most.get(name)]
    parts += [f"{most[name]} {name.replace('_', ' ')}" for name in _SPILLS if most.get(name)]
    return ", ".join(parts) or "-"


def first_line(error: Any) -> str:
    return str(error).splitlines()[0]
