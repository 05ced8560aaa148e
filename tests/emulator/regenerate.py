"""Writes `instructions.txt`: one encoding with its text for every mnemonic, encoding and target that LLVM 22 agrees on.

Run `python -m emulator.regenerate` in tests/ after the decoder has learned instructions. Each line is the targets
(`both`, `gfx942`, `gfx950`), the bytes and LLVM's text.
"""

from __future__ import annotations

import re
from pathlib import Path

from emulator import encodings, llvm, native

STORED = Path(__file__).with_name("instructions.txt")
PER_OPCODE = 150
SEED = 20260731


def main() -> None:
    library = native.shared_library()
    chosen: dict[tuple[str, str], dict[bytes, dict[str, str]]] = {}
    draws = [(target, data) for _, _, data in encodings.draw(PER_OPCODE, SEED) for target in native.TARGETS]
    accepted = [(target, data, library.decode(target, data)) for target, data in draws]
    accepted = [case for case in accepted if case[2].status == "ok"]
    for target in native.TARGETS:
        cases = [case for case in accepted if case[0] == target]
        encoded = llvm.assemble(target, [decoded.text for _, _, decoded in cases])
        for (_, data, decoded), again in zip(cases, encoded, strict=True):
            if again == data[: decoded.size]:
                key = (
                    re.sub(r" .*", "", decoded.text),
                    decoded.encoding + ("_LDS" if decoded.text.endswith(" lds") else ""),
                )
                chosen.setdefault(key, {}).setdefault(again, {})[target] = decoded.text
    lines = []
    for key in sorted(chosen):
        # The one with the longest text has the most modifiers; one that both targets have says more.
        data, texts = max(
            chosen[key].items(), key=lambda item: (len(item[1]), len(next(iter(item[1].values()))), item[0])
        )
        if len(set(texts.values())) == 1:
            targets = "both" if len(texts) == 2 else next(iter(texts))
            lines.append(f"{targets} {data.hex()} {next(iter(texts.values()))}")
        else:
            lines.extend(f"{target} {data.hex()} {text}" for target, text in texts.items())
    STORED.write_text("".join(f"{line}\n" for line in lines))
    print(f"{len(lines)} lines for {len({key[0] for key in chosen})} mnemonics")


if __name__ == "__main__":
    main()
