"""Names of aiter that this package has in parts: what each is in terms of those, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from norm_cases import Case, operands_of  # noqa: E402
from quant_cases import same  # noqa: E402

from aiterlite import gemm, moe, mxfp4, norm, quant  # noqa: E402
from aiterlite.compat import aiter_fused as fused  # noqa: E402
from aiterlite.errors import ArgumentError  # noqa: E402

BF16, FP8 = torch.bfloat16, torch.float8_e4m3fn
EPS = 1e-6


def summed(x: Any, residual: Any, weight: Any) -> tuple[Any, Any]:
    out, total = torch.empty_like(x), torch.empty_like(x)
    norm.rmsnorm2d_fwd_with_add(out, x, residual, total, weight, EPS)
    return out, total


def test_a_norm_that_is_quantised_by_a_given_scale() -> None:
    given, scale = operands_of(Case(5, 512)), torch.tensor([0.03])
    other, other_weight = given.x[:, :64], given.weight[:64]
    for residual in (None, given.residual):
        if residual is None:
            normed, total = norm.rms_norm(given.x, given.weight, EPS), None
        else:
            normed, total = summed(given.x, residual, given.weight)
        wanted = torch.empty(5, 512, dtype=FP8)
        quant.static_per_tensor_quant(wanted, normed, scale)
        how: dict[str, Any] = {"res1": residual, "dtype_quant": FP8, "output_unquantized_inp1": residual is None}
        second = (other, other_weight, 1e-3)
        found = fused.fused_rms_fp8_per_tensor_static_quant(given.x, given.weight, EPS, scale, *second, **how)
        assert same(found[0], wanted) and same(found[2], norm.rms_norm(other, other_weight, 1e-3))
        assert (found[1] is None) == (residual is not None) and (found[1] is None or same(found[1], normed))
        assert found[3] is None if total is None else same(found[3], total)
    with pytest.raises(ArgumentError, match="`inp2_weight` is None"):
        fused.fused_rms_fp8_per_tensor_static_quant(given.x, given.weight, EPS, scale, given.x)


@pytest.mark.parametrize(("multiple", "width"), [(0, 480), (256, 512), (32, 480)])
def test_a_norm_whose_rows_are_padded(multiple: int, width: int) -> None:
    given = operands_of(Case(5, 480))
    plain = fused.fused_add_rmsnorm_pad(given.x, given.weight, EPS, None, multiple)
    wanted, total = summed(given.x, given.residual, given.weight)
    found, found_total = fused.fused_add_rmsnorm_pad(given.x, given.weight, EPS, given.residual, multiple)
    for got, right in ((plain, norm.rms_norm(given.x, given.weight, EPS)), (found, wanted)):
        assert isinstance(got, torch.Tensor) and got.shape == (5, width) and same(got[:, :480], right)
        assert not bool(got[:, 480:].any())
    assert same(found_total, total)


def test_quantised_norms_in_another_order() -> None:
    given = operands_of(Case(5, 512))
    for group, count in ((0, 5), (128, 20)):
        codes, scale, wanted, wanted_scale = (torch.empty(n, dtype=t) for n, t in (((5, 512), FP8), (count, None)) * 2)
        fused.rmsnorm_quant(codes, given.x, scale, given.weight, EPS, group)
        norm.rmsnorm2d_fwd_with_dynamicquant(wanted, given.x, wanted_scale, given.weight, EPS, 0, group)
        assert same(codes, wanted) and same(scale, wanted_scale)
        total, wanted_total = torch.empty_like(given.x), torch.empty_like(given.x)
        rows = given.x, given.residual
        fused.add_rmsnorm_quant(codes, *rows, total, scale, given.weight, EPS, group)
        norm.rmsnorm2d_fwd_with_add_dynamicquant(wanted, *rows, wanted_total, wanted_scale, given.weight, EPS, 0, group)
        assert same(codes, wanted) and same(scale, wanted_scale) and same(total, wanted_total)
    with pytest.raises(ArgumentError, match="`gemma_norm` is True"):
        fused.rmsnorm_quant(codes, given.x, scale, given.weight, EPS, gemma_norm=True)


def test_a_product_that_is_split_and_joined() -> None:
    x, w, y = torch.randn(5, 128).bfloat16(), torch.randn(3 * 96, 128).bfloat16(), torch.randn(5, 3, 16).bfloat16()
    codes, scales, w_codes, w_scales = *mxfp4.dynamic_mxfp4_quant(x), *mxfp4.dynamic_mxfp4_quant(w)
    whole = gemm.gemm_afp4wfp4(codes, w_codes, scales, w_scales, BF16).view(5, 3, 96)
    first, second = fused.fused_gemm_afp4wfp4_split_cat(codes, w_codes, y, scales, w_scales, 64, 32, BF16)
    assert same(first, torch.cat((whole[..., :64], y), -1)) and same(second, whole[..., 64:].contiguous())
    with pytest.raises(ArgumentError, match="`w` is of 288 rows; allowed: 192 rows"):
        fused.fused_gemm_afp4wfp4_split_cat(codes, w_codes, y, scales, w_scales, 32, 32)


def test_gemms_of_16_bits_and_their_types() -> None:
    x, w, bias = torch.randn(5, 256).half(), torch.randn(48, 256).half(), torch.randn(48).half()
    right = x.double() @ w.double().T + bias.double()
    y = torch.full((5, 48), float("nan"), dtype=torch.float32)
    for found in (fused.gemm_a16w16(x, w, bias), fused.gemm_a16w16(x, w, bias, y=y)):
        torch.testing.assert_close(found.double(), right, rtol=2.0**-7, atol=2.0**-7)
    assert fused.gemm_a16w16(x, w).dtype == BF16 and fused.gemm_a16w16(x, w, bias, y=y) is y
    with pytest.raises(ArgumentError, match="`activation` is silu"):
        fused.gemm_a16w16(x, w, activation="silu")


def test_experts_weights_and_scales() -> None:
    weight, scale = torch.randn(2, 64, 64).bfloat16(), torch.randint(1, 250, (2, 64, 8), dtype=torch.uint8)
    assert same(fused.moe_shuffle_weight(weight, 2), moe.shuffle_weight(weight))
    assert fused.moe_shuffle_weight(weight).is_shuffled
    assert same(fused.moe_shuffle_scale(scale, experts_cnt=2), mxfp4.shuffle_scale(scale.view(128, 8)))
    with pytest.raises(ArgumentError, match="is_guinterleave"):
        fused.moe_shuffle_weight(weight, is_guinterleave=True, gate_up=True)
    assert fused.GateMode("separated") is fused.GateMode.SEPARATED and fused.GateMode.INTERLEAVE.value == "interleave"


def test_gating() -> None:
    gating = torch.randn(7, 65)
    for shared in (0, 1):
        experts = gating[:, : 65 - shared].contiguous() if not shared else gating
        weights, ids = torch.full((7, 8 + shared), float("nan")), torch.full((7, 8 + shared), -7, dtype=torch.int32)
        fused.topk_gating(weights, ids[:, :8], experts, None, True, 1.0, "softmax", shared)
        right, right_ids = experts[:, : 65 - shared].softmax(-1).topk(8)
        assert [set(row) for row in ids[:, :8].tolist()] == [set(row) for row in right_ids.tolist()]
        sums = (right / right.sum(-1, keepdim=True)).sort(-1).values
        torch.testing.assert_close(weights[:, :8].sort(-1).values, sums)
        if shared:
            torch.testing.assert_close(weights[:, 8], gating[:, 64].sigmoid())
            assert set(ids[:, 8].tolist()) == {-7}
    bias = torch.rand(64)
    weights, ids = torch.empty(7, 4), torch.empty(7, 4, dtype=torch.int32)
    for given in (None, bias):
        fused.topk_gating(weights, ids, gating[:, :64].contiguous(), given, True, 2.5, "sigmoid")
        scores = gating[:, :64].sigmoid()
        right_ids = (scores if given is None else scores + given).topk(4).indices
        assert [set(row) for row in ids.tolist()] == [set(row) for row in right_ids.tolist()]
        torch.testing.assert_close(weights.sum(-1), torch.full((7,), 2.5))
    for words, changes in (
        ("`score_func` is 'sqrtsoftplus'", {"score_func": "sqrtsoftplus"}),
        ("`correction_bias` is a tensor", {"score_func": "softmax", "correction_bias": bias}),
        ("`routed_scaling_factor` is 2.5", {"score_func": "softmax", "routed_scaling_factor": 2.5}),
        ("`num_shared_experts` is 1", {"score_func": "sigmoid", "num_shared_experts": 1}),
    ):
        with pytest.raises(ArgumentError, match=words):
            fused.topk_gating(weights, ids, gating, **changes)


def test_what_torch_serves() -> None:
    x, weight, bias = torch.randn(5, 64), torch.randn(64), torch.randn(64)
    wanted = torch.nn.functional.layer_norm(x, (64,), weight, bias, 1e-3)
    assert same(fused.layernorm2d_fwd(x, weight, bias, 1e-3), wanted)
    with pytest.raises(ArgumentError, match="`x_bias` is a tensor"):
        fused.layernorm2d_fwd(x, weight, bias, x_bias=bias)
    out = torch.full((5,), -1, dtype=torch.int32)
    fused.greedy_sample(out, x.bfloat16())
    assert out.tolist() == x.bfloat16().argmax(-1).tolist()
