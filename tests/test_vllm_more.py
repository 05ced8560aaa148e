"""`aiterlite.compat.vllm_ops` beside its GEMMs: vLLM's names, signatures and results."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from aiterlite.compat import vllm_ops  # noqa: E402
from aiterlite.errors import ArgumentError  # noqa: E402

pytestmark = pytest.mark.compile
GENERATOR = torch.Generator().manual_seed(3)


def random(*shape: int) -> Any:
    return torch.randn(*shape, generator=GENERATOR).bfloat16()


SIGNATURES = """
rms_norm out input weight epsilon
fused_add_rms_norm input residual weight epsilon
rotary_embedding positions query key head_size cos_sin_cache is_neox rope_dim_offset inverse
concat_and_cache_mla kv_c k_pe kv_cache slot_mapping kv_cache_dtype scale
moe_sum input output
moe_align_block_size topk_ids num_experts block_size sorted_token_ids experts_ids num_tokens_post_pad expert_map
topk_softmax topk_weights topk_ids token_expert_indices gating_output renormalize e_score_correction_bias
"""


def test_arguments_are_upstream_s() -> None:
    for name, *parameters in map(str.split, SIGNATURES.strip().splitlines()):
        assert list(inspect.signature(getattr(vllm_ops, name)).parameters) == parameters


def normalised(x: Any, weight: Any) -> Any:
    wide = x.double()
    return wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6) * weight.double()


def test_norms() -> None:
    x, residual, weight = random(5, 96), random(5, 96), random(96)
    out = torch.full_like(x, torch.nan)
    vllm_ops.rms_norm(out, x, weight, 1e-6)
    torch.testing.assert_close(out.double(), normalised(x, weight), rtol=2**-8, atol=1e-3)
    total = x + residual
    vllm_ops.fused_add_rms_norm(x, residual, weight, 1e-6)
    assert torch.equal(residual, total)
    torch.testing.assert_close(x.double(), normalised(total, weight), rtol=2**-7, atol=2e-2)


def test_gates_and_sums() -> None:
    x, out = random(4, 2, 32), torch.full((4, 32), torch.nan).bfloat16()
    vllm_ops.moe_sum(x, out)
    torch.testing.assert_close(out.double(), x.double().sum(1), rtol=2**-8, atol=1e-6)
    gates = torch.full((4, 16), torch.nan).bfloat16()
    vllm_ops.silu_and_mul(gates, x[:, 0])
    gate, up = x[:, 0].double().chunk(2, -1)
    torch.testing.assert_close(gates.double(), gate * gate.sigmoid() * up, rtol=2**-7, atol=1e-6)


@pytest.mark.parametrize("is_neox", [True, False])
@pytest.mark.parametrize("offset", [0, 32])
def test_heads_are_rotated_by_halves_and_by_pairs(is_neox: bool, offset: int) -> None:
    """Of heads of 96 elements, 64 turn."""
    query, key, table = random(3, 4 * 96), random(3, 96), random(20, 64)
    positions = torch.tensor([7, 0, 19])
    cos, sin = (t[positions].double().unsqueeze(1) for t in table.chunk(2, -1))

    def rotated(x: Any) -> Any:
        heads = x.double().view(3, -1, 96).clone()
        part = heads[..., offset : offset + 64]
        a, b = (part[..., :32], part[..., 32:]) if is_neox else (part[..., 0::2], part[..., 1::2])
        turned = (a * cos - b * sin, b * cos + a * sin)
        heads[..., offset : offset + 64] = torch.cat(turned, -1) if is_neox else torch.stack(turned, -1).flatten(-2)
        return heads.view(x.shape)

    expected = rotated(query), rotated(key)
    vllm_ops.rotary_embedding(positions, query, key, 96, table, is_neox, offset)
    torch.testing.assert_close(query.double(), expected[0], rtol=2**-7, atol=2e-2)
    torch.testing.assert_close(key.double(), expected[1], rtol=2**-7, atol=2e-2)


def test_latents_go_to_their_slots() -> None:
    latents, keys, cache = random(3, 512), random(3, 64), torch.zeros(2, 4, 576).bfloat16()
    vllm_ops.concat_and_cache_mla(latents, keys, cache, torch.tensor([6, -1, 0]), "auto", torch.ones(1))
    flat = cache.view(8, 576)
    assert torch.equal(flat[6], torch.cat([latents[0], keys[0]])) and torch.equal(
        flat[0], torch.cat([latents[2], keys[2]])
    )
    assert flat[[1, 2, 3, 4, 5, 7]].count_nonzero() == 0


def test_routing() -> None:
    gating = torch.randn(6, 16, generator=GENERATOR)
    weights, ids, places = torch.empty(6, 4), torch.empty(6, 4, dtype=torch.int32), torch.empty(6, 4, dtype=torch.int32)
    vllm_ops.topk_softmax(weights, ids, places, gating, True)
    best = gating.double().softmax(-1).topk(4, -1)
    assert torch.equal(ids.long(), best.indices)
    torch.testing.assert_close(weights.double(), best.values / best.values.sum(-1, keepdim=True), rtol=1e-5, atol=1e-6)
    block, most = 8, 6 * 4 + 16 * 7
    entries = torch.full((most,), -9, dtype=torch.int32)
    experts, used = torch.full((-(-most // block),), -9, dtype=torch.int32), torch.empty(1, dtype=torch.int32)
    vllm_ops.moe_align_block_size(ids, 16, block, entries, experts, used)
    flat = ids.flatten().tolist()
    expected: list[int] = []
    owners: list[int] = []
    for expert in range(16):
        mine = [place for place, owner in enumerate(flat) if owner == expert]
        mine += [24] * (-len(mine) % block)
        expected += mine
        owners += [expert] * (len(mine) // block)
    assert used.item() == len(expected)
    assert entries.tolist() == expected + [24] * (most - len(expected))
    assert experts.tolist() == owners + [-1] * (len(experts) - len(owners))


def test_codes_of_a_given_scale() -> None:
    x, scale = random(3, 64), torch.tensor([0.25])
    codes, same = vllm_ops.scaled_fp8_quant(x, scale, num_token_padding=5)
    assert same is scale and codes.shape == (5, 64) and codes.dtype == torch.float8_e4m3fn
    assert torch.equal(codes[:3].float(), (x.float() / 0.25).clamp(-448, 448).to(torch.float8_e4m3fn).float())


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda x: vllm_ops.scaled_fp8_quant(x, None), "scale"),  # type: ignore[arg-type]
        (lambda x: vllm_ops.rotary_embedding(x, x, x, 96, x, True, 16), "rope_dim_offset"),
        (lambda x: vllm_ops.rotary_embedding(x, x, x, 96, x, True, inverse=True), "inverse"),
        (lambda x: vllm_ops.topk_softmax(x, x, x, x, False, x), "e_score_correction_bias"),
        (lambda x: vllm_ops.moe_align_block_size(x, 8, 8, x, x, x, x), "expert_map"),
    ],
)
def test_what_is_not_here_is_refused_by_name(call: Any, argument: str) -> None:
    with pytest.raises(ArgumentError, match=f"`{argument}`"):
        call(random(4, 64))
