"""MX scales in the order of entries that are sorted by experts, on a CPU, emulated on both AMD targets with all
sanitizers, as sm_90 would run it on the host, and on a GPU."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from gemm_operands import on  # noqa: E402
from hostsim_launch import simulate  # noqa: E402
from mxfp4_cases import assert_codes, in_turns, rows_of, shuffled  # noqa: E402

from aiterlite import dispatch, moe, mxfp4  # noqa: E402
from aiterlite.errors import ArgumentError, DispatchError  # noqa: E402
from aiterlite.reference import mxfp4 as reference  # noqa: E402
from aiterlite.tables import mxfp4_sort as tables  # noqa: E402
from aiterlite.target import resolve  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.compile]


@pytest.fixture(autouse=True)
def _all_sanitizers(request: pytest.FixtureRequest) -> None:
    if hasattr(request.node, "callspec") and str(request.node.callspec.params.get("target", "")).startswith("gfx"):
        request.getfixturevalue("sanitized")


def entries(tokens: int, topk: int, experts: int, seed: int = 0) -> tuple[Any, Any]:
    """What moe_sorting makes of random ids, of experts of which a token names none twice; garbage behind the entries
    in use."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.rand(tokens, experts, generator=generator).topk(topk, 1).indices.int()
    sorted_ids, _, _, valid, *_ = moe.moe_sorting(ids, torch.ones(tokens, topk), experts, 64, torch.bfloat16)
    sorted_ids[int(valid[0]) :] = 0
    return sorted_ids, valid


def wanted(scales: Any, sorted_ids: Any, valid: int, tokens: int, topk: int) -> Any:
    """Entry by entry."""
    rows = torch.zeros(len(sorted_ids), scales.shape[1], dtype=torch.uint8)
    for entry, found in enumerate(sorted_ids[:valid].tolist()):
        token, slot = found & 0xFFFFFF, found >> 24
        if token < tokens and (topk == 1 or slot < topk):
            rows[entry] = scales[token if topk == 1 else token * topk + slot]
    return shuffled(rows, -(-len(sorted_ids) // 32) * 32)[: -(-valid // 32) * 32]


def in_use(found: Any, valid: Any) -> Any:
    """The rows of tiles that an entry in use is of."""
    return found[: -(-int(valid[0]) // 32) * 32]


# tokens, slots, experts, elements of a row.
CASES = [(1, 2, 4, 64), (19, 3, 5, 544), (40, 8, 9, 96)]


@pytest.mark.parametrize(("number", "target"), in_turns(len(CASES)))
def test_scales_follow_their_rows(number: int, target: str) -> None:
    tokens, topk, experts, width = CASES[number]
    sorted_ids, valid = entries(tokens, topk, experts)
    for slots in (1, topk):
        x = rows_of(tokens * slots, width, torch.bfloat16, slots)
        codes, scales = reference.quantise(x, 1)
        right = wanted(scales, sorted_ids, int(valid[0]), tokens, slots)
        with on(target) as device:
            given = sorted_ids.to(device), valid.to(device)
            found = mxfp4.mxfp4_moe_sort_fwd(scales.to(device), *given, tokens, width)
            both = mxfp4.fused_dynamic_mxfp4_quant_moe_sort(x.to(device), *given, tokens, topk, 32)
        assert found.dtype == both[1].dtype == torch.float8_e8m0fnu and both[0].dtype == torch.float4_e2m1fn_x2
        assert_codes(in_use(found, valid), right, "sorted")
        assert_codes(both[0], codes, "codes")
        assert_codes(in_use(both[1], valid), right, "scales")


def test_each_name_has_its_mode_and_its_forms() -> None:
    sorted_ids, valid = entries(7, 3, 4, 1)
    x = rows_of(21, 96, torch.float16, 2)
    codes, scales = reference.quantise(x, 2)
    right = wanted(scales, sorted_ids, int(valid[0]), 7, 3)
    found = mxfp4.triton_fused_dynamic_mxfp4_quant_moe_sort(x.view(7, 3, 96), sorted_ids, valid, 7, 3)
    assert_codes(found[0], codes, "codes")
    assert_codes(in_use(found[1], valid), right, "scales")
    found = mxfp4.moe_mxfp4_sort(scales.view(7, 3, 3), sorted_ids, valid, 7)
    assert_codes(in_use(found, valid), right, "of slots")
    columns = scales.T.contiguous().T.view(torch.float8_e8m0fnu)
    assert_codes(in_use(mxfp4.mxfp4_moe_sort_fwd(columns, sorted_ids, valid, 7, 96), valid), right, "by columns")
    live = torch.tensor([4], dtype=torch.int32)
    found = mxfp4.fused_dynamic_mxfp4_quant_moe_sort(x, sorted_ids, valid, 7, 3, 64, live)
    assert_codes(found[0][:12], reference.quantise(x[:12], 1)[0], "live rows")


def test_nothing_to_sort() -> None:
    none = torch.zeros(0, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    some = torch.full((40,), 5, dtype=torch.int32), torch.tensor([40], dtype=torch.int32)
    x = rows_of(2, 64, torch.bfloat16)
    codes, scales = mxfp4.fused_dynamic_mxfp4_quant_moe_sort(x, *none, 2, 1, 32)
    assert scales.shape == (0, 8)
    assert_codes(codes, reference.quantise(x, 1)[0], "codes")
    codes, scales = mxfp4.fused_dynamic_mxfp4_quant_moe_sort(x[:0], *some, 0, 1, 32)
    assert codes.shape == (0, 32) and scales.shape == (64, 8) and not scales.view(torch.uint8).any()
    scales = mxfp4.mxfp4_moe_sort_fwd(torch.ones(2, 2, dtype=torch.uint8), *some, 2, 64)
    assert not scales.view(torch.uint8).any()


def test_on_the_host_as_hopper_would(tmp_path: Path) -> None:
    sorted_ids, valid = entries(6, 2, 3)
    scales = torch.randint(1, 255, (12, 9), dtype=torch.uint8)
    problem = tables.MxSortProblem(6, 288, 2, len(sorted_ids))
    out = torch.full((problem.row_tiles * 32, 16), 7, dtype=torch.uint8)
    tensors = {"row_scales": scales, "scales": out, "sorted_ids": sorted_ids, "num_valid_ids": valid}
    for kernel in dispatch.decide(tables.SORT_TABLE, problem, resolve("h100")).kernels:
        simulate(kernel, tensors, {"stride_row": 9, "stride_block": 1}, tmp_path)
    assert_codes(in_use(out, valid), wanted(scales, sorted_ids, int(valid[0]), 6, 2), "sorted")
    assert bool((out[len(in_use(out, valid)) :] == 7).all()) and len(out) > len(in_use(out, valid))


SIGNATURES = {
    "mxfp4_moe_sort_fwd": "scale, sorted_ids, num_valid_ids, token_num, cols",
    "moe_mxfp4_sort": "blockscale_e8m0, sorted_ids, num_valid_ids, token_num, block_size=32",
    "fused_dynamic_mxfp4_quant_moe_sort": "input, sorted_ids, num_valid_ids, token_num, topk, block_size, "
    "num_rows=None, group_size=32, sorted_weights=None",
    "triton_fused_dynamic_mxfp4_quant_moe_sort": "x, sorted_ids, num_valid_ids, token_num, topk, block_size=32, "
    "scaling_mode=even",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_are_upstream_s(name: str) -> None:
    parameters = inspect.signature(getattr(mxfp4, name)).parameters.values()
    shown = (p.name + ("" if p.default is p.empty else f"={p.default}") for p in parameters)
    assert ", ".join(shown) == SIGNATURES[name]


IDS, VALID = torch.zeros(64, dtype=torch.int32), torch.zeros(2, dtype=torch.int32)
S, X = torch.zeros(6, 2, dtype=torch.uint8), torch.zeros(6, 64).bfloat16()
_sort, _quant = mxfp4.mxfp4_moe_sort_fwd, mxfp4.fused_dynamic_mxfp4_quant_moe_sort
REFUSED = {
    "scale` is of dtype torch.float32": lambda: _sort(S.float(), IDS, VALID, 6, 64),
    r"scale` is of shape \[6, 2\]; allowed: \[rows, 3\]": lambda: _sort(S, IDS, VALID, 6, 96),
    r"scale` is of shape \[6, 2\]; allowed: 4 rows, or topk": lambda: _sort(S, IDS, VALID, 4, 64),
    "sorted_ids` is of dtype torch.int64": lambda: _sort(S, IDS.long(), VALID, 6, 64),
    r"sorted_ids` is of shape \[8, 8\]": lambda: _sort(S, IDS.view(8, 8), VALID, 6, 64),
    "num_valid_ids` is of no element": lambda: _sort(S, IDS, VALID[:0], 6, 64),
    "token_num` is 16777216; allowed: an integer, 0 to 16777215": lambda: _sort(S, IDS, VALID, 1 << 24, 64),
    "block_size` is 16; allowed: a multiple of 32": lambda: _quant(X, IDS, VALID, 6, 1, 16),
    "group_size` is 64": lambda: _quant(X, IDS, VALID, 6, 1, 32, None, 64),
    "sorted_weights` is a tensor": lambda: _quant(X, IDS, VALID, 6, 1, 32, sorted_weights=X),
    r"input` is of shape \[6, 64\]; allowed: 3 rows, or 8 for each of 3 tokens": lambda: _quant(
        X, IDS, VALID, 3, 8, 32
    ),
    "topk` is 0; allowed: an integer, 1 to 127": lambda: _quant(X, IDS, VALID, 6, 0, 32),
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_does_not_fit_is_refused_in_words(said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        REFUSED[said]()


def test_what_no_kernel_serves_is_refused_in_words() -> None:
    for problem, said in (
        (tables.MxQuantSortProblem(4, 100, entries=64), "row_width, 100, is no multiple of the block, 32"),
        (tables.MxSortProblem(4, 2**20, entries=2**31 - 1), "more than 2\\^30 tiles"),
    ):
        table = tables.QUANT_SORT_TABLE if "Quant" in type(problem).__name__ else tables.SORT_TABLE
        decision = dispatch.decide(table, problem, resolve("h200"))
        with pytest.raises(DispatchError, match=said):
            dispatch.require(decision, dispatch.Wishes())
