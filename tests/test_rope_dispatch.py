"""What serves rotary embeddings and caches of latents on chips that are not here.

The golden file holds it. After a change of a table or a plan, read the difference that the failing test shows, and
write the file anew with `python tests/test_rope_dispatch.py`.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
from pathlib import Path
from typing import Any

from aiterlite import dispatch
from aiterlite.tables import TABLES
from aiterlite.tables.cache import CAT, CONCAT, FUSED
from aiterlite.tables.rope import OP as ROPE
from aiterlite.target import resolve

GOLDEN = Path(__file__).with_name("golden") / "rope.txt"
PERSONAS = ("mi300x", "mi308x", "mi355x", "h200")
TOKENS = (1, 16, 256, 4096)

PROBLEMS: dict[str, tuple[str, dict[str, Any]]] = {
    "rope": (ROPE, {}),
    "128 heads, new tensors of partly rotated heads": (ROPE, {"x_heads": 128, "head_dim": 192, "rot_dim": 64}),
    "concat": (CONCAT, {}),
    "fused": (FUSED, {}),
    "fused, 128 heads, 8 bits": (FUSED, {"heads": 128, "cache_dtype": "e4m3fn", "q_dtype": "e4m3fn"}),
    "cat": (CAT, {"cache_dtype": "e4m3fnuz"}),
}
PROBLEMS["128 heads, new tensors of partly rotated heads"][1]["in_place"] = False
ODD: dict[str, tuple[str, dict[str, Any]]] = {
    "float32": (ROPE, {"dtype": "fp32"}),
    "tables of another type": (ROPE, {"table_dtype": "fp16"}),
    "an odd number of elements": (ROPE, {"rot_dim": 33}),
    "more than a head": (ROPE, {"rot_dim": 64, "head_dim": 32}),
    "too many rows": (ROPE, {"tokens": 1 << 28, "x_heads": 16}),
    "no token": (ROPE, {"tokens": 0}),
    "another style": (ROPE, {"style": "glm"}),
    "odd widths": (FUSED, {"kv_lora_rank": 37, "rope_dim": 10}),
    "int8": (CONCAT, {"cache_dtype": "int8"}),
    "a cache of another type": (CONCAT, {"cache_dtype": "fp16"}),
    "an odd rope": (CONCAT, {"rope_dim": 7}),
    "no slots": (CONCAT, {"slots": "none"}),
    "q of another type": (CAT, {"q_dtype": "fp32"}),
}


def decide(chip: str, op: str, given: dict[str, Any]) -> dispatch.Decision:
    table = TABLES[op]
    return dispatch.decide(table, table.problem(**table.derive({"tokens": 4, **given})), resolve(chip))


def shown(decision: dispatch.Decision) -> str:
    row = decision.row.name if decision.row else "nothing"
    plan = dataclasses.asdict(decision.plan) if decision.plan else {}
    return " ".join([row, *(f"{name}={int(value)}" for name, value in plan.items())])


def golden_text() -> str:
    """Plans for each persona, then why the odd are refused, where they are."""
    lines = []
    for chip, (name, (op, given)), tokens in itertools.product(PERSONAS, PROBLEMS.items(), TOKENS):
        lines.append(f"{chip} {name}, {tokens} tokens: {shown(decide(chip, op, {**given, 'tokens': tokens}))}")
    odd = dict.fromkeys(("h200", "cpu-x86-64-v4"), ODD) | {"a100": dict(list(PROBLEMS.items())[:1])}
    for chip, (name, (op, given)) in ((chip, item) for chip, items in odd.items() for item in items.items()):
        decision = decide(chip, op, given)
        lines.append(f"{chip} {name}: {shown(decision)}")
        for item in decision.rejected:
            said = "; ".join(str(refusal) for refusal in item.refusals)
            if f"the target is {decision.persona.target}" not in said or chip == "a100":
                lines.append(f"    not {item.row}: {said}")
    return "\n".join(lines) + "\n"


def test_decisions_are_the_golden_ones() -> None:
    wanted, found = GOLDEN.read_text().splitlines(), golden_text().splitlines()
    difference = list(difflib.unified_diff(wanted, found, "golden", "now", n=0, lineterm=""))
    assert difference == []


def test_what_a_command_leaves_out_follows_from_the_rest() -> None:
    """dtype is that of tables, results and cache; every token has a q; a cache of codes has a scale."""
    table = TABLES[FUSED]
    made = table.problem(**table.derive({"tokens": 9, "dtype": "fp16", "kv_lora_rank": 37}))
    assert (made.q_tokens, made.q_dtype, made.table_dtype, made.cache_dtype) == (9, "fp16", "fp16", "fp16")
    assert not made.aligned and not made.scaled and not made.all_q
    assert table.problem(**table.derive({"tokens": 9, "cache_dtype": "e4m3fn"})).scaled
    assert TABLES[CAT].problem(**TABLES[CAT].derive({"tokens": 9})).all_q
    rope = TABLES[ROPE]
    assert rope.problem(**rope.derive({"tokens": 1, "rot_dim": 48})).head_dim == 48
    assert not rope.problem(**rope.derive({"tokens": 1, "head_dim": 100, "rot_dim": 32})).aligned


if __name__ == "__main__":
    GOLDEN.write_text(golden_text())
