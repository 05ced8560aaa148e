"""MLA decode beside public kernels and the floor of memory, in one run: time, bandwidth, error.

A call is split kernel and merge, by a plan of this package and without one. The plan is made before; its making is
timed beside it, and bringing it forward by a token, which pages of one token allow. The floor is a kernel that only
reads the pages. FlashInfer and FlashMLA take part where they can be imported. Pages lie in random order, and inputs
rotate through more than the last-level cache.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aiterlite import __version__, mla
from aiterlite.benchmark import options
from aiterlite.benchmark.floor import read_floor
from aiterlite.benchmark.timing import Contender, Timing, compare, copies_for

HEADS = (16, 32, 64, 128)
SHAPES = tuple(itertools.product((1, 8, 32, 128), (1024, 8192)))
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp8": torch.float8_e4m3fn}
# Beyond so many copies small inputs are measured in the cache.
_MOST_COPIES = 400


@dataclass(frozen=True)
class Case:
    heads: int
    batch: int
    context: int
    q_dtype: str
    kv_dtype: str
    page_size: int
    q_len: int = 1

    @property
    def kv_bytes(self) -> int:
        return self.batch * self.context * 576 * DTYPES[self.kv_dtype].itemsize


@dataclass(frozen=True)
class Row:
    """Medians in microseconds: by a plan, and cut into equal splits. `over_floor` is the faster of both over the floor,
    `error` the relative error of one request against float64."""

    case: Case
    planned_us: float
    splits_us: float
    plan_us: float
    update_us: float | None
    floor_us: float
    over_floor: float
    gigabytes_per_second: float
    error: float
    peers_us: dict[str, float]
    timings: dict[str, Timing]


def operands(case: Case, copies: int, device: torch.device) -> list[dict[str, Tensor]]:
    """Copies of a batch of equally long requests, the pages of each in an order of its own."""
    pages = -(-case.context // case.page_size)
    starts = torch.arange(case.batch + 1, dtype=torch.int32, device=device)
    made = []
    for _ in range(copies):
        q = torch.randn(case.batch * case.q_len, case.heads, 576, device=device)
        kv = torch.empty(case.batch * pages, case.page_size, 1, 576, dtype=DTYPES[case.kv_dtype], device=device)
        for part in kv.split(4096):
            part.copy_(torch.randn(part.shape, device=device))
        made.append(
            {
                "q": q.to(DTYPES[case.q_dtype]),
                "kv_buffer": kv,
                "o": torch.empty(case.batch * case.q_len, case.heads, 512, dtype=torch.bfloat16, device=device),
                "qo_indptr": starts * case.q_len,
                "kv_indptr": starts * pages,
                "kv_indices": torch.randperm(case.batch * pages, device=device).int(),
                "kv_last_page_lens": torch.full_like(starts[1:], (case.context - 1) % case.page_size + 1),
            }
        )
    return made


def scales(case: Case, device: torch.device) -> dict[str, Tensor]:
    one = torch.ones(1, device=device)
    return {"q_scale": one, "kv_scale": one} if case.kv_dtype == "fp8" else {}


_PLAN = ("work_meta_data", "work_indptr", "work_info_set", "reduce_indptr", "reduce_final_map", "reduce_partial_map")


def planner(
    case: Case, given: dict[str, Tensor]
) -> tuple[Callable[[], None], Callable[[], None] | None, dict[str, Tensor]]:
    """What makes a call's plan, what brings it forward, and where."""
    types = {"dtype_q": DTYPES[case.q_dtype], "dtype_kv": DTYPES[case.kv_dtype]}
    info = mla.get_mla_metadata_info_v1(
        case.batch, case.q_len, case.heads, *types.values(), is_sparse=False, device=given["q"].device
    )
    held = [torch.zeros(shape, dtype=kind, device=given["q"].device) for shape, kind in info]
    meta, indptr, work, *reduce = held
    pages = (given["qo_indptr"], given["kv_indptr"], given["kv_last_page_lens"])

    def make() -> None:
        mla.get_mla_metadata_v1(
            *(*pages, case.heads, 1, True, meta, work, indptr, *reduce),
            page_size=case.page_size,
            kv_granularity=max(1, 64 // case.page_size),
            max_seqlen_qo=case.q_len,
            uni_seqlen_qo=case.q_len,
            **types,
        )

    def update() -> None:
        mla.decode_update_mla_metadata_v1(
            *(*pages, case.heads, 1, True, meta, work, indptr, *reduce), max_seqlen_qo=case.q_len, **types
        )

    make()
    made = dict(zip(_PLAN, (meta, indptr, work, *reduce), strict=True))
    return make, update if case.page_size == 1 else None, made


def ours(case: Case, copies: list[dict[str, Tensor]], plan: dict[str, Tensor] | None) -> Contender:
    """By a plan, or by the splits that a call without one takes."""
    scaled = scales(case, copies[0]["q"].device)

    def call(number: int) -> None:
        given = copies[number]
        mla.mla_decode_fwd(*given.values(), case.q_len, page_size=case.page_size, **scaled, **(plan or {}))

    return call


def exact(case: Case, given: dict[str, Tensor], request: int = 0) -> Tensor:
    """A request's rows in float64."""
    pages = -(-case.context // case.page_size)
    index = given["kv_indices"][request * pages : (request + 1) * pages].long()
    kv = given["kv_buffer"][index].reshape(-1, 576)[: case.context].double()
    q = given["q"][request * case.q_len : (request + 1) * case.q_len].double()
    scores = q @ kv.T * 576**-0.5
    if case.q_len > 1:
        behind = torch.arange(case.context, device=kv.device)[None] - (case.context - case.q_len)
        scores.masked_fill_((behind > torch.arange(case.q_len, device=kv.device)[:, None])[:, None], -torch.inf)
    return scores.softmax(-1) @ kv[:, :512]


def peers(case: Case, copies: list[dict[str, Tensor]]) -> dict[str, Contender]:
    """Public kernels for the same call. One that cannot be imported, or does not take it, is left out and named."""
    found: dict[str, Contender] = {}
    for name, make in {"flashinfer": _flashinfer, "flash_mla": _flash_mla}.items():
        try:
            contender = make(case, copies)
            contender(0)
            found[name] = contender
        except (ImportError, RuntimeError, ValueError, NotImplementedError) as error:
            print(f"# {name} left out: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
    return found


def _flashinfer(case: Case, copies: list[dict[str, Tensor]]) -> Contender:
    from flashinfer.mla import BatchMLAPagedAttentionWrapper  # type: ignore[import-not-found]

    if case.kv_dtype == "fp8" and case.q_dtype != "fp8":
        raise ValueError("takes q and KV of one type")
    device = copies[0]["q"].device
    wrappers = []
    for given in copies:
        workspace = torch.empty(128 << 20, dtype=torch.uint8, device=device)
        wrapper = BatchMLAPagedAttentionWrapper(workspace, use_cuda_graph=False, backend="fa3")
        lengths = torch.full((case.batch,), case.context, dtype=torch.int32, device=device)
        types = (DTYPES[case.q_dtype], DTYPES[case.kv_dtype])
        wrapper.plan(
            *(given["qo_indptr"], given["kv_indptr"], given["kv_indices"], lengths, case.heads, 512, 64),
            *(case.page_size, True, 576**-0.5, *types),
        )
        wrappers.append(wrapper)

    def call(number: int) -> None:
        given = copies[number]
        q, kv = given["q"], given["kv_buffer"].squeeze(2)
        wrappers[number].run(q[..., :512], q[..., 512:], kv[..., :512], kv[..., 512:], out=given["o"])

    return call


def _flash_mla(case: Case, copies: list[dict[str, Tensor]]) -> Contender:
    from flash_mla import flash_mla_with_kvcache, get_mla_metadata  # type: ignore[import-not-found]

    if case.page_size != 64 or case.kv_dtype != case.q_dtype:
        raise ValueError("takes pages of 64, and q and KV of one type")
    lengths = torch.full((case.batch,), case.context, dtype=torch.int32, device=copies[0]["q"].device)
    metadata, splits = get_mla_metadata(lengths, case.q_len * case.heads, 1)
    tables = [given["kv_indices"].view(case.batch, -1) for given in copies]

    def call(number: int) -> None:
        q = copies[number]["q"].view(case.batch, case.q_len, case.heads, 576)
        kv = copies[number]["kv_buffer"]
        flash_mla_with_kvcache(q, kv, tables[number], lengths, 512, metadata, splits, causal=True)

    return call


def measure(case: Case, device: torch.device, samples: int) -> Row:
    copies = min(copies_for(device, case.kv_bytes), _MOST_COPIES)
    given = operands(case, copies, device)
    make_plan, update_plan, plan = planner(case, given[0])
    contenders = {"planned": ours(case, given, plan), "splits": ours(case, given, None)}
    contenders["planned"](0)
    expected = exact(case, given[0])
    error = float((given[0]["o"][: case.q_len].double() - expected).norm() / expected.norm())
    contenders["floor"] = read_floor([one["kv_buffer"].view(torch.bfloat16).view(-1, 288) for one in given])
    contenders |= (public := peers(case, given))
    timings = compare(contenders, copies, device, samples)
    timings |= compare({"plan": lambda _: make_plan()}, 2, device, samples)
    if update_plan is not None:
        timings |= compare({"update": lambda _: update_plan()}, 2, device, samples)
    us = {name: timing.median * 1e6 for name, timing in timings.items()}
    fastest = min(us["planned"], us["splits"])
    return Row(
        case=case,
        planned_us=us["planned"],
        splits_us=us["splits"],
        plan_us=us["plan"],
        update_us=us.get("update"),
        floor_us=us["floor"],
        over_floor=fastest / us["floor"],
        gigabytes_per_second=case.kv_bytes / fastest * 1e-3,
        error=error,
        peers_us={name: us[name] for name in public},
        timings=timings,
    )


def describe(row: Row) -> str:
    case = row.case
    others = "  ".join(f"{name} {us:.1f}" for name, us in row.peers_us.items())
    return (
        f"{case.q_dtype:>4} {case.kv_dtype:>4} {case.heads:4} {case.batch:4} {case.context:6} {case.page_size:3} "
        f"{row.planned_us:8.2f} {row.splits_us:8.2f} {row.floor_us:8.2f} {row.over_floor:5.2f} "
        f"{row.gigabytes_per_second:6.0f} {row.plan_us:6.2f} {row.update_us or float('nan'):6.2f} {row.error:8.1e}  "
        f"{others}"
    )


_COLORS = ("#1b6ca8", "#d1495b", "#3a7d44", "#e3a008", "#6c4f9c", "#555555")


def draw(rows: Sequence[Row]) -> str:
    """Time over the floor, a line for each pair of types and count of heads, a place for each batch and context."""
    places = sorted({(row.case.batch, row.case.context) for row in rows}, key=lambda place: place[0] * place[1])
    lines: dict[str, list[Row]] = {}
    for row in rows:
        lines.setdefault(f"{row.case.q_dtype}/{row.case.kv_dtype}, {row.case.heads} heads", []).append(row)
    width, height, left, top = 110 * len(places) + 260, 420, 60, 30
    most = max(2.0, *(row.over_floor for row in rows))
    step = (width - 260) / len(places)

    def at(row: Row) -> tuple[float, float]:
        place = places.index((row.case.batch, row.case.context))
        return left + (place + 0.5) * step, top + (height - 90) * (1 - row.over_floor / most)

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif">']
    parts.append(f'<rect width="{width}" height="{height}" fill="white"/>')
    for tick in range(int(most) + 1):
        y = top + (height - 90) * (1 - tick / most)
        parts.append(f'<path d="M{left} {y:.1f}H{width - 200}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" font-size="12" text-anchor="end">{tick}</text>')
    for number, (batch, context) in enumerate(places):
        x = left + (number + 0.5) * step
        parts.append(
            f'<text x="{x:.1f}" y="{height - 40}" font-size="12" text-anchor="middle">{batch} x {context}</text>'
        )
    parts.append(f'<text x="{left}" y="{top - 12}" font-size="12">time over the floor, by batch x context</text>')
    for number, (name, of_line) in enumerate(lines.items()):
        color, dash = _COLORS[number % len(_COLORS)], "" if number < len(_COLORS) else ' stroke-dasharray="5 3"'
        points = sorted(at(row) for row in of_line)
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        parts.append(f'<path d="{path}" fill="none" stroke="{color}" stroke-width="2"{dash}/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in points]
        y = top + 20 * number
        parts.append(f'<path d="M{width - 190} {y}h24" stroke="{color}" stroke-width="2"{dash}/>')
        parts.append(f'<text x="{width - 160}" y="{y + 4}" font-size="12">{name}</text>')
    return "\n".join([*parts, "</svg>", ""])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_device(parser)
    options.add_samples(parser, 11)
    parser.add_argument("--heads", type=options.counts, default=list(HEADS), metavar="H,H")
    parser.add_argument("--types", default="bf16/bf16,bf16/fp8,fp8/fp8", metavar="Q/KV,..")
    parser.add_argument("--shape", type=options.pair("BATCH,CONTEXT"), action="append", metavar="BATCH,CONTEXT")
    parser.add_argument("--page-sizes", type=options.counts, default=[64], metavar="P,P")
    parser.add_argument("--q-len", type=options.count, default=1)
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--svg", type=Path, help="draw time over the floor there, against batch and context")
    asked = parser.parse_args(arguments)
    print("   q   kv heads batch context page planned   splits    floor  over   GB/s   plan update    error  peers")
    rows = []
    types = [tuple(pair.split("/")) for pair in asked.types.split(",")]
    for (q, kv), shape, heads, page in itertools.product(types, asked.shape or SHAPES, asked.heads, asked.page_sizes):
        rows.append(measure(Case(heads, *shape, q, kv, page, asked.q_len), asked.device, asked.samples))
        print(describe(rows[-1]), flush=True)
    if asked.json:
        held: dict[str, Any] = {"aiterlite": __version__, "torch": torch.__version__}
        held |= {"device": torch.cuda.get_device_name(asked.device), "rows": [asdict(row) for row in rows]}
        asked.json.write_text(json.dumps(held, indent=1))
    if asked.svg:
        asked.svg.write_text(draw(rows))


if __name__ == "__main__":
    main()
