"""Which instruction forms a code object uses, and whether the emulator can run each of them."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

from aiterlite.emulator import library


@dataclass(frozen=True)
class FormUse:
    """One mnemonic in one encoding: how often an object has it, in which functions, first where in listings, and why it
    cannot be run.

    `refusal` is empty where it can. An operand or modifier of another use may still be refused when it is executed.
    """

    op: str
    encoding: str
    count: int
    functions: tuple[str, ...]
    example: str
    refusal: str
    listed: int = -1


@dataclass(frozen=True)
class ObjectCoverage:
    """`unknown` are the places that the decoder does not know: (function, address in listings, reason). The code starts
    at `code_base`: reports of runs count `pc` from there."""

    target: str
    functions: int
    instructions: int
    forms: tuple[FormUse, ...]
    unknown: tuple[tuple[str, int, str], ...]
    code_base: int = 0

    @property
    def refused(self) -> tuple[FormUse, ...]:
        return tuple(form for form in self.forms if form.refusal)

    @property
    def complete(self) -> bool:
        return not self.unknown and not self.refused


def coverage(data: bytes) -> ObjectCoverage:
    """The forms of a gfx942 or gfx950 code object, by mnemonic and encoding. Raises `CodeObjectError`."""
    raw = library.coverage(data)
    forms: dict[tuple[str, str], FormUse] = {}
    unknown = []
    for function in raw["functions"]:
        unknown += [(function["name"], item["pc"], item["reason"]) for item in function["unknown"]]
        for use in function["forms"]:
            key = (use["op"], use["encoding"])
            before = forms.get(key)
            if before is None:
                code = struct.pack(f"<{len(use['code'])}I", *use["code"])
                why = library.refusal(raw["arch"], code)
                forms[key] = FormUse(*key, use["count"], (function["name"],), use["example"], why, use["first_pc"])
            else:
                functions = (*before.functions, function["name"])
                forms[key] = replace(before, count=before.count + use["count"], functions=functions)
    return ObjectCoverage(
        target=raw["arch"],
        functions=len(raw["functions"]),
        instructions=sum(function["instructions"] for function in raw["functions"]),
        forms=tuple(forms[key] for key in sorted(forms)),
        unknown=tuple(unknown),
        code_base=raw["code_base"],
    )
