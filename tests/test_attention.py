"""flash_attn_varlen_func: float64's attention of ragged requests, and what is refused."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from aiterlite.errors import ArgumentError  # noqa: E402
from aiterlite.mla import flash_attn_varlen_func  # noqa: E402
from aiterlite.ops import attention  # noqa: E402

# What rounding weights and the result costs, of a row's norm.
NEAR = {torch.bfloat16: 8e-3, torch.float16: 1e-3, torch.float32: 2e-6}


def operands(
    rows: list[int], tokens: list[int], heads: int = 4, kv_heads: int = 4, dtype: Any = None
) -> dict[str, Any]:
    """q and k of 192, v of 128, each a part of a wider tensor of NaN."""
    generator = torch.Generator().manual_seed(sum(rows) + 7 * sum(tokens))

    def part(count: int, heads: int, width: int) -> Any:
        whole = torch.full((count + 2, heads, width + 8), float("nan"), dtype=dtype or torch.bfloat16)
        inner = whole[1 : 1 + count, :, :width]
        return inner.copy_(torch.randn(count, heads, width, generator=generator))

    def ends(counts: list[int]) -> Any:
        return torch.tensor([0, *torch.tensor(counts).cumsum(0).tolist()], dtype=torch.int32)

    return {
        "q": part(sum(rows), heads, 192),
        "k": part(sum(tokens), kv_heads, 192),
        "v": part(sum(tokens), kv_heads, 128),
        "cu_seqlens_q": ends(rows),
        "cu_seqlens_k": ends(tokens),
        "max_seqlen_q": max(rows),
        "max_seqlen_k": max(tokens),
    }


def exact(given: dict[str, Any], causal: bool, scale: float) -> tuple[Any, Any]:
    q, k, v = (given[name].double() for name in ("q", "k", "v"))
    k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], 1) for t in (k, v))
    out, lse = torch.zeros(*q.shape[:2], v.shape[2], dtype=torch.float64), torch.full(q.shape[:2], -torch.inf).double()
    rows, tokens = given["cu_seqlens_q"].tolist(), given["cu_seqlens_k"].tolist()
    for (first, last), (begin, end) in zip(pairwise(rows), pairwise(tokens), strict=True):
        for i in range(first, last):
            seen = end - begin - (last - 1 - i) if causal else end - begin
            if seen <= 0:
                continue
            scores = torch.einsum("hd,mhd->hm", q[i], k[begin : begin + seen]) * scale
            lse[i] = scores.logsumexp(-1)
            out[i] = torch.einsum("hm,mhd->hd", scores.softmax(-1), v[begin : begin + seen])
    return out, lse.T


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", NEAR, ids=str)
@pytest.mark.parametrize(
    ("rows", "tokens", "heads"),
    [([5, 0, 33], [5, 0, 33], (4, 4)), ([3, 1, 7], [20, 1, 64], (8, 2)), ([9, 2], [4, 0], (2, 1))],
    ids=["same", "behind others", "more rows than tokens"],
)
def test_it_is_float64s_attention(rows: Any, tokens: Any, heads: Any, dtype: Any, causal: bool) -> None:
    given = operands(rows, tokens, *heads, dtype=dtype)
    out, lse = flash_attn_varlen_func(**given, causal=causal, return_lse=True, softmax_scale=0.09)
    wanted, wanted_lse = exact(given, causal, 0.09)
    assert out.dtype == dtype and lse.dtype == torch.float32 and lse.shape == (heads[0], sum(rows))
    error = (out.double() - wanted).norm(dim=-1)
    assert bool((error <= NEAR[dtype] * wanted.norm(dim=-1) + 1e-12).all())
    assert torch.allclose(lse.double(), wanted_lse, rtol=1e-5, atol=1e-5)
    assert torch.equal(flash_attn_varlen_func(**given, causal=causal, softmax_scale=0.09), out)


def test_log_sums_some_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    given = operands([17, 5], [30, 5])
    _, whole = flash_attn_varlen_func(**given, causal=True, return_lse=True)
    monkeypatch.setattr(attention, "_SCORES", 300)
    _, parts = flash_attn_varlen_func(**given, causal=True, return_lse=True)
    assert torch.allclose(whole, parts, rtol=1e-6)


def test_a_given_result_is_written_whole_and_the_scale_is_of_the_width() -> None:
    given = operands([3, 4], [3, 9])
    given["cu_seqlens_q"][2] = 6  # the last row is of no request
    out = torch.full((7, 4, 128), 9.0, dtype=torch.bfloat16)
    assert flash_attn_varlen_func(**given, out=out) is out
    assert not out[6].any() and torch.equal(out, flash_attn_varlen_func(**given, softmax_scale=192**-0.5))


def test_a_tracer_takes_it_as_one_operator() -> None:
    given = operands([3, 4], [3, 9])
    expected = flash_attn_varlen_func(**given, causal=True, return_lse=True)

    def call(given: dict[str, Any]) -> Any:
        return flash_attn_varlen_func(**given, causal=True, return_lse=True)

    made = torch.compile(call, fullgraph=True, backend="aot_eager")(given)
    assert all(torch.equal(got, wanted) for got, wanted in zip(made, expected, strict=True))
    assert torch.equal(torch.compile(call, fullgraph=True, backend="aot_eager")(given)[0], expected[0])


def test_what_is_refused() -> None:
    given = operands([3, 4], [3, 9])
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("dropout_p", {"dropout_p": 0.1}),
        ("logits_soft_cap", {"logits_soft_cap": 30.0}),
        ("window_size", {"window_size": (128, 0)}),
        ("return_attn_probs", {"return_attn_probs": True}),
        ("k", {"k": given["k"][:, :3], "v": given["v"][:, :3]}),
        ("v", {"v": given["v"][:5]}),
        ("v", {"v": given["v"][0]}),
        ("k", {"q": given["q"].half()}),
        ("q", {"q": None}),
        ("cu_seqlens_q", {"cu_seqlens_q": given["cu_seqlens_q"].long()}),
        ("cu_seqlens_k", {"cu_seqlens_k": given["cu_seqlens_k"][:2]}),
        ("cu_seqlens_q", {"cu_seqlens_q": torch.tensor([0, 9, 7]).int()}),
        ("cu_seqlens_k", {"cu_seqlens_k": torch.tensor([0, 3, 99]).int()}),
        ("out", {"out": torch.zeros(7, 4, 192, dtype=torch.bfloat16)}),
    ]
    absent = ("bias", "alibi_slopes", "block_table", "sink_ptr", "cu_seqlens_q_padded", "cu_seqlens_k_padded")
    wrong += [(name, {name: torch.zeros(1)}) for name in absent]
    for name, changes in wrong:
        with pytest.raises(ArgumentError, match=f"argument `{name}`"):
            flash_attn_varlen_func(**{**given, **changes})
