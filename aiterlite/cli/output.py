"""Tables, sizes, ages; what a terminal is given."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TextIO

from aiterlite.jit.text import one_line, printable

_GAP = 2
# Narrower than this, a column of text is harder to read than its record.
_NARROWEST = 12


def emit(text: str, file: TextIO, end: str = "\n") -> None:
    """Print. Spells out control characters, which may come from elsewhere, and what the output's encoding lacks."""
    encoding = getattr(file, "encoding", None) or "utf-8"
    print(printable(text).encode(encoding, "backslashreplace").decode(encoding), file=file, end=end)


def width() -> int | None:
    """The columns of the terminal that the output goes to; None where it goes to a file or a program."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[str] = ()) -> str:
    """Aligned text, one line a row; the columns named in `right` are aligned to the right.

    On a terminal the widest columns are wrapped until the table fits; where it cannot, each row is a record of its own.
    """
    for row in rows:
        if len(row) != len(headers):
            raise ValueError(f"a row of {len(row)} cells under {len(headers)} headers: {list(row)}")
    lines = [list(headers), *([one_line(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headers))]
    limit = width()
    if limit is not None and not _fit(widths, headers, right, limit):
        return _records(headers, lines[1:], limit)
    text = []
    for line in lines:
        cells = [_wrap(cell, space) for cell, space in zip(line, widths, strict=True)]
        for part in range(max(map(len, cells))):
            words = [cell[part] if part < len(cell) else "" for cell in cells]
            aligned = [
                word.rjust(space) if name in right else word.ljust(space)
                for name, word, space in zip(headers, words, widths, strict=True)
            ]
            text.append((" " * _GAP).join(aligned).rstrip())
    return "\n".join(text)


def _wrap(cell: str, space: int) -> list[str]:
    return [cell] if len(cell) <= space else textwrap.wrap(cell, space)


def _fit(widths: list[int], headers: Sequence[str], right: Collection[str], limit: int) -> bool:
    """Narrow the widest columns of text until all fit into a limit; returns whether they do."""
    texts = [column for column, name in enumerate(headers) if name not in right]
    while (over := sum(widths) + _GAP * (len(widths) - 1) - limit) > 0:
        widest, *others = sorted(texts, key=lambda column: -widths[column])
        if widths[widest] <= _NARROWEST:
            return False
        # Down to the next widest, and from there with it, so that no column pays for all.
        step = max(1, widths[widest] - widths[others[0]]) if others else over
        widths[widest] = max(_NARROWEST, widths[widest] - min(over, step))
    return True


def _records(headers: Sequence[str], rows: Sequence[Sequence[str]], limit: int) -> str:
    """A line a cell, for terminals that are too narrow for a table."""
    label = max(map(len, headers)) + _GAP
    texts = []
    for row in rows:
        lines = []
        for name, cell in zip(headers, row, strict=True):
            parts = _wrap(cell, max(limit - label, _NARROWEST))
            lines += [f"{name if not index else '':<{label}}{part}".rstrip() for index, part in enumerate(parts)]
        texts.append("\n".join(lines))
    return "\n\n".join(texts)


def pretty_table(headers: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[str] = ()) -> str:
    """The same with rich's rules where rich is installed."""
    try:
        from rich import box
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        return table(headers, rows, right)
    limit = width()
    view = Table(box=box.ROUNDED)
    for name in headers:
        view.add_column(name, justify="right" if name in right else "left", no_wrap=limit is None, overflow="fold")
    for row in rows:
        view.add_row(*row)
    # A file or a program that reads the output has no width, so no column is dropped for one.
    console = Console(width=limit or 1000, color_system=None)
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
