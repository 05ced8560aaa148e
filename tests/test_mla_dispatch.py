"""Which kernel serves which call of MLA decode: the whole matrix of heads, types, query lengths, pages and modes.

The golden file holds it. After a change of a table or a plan, read the difference that the failing test shows, and
write the file anew with `python tests/test_mla_dispatch.py`.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from aiterlite import dispatch
from aiterlite.tables import mla, mla_heads, mla_sm90
from aiterlite.target import Persona, resolve

GOLDEN = Path(__file__).with_name("golden") / "mla_decode.txt"
CHIPS = ("mi300x", "mi308x", "mi355x", "h100", "cpu-x86-64-v4")
# Those that kernels are for, and some between.
HEADS = (1, 4, 8, 12, 16, 24, 32, 40, 48, 64, 80, 96, 112, 128)
FLOATS = ("bf16", "fp16", *mla.EIGHT_BITS)
TYPES = tuple(itertools.product(FLOATS, FLOATS))
QUERIES = tuple(range(1, 9))
# Fields of plans that kernels are compiled for; the others follow from them and from the call's sizes.
COMPILED = ("column_tiles", "columns", "tokens", "stages")
PAGES_AND_LSE = tuple(itertools.product((1, 16, 64), (False, True)))
MODES = ("unplanned", "planned")
Shape = tuple[int, int]


def problem(
    persona: Persona, heads: int, q_len: int, types: tuple[str, str], mode: str, page_size: int = 1, lse: bool = True
) -> mla.MlaProblem:
    """Of eight requests; without a plan in four pieces each."""
    q, kv = types
    units = mla_heads.compute_units(persona) if mode == "planned" else 0
    given = {"page_size": page_size, "plan_units": units, "splits": 0 if units else 4, "lse": lse}
    return mla.MlaProblem(8, heads, 1024, q_len, q_dtype=q, kv_dtype=kv, out_dtype=_out(q), **given)


def _out(q: str) -> str:
    return "bf16" if q in mla.EIGHT_BITS else q


def nearest(decision: dispatch.Decision) -> tuple[dispatch.Refusal, ...]:
    """Why the first row of the persona's own target does not serve, where none does; else empty."""
    if decision.row is not None:
        return ()
    target = f"the target is {decision.persona.target}"
    own = [item.refusals for item in decision.rejected if not any(target in said.reason for said in item.refusals)]
    return own[0]


def told(decision: dispatch.Decision) -> str:
    """What serves a call: the row, its units, and of the plan what is compiled. Else what the caller may do."""
    if decision.row is None:
        return "no; " + "; ".join(refusal.remedy for refusal in nearest(decision))
    units = " then ".join(kernel.unit.name for kernel in decision.kernels)
    plan = {} if decision.plan is None else asdict(decision.plan)
    return " ".join([f"{decision.row.name}: {units}", *[f"{name}={plan[name]}" for name in COMPILED if name in plan]])


def cut_of(plan: Any) -> Any:
    return replace(plan, boxes=False, shared_bytes=0) if isinstance(plan, mla_sm90.Sm90Plan) else plan


def _spans(values: Iterable[int], all_of: tuple[int, ...]) -> str:
    """`1-3,8`: neighbours in `all_of` are joined."""
    runs: list[list[int]] = []
    for at in sorted(all_of.index(value) for value in values):
        if runs and runs[-1][-1] == at - 1:
            runs[-1].append(at)
        else:
            runs.append([at])
    ends = [(all_of[run[0]], all_of[run[-1]]) for run in runs]
    return ",".join(f"{low}" if low == high else f"{low}-{high}" for low, high in ends)


def shapes(found: set[Shape]) -> str:
    """`16 x 1-8; 24,32 x 1,2`: heads and the query lengths that they have in common."""
    by_heads = {heads: _spans((q for h, q in found if h == heads), QUERIES) for heads in HEADS}
    common: dict[str, list[int]] = {}
    for heads, queries in by_heads.items():
        if queries:
            common.setdefault(queries, []).append(heads)
    return "; ".join(f"{_spans(heads, HEADS)} x {queries}" for queries, heads in common.items())


def answers(chip: str, types: tuple[str, str], mode: str) -> dict[str, str]:
    """What a chip says to such calls, and for which shapes."""
    persona = resolve(chip)
    found: dict[str, set[Shape]] = {}
    for shape in itertools.product(HEADS, QUERIES):
        said = told(dispatch.decide(mla.DECODE, problem(persona, *shape, types, mode), persona))
        found.setdefault(said, set()).add(shape)
    return {said: shapes(of) for said, of in found.items()}


def golden_text() -> str:
    """A block for each set of answers; above it the chips, modes and types that it is for."""
    callers: dict[tuple[str, ...], dict[str, list[str]]] = {}
    for chip, types, mode in itertools.product(CHIPS, TYPES, MODES):
        block = tuple(f"    {of}: {said}" for said, of in answers(chip, types, mode).items())
        callers.setdefault(block, {}).setdefault("/".join(types), []).append(f"{chip} {mode}")
    lines = []
    for block, by_types in callers.items():
        alike: dict[str, list[str]] = {}
        for types_name, who in by_types.items():
            alike.setdefault(", ".join(who), []).append(types_name)
        lines += [f"{' '.join(names)}: {who}" for who, names in alike.items()] + list(block)
    return "\n".join(lines) + "\n"


def test_the_matrix_is_as_the_golden_file_has_it() -> None:
    wanted, found = GOLDEN.read_text().splitlines(), golden_text().splitlines()
    difference = list(difflib.unified_diff(wanted, found, "golden", "now", lineterm="", n=0))
    assert not difference, "\n".join(["`python tests/test_mla_dispatch.py` writes these anew:", *difference])


@pytest.mark.parametrize("chip", CHIPS)
def test_a_call_without_a_row_is_told_why_and_what_to_do(chip: str) -> None:
    """Of one shape all have a row or none: log-sums change nothing, and pages only how sm_90 copies them."""
    persona = resolve(chip)
    served = 0
    for types, mode, heads, q_len in itertools.product(TYPES, MODES, (*HEADS[4::4], 40, 129), (1, 4)):
        rows = set()
        for page_size, lse in PAGES_AND_LSE:
            decision = dispatch.decide(mla.DECODE, problem(persona, heads, q_len, types, mode, page_size, lse), persona)
            rows.add((decision.row.name if decision.row else None, cut_of(decision.plan)))
            refusals = nearest(decision)
            assert all(refusal.reason and refusal.remedy for refusal in refusals)
            assert bool(refusals) == (decision.row is None)
        assert len(rows) == 1 and (heads <= 128 or decision.row is None)
        served += decision.row is not None
    assert served


@pytest.mark.parametrize("chip", CHIPS)
def test_explain_names_the_class_of_accuracy(chip: str, both: Callable[..., tuple[str, Any, int]]) -> None:
    amd, cpu = chip.startswith("mi"), chip.startswith("cpu")
    for (q, kv, _), table in itertools.product(mla.TYPES, (mla.DECODE, mla.PREFILL)):
        shape = ["batch=1", "context=64", "heads=16", "q_len=1", "splits=2", f"q_dtype={q}", f"kv_dtype={kv}"]
        text, data, code = both("explain", table.op, "--target", chip, *shape)
        (decision,) = data["decisions"]
        if decision["chosen"] is None:
            assert decision["accuracy"] is None and "relative error" not in text
            continue
        bits, error = (8, 0.01) if q in mla.EIGHT_BITS else (16, 0.002)
        parts = cpu or (q if amd else kv) == "bf16"
        weights = "rounded to 16 bits, two bf16 numbers" if parts else "rounded to fp16"
        if amd and q == kv == ("e4m3fn" if chip == "mi355x" else "e4m3fnuz") and decision["chosen"] != "mfma":
            weights = "rounded to two e4m3 numbers"
        if cpu:
            weights = "not rounded" if q == "fp16" else f"{weights} (with AMX), or not"
        said = f"class of a {bits}-bit q: relative error at most {error}; weights {weights}"
        assert decision["accuracy"] == said and f"     {said}\n" in text and code == 0


def test_every_row_of_attention_says_how_exact_it_is() -> None:
    assert all(row.accuracy is not None for table in (mla.DECODE, mla.PREFILL) for row in table.rows)


if __name__ == "__main__":
    GOLDEN.write_text(golden_text())
