"""The stored encodings (`instructions.txt`) that the executor refuses, and why.

`python -m emulator.refusals` in tests/ writes `refused.txt`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aiterlite.emulator import library, use_library

STORED = Path(__file__).with_name("refused.txt")
INSTRUCTIONS = Path(__file__).with_name("instructions.txt")
NO_SEMANTICS = "the executor has no semantics for this instruction"


@dataclass(frozen=True)
class Stored:
    """One line of instructions.txt."""

    targets: tuple[str, ...]
    code: bytes
    text: str

    @property
    def mnemonic(self) -> str:
        return re.sub(r"_(e32|e64|dpp|sdwa)$", "", self.text.split()[0])

    def refusal(self, target: str) -> str:
        return library.refusal(target, self.code)


def stored() -> Iterator[Stored]:
    for line in INSTRUCTIONS.read_text().splitlines():
        targets, code, text = line.split(" ", 2)
        yield Stored(("gfx942", "gfx950") if targets == "both" else (targets,), bytes.fromhex(code), text)


def lines() -> list[str]:
    """A mnemonic without semantics, or an encoding and the reason."""
    found = set()
    for instruction in stored():
        for target in instruction.targets:
            reason = instruction.refusal(target)
            if reason:
                what = instruction.mnemonic if reason == NO_SEMANTICS else f"{instruction.text}: {reason}"
                found.add(f"{target} {what}")
    return sorted(found)


if __name__ == "__main__":
    from emulator import executor

    use_library(str(executor.library()))
    STORED.write_text("".join(f"{line}\n" for line in lines()))
