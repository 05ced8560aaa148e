"""Findings by kind, worst first, in as many lines as a person reads: for `emulate`, `vet` and pytest. Pure.

A hand-written kernel that repeats its faults has hundreds of findings of a dozen kinds. A kind is a check, the
mnemonics of the instruction and of the other one, and the cause: what is wrong, less the numbers of registers, lanes
and bytes. It is shown once, with the first of its places as it was reported there, and with the number of places and of
times.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

from aiterlite.emulator.observe import Finding

# The worst first: what stops a run or gives other results from run to run; what reads a register too early; the rest.
# Those that `vet` alone has are errors, schedules, unknown, descriptor and metadata.
ORDER = (
    *("errors", "races", "schedules", "waits", "barriers", "hazards", "lds", "registers"),
    *("unknown", "descriptor", "metadata"),
)
WIDTH = 120
# How many kinds of a check are kept apart where there is no room for all.
_KEPT = (8, 6, 4, 3, 2, 1, 0)


@dataclass(frozen=True)
class Kind:
    """Findings that are alike. `first` is the one at the lowest address; `kinds` counts what was folded into this."""

    first: Finding
    places: int
    times: int
    kinds: int = 1

    @property
    def check(self) -> str:
        return self.first.check


def cause(what: str) -> str:
    """What is wrong, without the numbers that differ between places: `v7` and `v12` become `v#`, and of a quoted
    instruction the mnemonic stays."""
    text = re.sub(r"`(\S+) [^`]*`", r"`\1`", what)
    text = re.sub(r"\b(vcc|exec)_(lo|hi)\b", r"\1", text)
    text = re.sub(r"\bwait state\b", "wait states", text).replace(" is needed", " are needed")
    return re.sub(r"\b0x[0-9a-f]+\b|(?<![\w`.])-?\d+|(?<=\b[vas])\d+\b", "#", text)


def mnemonic(instruction: str) -> str:
    return instruction.split(" ", 1)[0]


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """Each place once, with the times that all runs met it, and where one met it if any did."""
    found: dict[tuple[str, str, int, int, str], Finding] = {}
    for finding in findings:
        key = (finding.kernel, finding.check, finding.pc, finding.other_pc, cause(finding.what))
        before = found.get(key)
        if before is None or before.wave < 0 <= finding.wave:
            found[key] = finding
        elif finding.wave >= 0:
            found[key] = replace(before, count=before.count + finding.count)
    return list(found.values())


def kinds(findings: Iterable[Finding]) -> list[Kind]:
    """The kinds, worst first: by check, then by the times they were met, then by address."""
    groups: dict[tuple[str, ...], list[Finding]] = {}
    for finding in merged(findings):
        names = (mnemonic(finding.instruction), mnemonic(finding.other_instruction))
        groups.setdefault((finding.check, *names, cause(finding.what)), []).append(finding)
    return sorted(map(_kind, groups.values()), key=_rank)


def _kind(group: Sequence[Finding]) -> Kind:
    first = min(group, key=lambda finding: (finding.kernel, finding.pc, finding.other_pc))
    return Kind(first, len({(f.kernel, f.pc) for f in group}), sum(f.count for f in group))


def severity(check: str) -> int:
    """Where a check stands, the worst first."""
    return ORDER.index(check) if check in ORDER else len(ORDER)


def _rank(kind: Kind) -> tuple[int, int, int]:
    return severity(kind.check), -kind.times, kind.first.pc


def summary(findings: Iterable[Finding]) -> str:
    """`races 2, hazards 140`: the places of each check; empty where there is none."""
    counts: dict[str, int] = {}
    for kind in kinds(findings):
        counts[kind.check] = counts.get(kind.check, 0) + kind.places
    return ", ".join(f"{check} {count}" for check, count in counts.items())


def data(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """The kinds as plain data."""
    return [
        {
            "check": kind.check,
            "cause": cause(kind.first.what),
            "places": kind.places,
            "times": kind.times,
            "first": asdict(kind.first),
        }
        for kind in kinds(findings)
    ]


def lines(findings: Iterable[Finding], room: int = 0, width: int = WIDTH) -> list[str]:
    """The kinds as text of at most `room` lines (0: as many as it takes) of at most `width` columns.

    Where there is no room for all, the lesser checks keep their most frequent kinds, and the rest of each check becomes
    one with its number of kinds. So nothing is left out that is not counted.
    """
    found = list(findings)
    several = len({finding.kernel for finding in found if finding.kernel}) > 1
    shown = kinds(found)
    text = [_text(kind, several, width) for kind in shown]
    checks = sorted({kind.check for kind in shown}, key=severity, reverse=True)
    for kept, check in product(_KEPT, checks):
        if not room or sum(map(len, text)) <= room:
            break
        shown = list(_folded(shown, check, kept))
        text = [_text(kind, several, width) for kind in shown]
    whole = [line for part in text for line in part]
    if not room or len(whole) <= room:
        return whole
    return [*whole[: room - 1], f"... {len(whole) - room + 1} more lines; --json has all findings"]


def _folded(shown: Sequence[Kind], check: str, kept: int) -> Iterator[Kind]:
    """The kinds with all but `kept` of a check made one."""
    of_check = [kind for kind in shown if kind.check == check]
    rest = of_check[kept:]
    if len(rest) < 2:
        yield from shown
        return
    for kind in shown:
        if kind.check != check or kind in of_check[:kept]:
            yield kind
        elif kind is rest[0]:
            number = sum(item.kinds for item in rest)
            yield Kind(kind.first, sum(k.places for k in rest), sum(k.times for k in rest), number)


def _text(kind: Kind, several: bool, width: int) -> list[str]:
    first = kind.first
    counts = [f"{kind.kinds} more kinds"] if kind.kinds > 1 else []
    counts += [f"{kind.places} places"] if kind.places > 1 else []
    counts += [f"{kind.times} times"] if kind.times > kind.places else []
    where = [place(first.pc, first.listed, first.instruction)] if first.pc >= 0 else []
    if first.other_pc >= 0:
        where.append(f"other {place(first.other_pc, first.other_listed, first.other_instruction)}")
    where += [f"kernel `{first.kernel}`"] if several and first.kernel else []
    where += [ran] if (ran := first.ran_in()) else []
    head = f"{first.check}{': ' if not counts else ', ' + ', '.join(counts) + ': '}"
    head += ("first of them: " if kind.kinds > 1 else "") + "; ".join(filter(None, (first.what, first.mend)))
    text = textwrap.wrap(head, width, subsequent_indent="    ", break_on_hyphens=False)
    if where:
        begin = "    first at " if kind.places > 1 else "    at "
        text += textwrap.wrap(begin + ", ".join(where), width, subsequent_indent="    ", break_on_hyphens=False)
    return text


def notes(texts: Iterable[str], most: int) -> list[str]:
    """The notes of runs, each kind once by its first, with how many are like it; of kinds beyond `most`, the number."""
    alike: dict[str, list[str]] = {}
    for text in texts:
        alike.setdefault(cause(text), []).append(text)
    told = [one[0] + (f" (and {len(one) - 1} more like it)" if len(one) > 1 else "") for one in alike.values()]
    return told if len(told) <= most else [*told[: most - 1], f"and {len(told) - most + 1} kinds of notes more"]


def place(pc: int, listed: int, instruction: str) -> str:
    """`0x1924 (pc 0x24) ...`: where listings have it, and its distance from the start of the code."""
    return f"{listed:#x} (pc {pc:#x})" + (f" `{instruction}`" if instruction else "")
