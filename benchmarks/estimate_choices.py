"""Choices of MLA decode and of the fused mixture of experts on AMD chips, by estimates: tables/estimated.json.

    python benchmarks/estimate_choices.py --work FOLDER [--chips C,C] [--write]
    python benchmarks/estimate_choices.py --work FOLDER --plans [FAMILY,FAMILY] [--output FILE]

Each candidate runs in the emulator, and its counters give an estimate (aiterlite/emulator/estimate.py). A choice is
written only where the estimates can tell it from what the tables take without the file: pieces of a request of MLA
decode, assembly or compiled kernels for several tiles of rows of q, kinds of kernels of a layer of experts. Nothing
here was measured by this project.

Requests of MLA are alike: one is counted, and its counters are multiplied by their number. What several workgroups
read of KV may come from memory each time, as caches are not modelled: so assembly for several tiles of rows is told
where it is faster even then. --work keeps what ran; 20 minutes of one core otherwise.

--plans holds how kernels are cut against other cuts that they compile for (benchmarks/plan_candidates.py): some
workgroups of each run, and it says which plan of each call would be best, by how much, and whether that can be told.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import torch  # noqa: E402
from estimate_plans import read_again, summary, sweep, write  # noqa: E402
from plan_candidates import FAMILIES, moe_call  # noqa: E402

from aiterlite import envs, mla  # noqa: E402
from aiterlite.emulator import watching  # noqa: E402
from aiterlite.emulator.calibration import LABEL, shipped  # noqa: E402
from aiterlite.emulator.estimate import Estimate, estimate, faster  # noqa: E402
from aiterlite.hardware import CHIPS  # noqa: E402
from aiterlite.ops.samples import mla as samples  # noqa: E402
from aiterlite.tables import estimated  # noqa: E402
from aiterlite.tables import fused_moe as moe_tables  # noqa: E402
from aiterlite.tables.mla import MlaProblem, plan_decode, unasked_splits  # noqa: E402
from aiterlite.target import Persona, resolve  # noqa: E402

CONTEXTS = (256, 512, 1024, 4096, 8192, 16384, 32768, 65536)
REQUESTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SPLITS = (*range(1, 17), 20, 24, 32, 48, 64)
HEADS, TILE_CONTEXTS, TILE_REQUESTS = (32, 64, 128), (1024, 4096, 16384, 65536), (1, 2, 4, 8)
# (experts, topk, width, inter): DeepSeek-R1 over 8 and 4 ranks, Qwen3-235B over 4.
LAYERS = ((256, 8, 7168, 256), (256, 8, 7168, 512), (128, 8, 4096, 512))
# Up to where any was told; of the other layers fewer.
TOKENS = (1, 2, 4, 8, 16, 32, 64, 128)
FEW_TOKENS = TOKENS[:6]
Counters = list[dict[str, Any]]


class Kept:
    """What ran, by what was asked: a JSON object a line."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._known: dict[str, Any] = {}
        for line in file.read_text().splitlines() if file.exists() else ():
            row = json.loads(line)
            self._known[json.dumps(row["asked"])] = row["found"]

    def of(self, asked: Sequence[Any], run: Callable[[], Any]) -> Any:
        key = json.dumps(list(asked))
        if key not in self._known:
            self._known[key] = found = run()
            with self._file.open("a") as file:
                file.write(json.dumps({"asked": list(asked), "found": found}) + "\n")
        return self._known[key]


# MLA decode -----------------------------------------------------------------------------------------------------------


def decode(
    chip: str, kv: str, heads: int, context: int, splits: int | None, prefer: str | None, only: int = 0
) -> Counters:
    """Counters of the launches of one request, of `only` workgroups of each where that is not 0."""
    problem = MlaProblem(1, heads, context, q_dtype=kv, kv_dtype=kv, splits=splits or 1, lse=False)
    named: dict[str, Any] = samples.paged(problem, 0)
    scales = {name: named.pop(name) for name in ("q_scale", "kv_scale") if name in named}
    asked = {"AITERLITE_TARGET": chip} | ({"AITERLITE_PREFER": prefer} if prefer else {})
    with envs.override(**asked), watching(sanitize=False, counters=True, only=only) as seen:
        mla.mla_decode_fwd(*named.values(), 1, num_kv_splits=splits, **scales)
    return seen.counters


# What more requests leave as it is.
_SAME = ("largest_workgroup", "occupancy", "size")


def times(counted: Any, requests: int, name: str = "") -> Any:
    """The counters of so many requests that are alike."""
    if isinstance(counted, Mapping):
        return {key: value if key in _SAME else times(value, requests, key) for key, value in counted.items()}
    return counted * requests if isinstance(counted, (int, float)) and not isinstance(counted, bool) else counted


def of_requests(counters: Counters, requests: int, persona: Persona, is_read_again: bool = False) -> Estimate:
    many = [times(counted, requests) for counted in counters]
    return estimate(read_again(many) if is_read_again else many, persona)


def mla_splits(chip: str, kept: Kept) -> dict[str, Any]:
    """By type of KV: pieces where another count than that of the rule is told to be faster, else 0."""
    persona, made = resolve(chip), {}
    # Chips of one target run the same code where requests have one tile.
    runs_on = next(name for name in CHIPS if CHIPS[name].target == persona.target and name in shipped().chips)
    for name, kv in (("bf16", "bf16"), ("fp8", persona.fp8)):
        choices = []
        for context in CONTEXTS:
            found: dict[int, Counters] = {
                splits: kept.of(
                    ("splits", runs_on, kv, context, splits),
                    lambda at=(kv, 16, context, splits): decode(runs_on, *at, None),  # type: ignore[misc]
                )
                for splits in SPLITS
            }
            choices.append([_best_splits(persona, name, context, requests, found) for requests in REQUESTS])
        made[name] = {"tokens": list(CONTEXTS), "requests": list(REQUESTS), "choices": choices}
    return made


def _best_splits(persona: Persona, kv: str, context: int, requests: int, found: Mapping[int, Counters]) -> int:
    usual = unasked_splits(persona.cu_count, requests, context)
    held = {splits: of_requests(counters, requests, persona) for splits, counters in found.items()}
    best = min(held, key=lambda splits: held[splits].us)
    if faster(held[best], held[usual]) != "A":
        return 0
    print(
        f"  {persona.chip}, MLA in {kv}, {requests} requests of {context} tokens: {best} pieces "
        f"{_said(held[best])}, the rule's {usual} {_said(held[usual])}"
    )
    return best


def _compiled(chip: str, heads: int, context: int, splits: int, requests: int, kept: Kept) -> Counters:
    """Counters of one of several requests by the compiled kernel. How many rows its workgroups have depends on how many
    units each request has."""
    persona = resolve(chip)
    columns = plan_decode(MlaProblem(requests, heads, context, splits=splits), persona).column_tiles
    share = f"{chip}:{persona.cu_count // requests}"
    found: Counters = kept.of(
        ("tiles", chip, heads, context, splits, "hip", columns),
        lambda: decode(share, "bf16", heads, context, splits, "hip", 2),
    )
    return found


def mla_tiles(chip: str, kept: Kept) -> dict[str, Any]:
    """By tiles of rows of q: assembly where it is told to be faster if all that workgroups read comes from memory. A
    choice of the file of today stays while the estimates prefer it, whether or not that can be told."""
    persona, made = resolve(chip), {}
    today = estimated.of_chip(persona).get("mla_tiles", {})
    for heads in HEADS:
        choices = []
        for i, context in enumerate(TILE_CONTEXTS):
            row = []
            for j, requests in enumerate(TILE_REQUESTS):
                splits = unasked_splits(persona.cu_count, requests, context)
                of_asm = kept.of(
                    ("tiles", chip, heads, context, splits, "asm"),
                    lambda at=(heads, context, splits, "asm"): decode(chip, "bf16", *at),  # type: ignore[misc]
                )
                of_hip = _compiled(chip, heads, context, splits, requests, kept)
                both = [of_requests(counters, requests, persona, is_read_again=True) for counters in (of_asm, of_hip)]
                once = [of_requests(counters, requests, persona) for counters in (of_asm, of_hip)]
                stays = today and today[str(heads // 16)]["choices"][i][j] == "asm"
                stays = stays and both[0].us < both[1].us and once[0].us < once[1].us
                row.append("asm" if faster(*both) == "A" or stays else "")
                own = [_said(held) for held in once]
                worst = [f"at worst {held.us:.1f}" for held in both]
                print(
                    f"  {chip}, MLA in bf16, {heads} heads, {requests} requests of {context} tokens: assembly "
                    f"{own[0]}, {worst[0]}, compiled {own[1]}, {worst[1]}; {row[-1] or 'cannot tell'}"
                )
            choices.append(row)
        made[str(heads // 16)] = {
            "tokens": list(TILE_CONTEXTS),
            "requests": list(TILE_REQUESTS),
            "choices": choices,
        }
    return made


# The fused mixture of experts -----------------------------------------------------------------------------------------

# How kernels of a kind are cut, where they were cut otherwise when --work began to keep what ran: waves of a workgroup.
_CUT = {"gemv": (4,)}
_PREFER = {"gemv": None, "two_stage": "hip", "one_stage": "asm"}


def rows_of(tokens: int, persona: Persona) -> dict[str, Any]:
    """The rows that may serve a layer, by kind."""
    units = f"_{persona.cu_count}"
    names = {"two_stage": f"two_stage{units}", "one_stage": "one_stage_novs"}
    if tokens <= 4:
        names["gemv"] = "gemv"
    return {kind: next(row for row in moe_tables.TABLE.rows if row.name == name) for kind, name in names.items()}


def layer_of(chip: str, row: Any, kind: str, tokens: int, layer: tuple[int, ...]) -> Counters:
    """Counters of a call by one row."""
    call, prefer = moe_call(chip, tokens, layer), _PREFER[kind]
    asked = {"AITERLITE_TARGET": chip} | ({"AITERLITE_PREFER": prefer} if prefer else {})
    with (
        mock.patch.object(moe_tables, "TABLE", replace(moe_tables.TABLE, rows=(row,))),
        envs.override(**asked),
        watching(sanitize=False, counters=True) as seen,
    ):
        call()
    return seen.counters


def usual_kind(chip: str, tokens: int, layer: tuple[int, ...]) -> str:
    """What the table takes by its rows' preferences alone."""
    from aiterlite.dispatch import decide
    from aiterlite.tables.problems import problem

    names = dict(zip(("experts", "topk", "width", "inter"), layer, strict=True))
    plain = replace(moe_tables.TABLE, rows=tuple(replace(row, favour=None) for row in moe_tables.TABLE.rows))
    made = problem(plain, {"tokens": tokens, "shuffled": True, **names})
    row = decide(plain, made, resolve(chip)).row
    assert row is not None
    return next(kind for kind in _PREFER if row.name.startswith(kind))


def fused_moe(chip: str, kept: Kept) -> Iterator[dict[str, Any]]:
    """By layer and tokens: the kind of kernels that is told to be faster than what the table takes, or than all. A
    choice of the file of today stays while the estimates prefer it."""
    today = estimated.of_chip(resolve(chip)).get("fused_moe", ())
    for index, layer in enumerate(LAYERS):
        choices: list[str] = []
        kept_choices = next((item["choices"] for item in today if item["layer"] == list(layer)), [])
        tokens_of_layer = TOKENS if index == 0 else FEW_TOKENS
        for tokens in tokens_of_layer:
            held = {
                kind: estimate(
                    kept.of(
                        ("moe", chip, kind, tokens, list(layer), *_CUT.get(kind, ())),
                        lambda at=(row, kind, tokens, layer): layer_of(chip, *at),  # type: ignore[misc]
                    ),
                    resolve(chip),
                )
                for kind, row in rows_of(tokens, resolve(chip)).items()
            }
            usual, best = usual_kind(chip, tokens, layer), min(held, key=lambda kind: held[kind].us)
            others = [usual] if best != usual else [kind for kind in held if kind != best]
            is_told = all(faster(held[best], held[kind]) == "A" for kind in others)
            choices.append(best if is_told or kept_choices[len(choices) :][:1] == [best] else "")
            said = ", ".join(f"{kind} {_said(item)}" for kind, item in held.items())
            print(
                f"  {chip}, layer {layer}, {tokens} tokens: {said}; the table's {usual}; {choices[-1] or 'cannot tell'}"
            )
        yield {"layer": list(layer), "tokens": list(tokens_of_layer), "choices": choices}


def _said(held: Estimate) -> str:
    return f"{held.us:.1f} us ({held.low:.1f} to {held.high:.1f})"


def text(data: Mapping[str, Any]) -> str:
    """JSON with a line for each innermost list."""

    def joined(found: re.Match[str]) -> str:
        return "[" + ", ".join(item.strip() for item in found[1].split(",\n")) + "]"

    return re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", joined, json.dumps(data, indent=1)) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="a folder that keeps what ran")
    parser.add_argument("--chips", default=",".join(sorted(shipped().chips)))
    parser.add_argument("--write", action="store_true", help=f"{estimated.SHIPPED.name} of the package")
    known = ",".join(FAMILIES)
    parser.add_argument("--plans", nargs="?", const=known, metavar="FAMILIES", help=f"plans of these, of {known}")
    parser.add_argument("--output", type=Path, help="with --plans: all estimates as CSV")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    asked.work.mkdir(exist_ok=True)
    print(LABEL)
    if asked.plans:
        rows = list(sweep(asked.plans.split(","), asked.chips.split(","), Kept(asked.work / "plans.jsonl").of))
        print(summary(rows))
        if asked.output:
            write(asked.output, rows)
        return
    kept, chips = Kept(asked.work / "choices.jsonl"), {}
    for chip in asked.chips.split(","):
        chips[chip] = {
            "compute_units": resolve(chip).cu_count,
            "mla_splits": mla_splits(chip, kept),
            "mla_tiles": mla_tiles(chip, kept),
            "fused_moe": list(fused_moe(chip, kept)),
        }
        sys.stdout.flush()
    calibration = copy.copy(shipped().data)
    data = {
        "format": estimated.FORMAT,
        "what": "Choices by benchmarks/estimate_choices.py. No time of it was measured by this project: estimates, "
        "calibrated on published times.",
        "calibration": {name: calibration[name] for name in ("source", "date", "points")},
        "date": datetime.date.today().isoformat(),
        "chips": chips,
    }
    if asked.write:
        estimated.SHIPPED.write_text(text(data))


if __name__ == "__main__":
    main()
