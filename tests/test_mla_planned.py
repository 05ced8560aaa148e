"""Decode by this package's own plans: each planner, each fold, on CPUs, emulated gfx942 and gfx950, and GPUs.

64 heads a rank with an 8-bit KV is DeepSeek-R1 at tensor parallel 2. Upstream planned it folded and decoded it
unfolded, which crashed GPUs; here decode follows the fold that the plan carries.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from gemm_operands import on  # noqa: E402
from mla_cases import DTYPES, Batch, assert_right, batch, run  # noqa: E402

from aiterlite import mla  # noqa: E402
from aiterlite.jit import toolchain  # noqa: E402

AMD = ("gfx942", "gfx950")
no_clang = pytest.mark.skipif(toolchain.find("amd") is None, reason=toolchain.how_to_get("amd"))
TARGETS = [
    "cpu",
    *(pytest.param(target, marks=[pytest.mark.compile, pytest.mark.emulated, no_clang]) for target in AMD),
    pytest.param("cuda", marks=pytest.mark.gpu),
]
FP8 = {"gfx942": "e4m3fnuz"}
PLANNERS = {
    "fast": {"fast_mode": True, "intra_batch_mode": False},
    "intra": {"fast_mode": False, "intra_batch_mode": True},
    "cost": {"fast_mode": False, "intra_batch_mode": False},
}
# heads, rows of each request, tokens of each, (q, KV).
CASES = [
    (64, [1, 1, 1], [90, 0, 33], ("fp8", "fp8")),
    (64, [4, 4], [70, 4], ("fp8", "fp8")),
    (64, [1, 1], [50, 81], ("bf16", "fp8")),
    (128, [2, 2], [40, 3], ("bf16", "bf16")),
    (16, [2, 0, 3], [61, 5, 130], ("bf16", "bf16")),
    (32, [3, 1, 2], [37, 90, 2], ("fp16", "fp8")),
    (8, [1, 1], [17, 400], ("bf16", "fp8")),
]


def planned(case: Batch, heads: int, types: tuple[str, str], planner: str, most: int, **sized_for: Any) -> Any:
    """The plan's operands of `mla_decode_fwd`, in buffers sized for `sized_for` and full of other numbers before."""
    q, kv = (DTYPES[name] for name in types)
    device = case.q.device
    mode = PLANNERS[planner]
    held = {"batch_size": len(case.counts), "max_seqlen_qo": most, "device": device, **sized_for}
    info = mla.get_mla_metadata_info_v1(**held, num_head_qo=heads, q_dtype=q, kv_dtype=kv, is_sparse=False, **mode)
    made = [
        torch.full(shape if isinstance(shape, tuple) else (shape,), 123, dtype=t, device=device) for shape, t in info
    ]
    pointers, indptr, work, *reduce = made
    uniform = most if len(set(case.counts)) == 1 else -1
    mla.get_mla_metadata_v1(
        *(case.qo_indptr, case.kv_indptr, case.kv_last_page_lens, heads, 1, True, pointers, work, indptr, *reduce),
        **mode,
        max_seqlen_qo=most,
        uni_seqlen_qo=uniform,
        dtype_q=q,
        dtype_kv=kv,
    )
    names = ("work_meta_data", "work_indptr", "work_info_set", "reduce_indptr", "reduce_final_map")
    return dict(zip((*names, "reduce_partial_map"), (pointers, indptr, work, *reduce), strict=True))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("planner", PLANNERS)
@pytest.mark.parametrize(("heads", "counts", "lengths", "types"), CASES)
def test_a_plan_is_decoded_right(
    heads: int, counts: list[int], lengths: list[int], types: tuple[str, str], planner: str, target: str, request: Any
) -> None:
    """In buffers for a larger batch and longer queries, with all sanitizers where it is emulated."""
    if target in AMD:
        request.getfixturevalue("sanitized")
    q, kv = (FP8.get(target, "e4m3fn") if name == "fp8" else name for name in types)
    with on(target) as device:
        case = batch(lengths, counts, heads, types=(q, kv), seed=heads).to(device)
        most = max(counts)
        plan = planned(case, heads, (q, kv), planner, most, batch_size=len(counts) + 3)
        got = run(case, **plan)
    assert_right(got, case.to("cpu").exact())


@pytest.mark.parametrize(
    ("own", "others"),
    [(("bf16", "fp8"), [("fp8", "fp8"), ("bf16", "fp8"), ("bf16", "bf16")]), (("fp16", "fp16"), [("fp8", "fp8")])],
    ids=["bf16-fp8", "fp16-fp16"],
)
@pytest.mark.parametrize("target", TARGETS)
def test_a_plan_for_other_types_is_decoded_by_its_own_fold(
    target: str, own: tuple[str, str], others: list[tuple[str, str]], request: Any
) -> None:
    """As a client does on gfx942: it plans for fp8 and decodes bfloat16 queries over an 8-bit KV. Pieces are larger
    than the types of the call lead to expect, or smaller."""
    if target in AMD:
        request.getfixturevalue("sanitized")
    fp8 = FP8.get(target, "e4m3fn")
    with on(target) as device:
        case = batch([60, 21], [1, 1], 64, types=(own[0], own[1].replace("fp8", fp8)), seed=3).to(device)
        run_planned = functools.partial(planned, case, 64, most=1)
        for types in (tuple(name.replace("fp8", fp8) for name in other) for other in others):
            got = run(case, **run_planned(types, "fast"))
            assert_right(got, case.to("cpu").exact())
