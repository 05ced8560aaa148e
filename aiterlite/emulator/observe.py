"""What a launch was watched for: sanitizer findings and counters."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from aiterlite.emulator.errors import KernelArgumentError
from aiterlite.emulator.schedule import Schedule

# In the order of their bits in csrc/include/aiterlite/emulator/observe.h.
CHECKS = ("waits", "hazards", "registers", "barriers", "races", "lds")


@dataclass(frozen=True)
class Finding:
    """A fault of a kernel that hardware would hide, or show elsewhere and later.

    `pc` and `other_pc` are offsets in the code object's first segment of code (`other_pc` -1: there is no other
    instruction), `listed` and `other_listed` the same places' addresses in listings. `workgroup`, `wave` (-1: nothing
    was run) and `lane` (-1: the whole wave) are where it was met first, of `count` times. `what` says what is wrong,
    `mend` what would mend it.
    """

    check: str
    pc: int
    instruction: str
    other_pc: int
    other_instruction: str
    what: str
    mend: str
    workgroup: tuple[int, int, int]
    wave: int
    lane: int
    count: int
    kernel: str = ""
    listed: int = -1
    other_listed: int = -1

    def ran_in(self) -> str:
        """`workgroup (0, 0, 0), wave 1, lane 3`; empty where nothing was run."""
        if self.wave < 0:
            return ""
        lane = f", lane {self.lane}" if self.lane >= 0 else ""
        return f"workgroup ({', '.join(map(str, self.workgroup))}), wave {self.wave}{lane}"

    def __str__(self) -> str:
        at = f", at {self.listed:#x} (pc {self.pc:#x}) `{self.instruction}`" if self.pc >= 0 else ""
        times = f", {self.count} times" if self.count > 1 else ""
        ran = f" (first in {self.ran_in()}{times})" if self.wave >= 0 else ""
        kernel = f"kernel `{self.kernel}`" if self.kernel else "the object"
        return f"{self.check}: {kernel}{at}: {'; '.join(filter(None, (self.what, self.mend)))}{ran}"


@dataclass
class Recording:
    """What the launches under `watching` showed."""

    sanitize: int
    count: bool
    schedule: Schedule | None = None
    timeline: int | None = None  # the workgroup of each launch that is shown
    only: int = 0  # workgroups of each launch that run; 0: all
    findings: list[Finding] = field(default_factory=list)
    counters: list[dict[str, Any]] = field(default_factory=list)
    launches: list[Mapping[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, report: Mapping[str, Any]) -> None:
        self.launches.append(report)
        self.findings += findings_of(report)
        if "counters" in report:
            self.counters.append({"kernel": report["kernel"], **report["counters"]})
        self.note(report.get("notes", ()))

    def note(self, notes: Iterable[str]) -> None:
        self.notes += [text for text in notes if text not in self.notes]


_recording: ContextVar[Recording | None] = ContextVar("recording", default=None)


def check_bits(checks: bool | str | Iterable[str]) -> int:
    """The set of sanitizers as the library takes it: all for True, none for False. Raises `KernelArgumentError`."""
    if isinstance(checks, bool):
        return (1 << len(CHECKS)) - 1 if checks else 0
    names = [checks] if isinstance(checks, str) else list(checks)
    unknown = sorted(set(names) - set(CHECKS))
    if unknown:
        raise KernelArgumentError(f"sanitize names {', '.join(unknown)}; allowed: {', '.join(CHECKS)}, True, False")
    return sum(1 << CHECKS.index(name) for name in set(names))


def findings_of(report: Mapping[str, Any]) -> tuple[Finding, ...]:
    """The findings of a report, in the order of checks and addresses."""
    return tuple(
        Finding(**{**raw, "workgroup": tuple(raw["workgroup"])}, kernel=report["kernel"])
        for raw in report.get("findings", ())
    )


def current() -> Recording | None:
    """The innermost `watching` of this thread, if there is one."""
    return _recording.get()


@contextlib.contextmanager
def watching(
    sanitize: bool | str | Iterable[str] = True,
    counters: bool = False,
    schedule: Schedule | None = None,
    timeline: int | None = None,
    only: int = 0,
) -> Iterator[Recording]:
    """Watch every emulated launch of this thread, those that operators make too, and gather what it showed.

    `schedule` is how they run; the device's own where there is none. `timeline` is the workgroup of each launch whose
    timeline is wanted (`launches` holds it). With `only`, so many workgroups of each launch of an operator run, the
    first ones: enough for the counters that an estimate takes where workgroups are alike, and not for results. Raises
    `KernelArgumentError`.
    """
    recording = Recording(check_bits(sanitize), counters, schedule, timeline, only)
    token = _recording.set(recording)
    try:
        yield recording
    finally:
        _recording.reset(token)
