"""Findings that are known: a file of them, and what a run found beside it. Pure but for the file.

A known finding is named by kernel, check, both instructions and cause, and not by its address, so that it is known
again after the code around it has changed. It holds for as many places as the file says: where there are more, all are
told.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from aiterlite.emulator.errors import EmulatorError
from aiterlite.emulator.grouping import cause
from aiterlite.emulator.observe import Finding

SCHEMA = 1
_FIELDS = ("kernel", "check", "instruction", "other_instruction", "cause")
Name: TypeAlias = "tuple[str, ...]"


class BaselineError(EmulatorError, ValueError):
    """A file that is no baseline."""


@dataclass(frozen=True)
class Split:
    """What was found, held against a baseline: new findings, those that are known, and known ones not met again."""

    new: tuple[Finding, ...]
    known: tuple[Finding, ...]
    gone: tuple[Name, ...]


def name(finding: Finding) -> Name:
    return finding.kernel, finding.check, finding.instruction, finding.other_instruction, cause(finding.what)


def _places(findings: Iterable[Finding]) -> dict[Name, int]:
    found: dict[Name, set[tuple[int, int]]] = {}
    for finding in findings:
        found.setdefault(name(finding), set()).add((finding.pc, finding.other_pc))
    return {key: len(places) for key, places in found.items()}


def write(path: Path, findings: Iterable[Finding]) -> None:
    """Make these the known ones."""
    known = [
        {**dict(zip(_FIELDS, key, strict=True)), "places": count} for key, count in sorted(_places(findings).items())
    ]
    path.write_text(json.dumps({"schema": SCHEMA, "known": known}, indent=1) + "\n")


def read(path: Path) -> dict[Name, int]:
    """The known findings of a file, with the number of their places. Raises `BaselineError`."""
    try:
        raw: Any = json.loads(path.read_text())
        if raw["schema"] != SCHEMA:
            raise BaselineError(f"{path} has schema {raw['schema']!r}; this version reads {SCHEMA}: write it again")
        return {tuple(str(item[field]) for field in _FIELDS): int(item["places"]) for item in raw["known"]}
    except OSError as error:
        raise BaselineError(f"{path} cannot be read: {error.strerror}; --write-baseline makes one") from None
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, BaselineError):
            raise
        raise BaselineError(f"{path} is no baseline ({error!r}); --write-baseline makes one") from None


def split(findings: Iterable[Finding], known: dict[Name, int]) -> Split:
    found = list(findings)
    places = _places(found)
    holds = {key for key, count in places.items() if count <= known.get(key, 0)}
    return Split(
        new=tuple(finding for finding in found if name(finding) not in holds),
        known=tuple(finding for finding in found if name(finding) in holds),
        gone=tuple(key for key in known if key not in places),
    )
