"""The fused mixture of experts: what arguments of its calls mean, how weights lie, and what torch makes of it."""

from __future__ import annotations

import gc
import inspect
from enum import Enum
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from fused_moe_cases import call, case_of, check, problem_of  # noqa: E402
from torch import Tensor  # noqa: E402

from aiterlite import ActivationType, QuantType, moe  # noqa: E402
from aiterlite.errors import ArgumentError  # noqa: E402
from aiterlite.ops.fused_moe import layer_sizes  # noqa: E402
from aiterlite.ops.shuffle import is_shuffled, mark_shuffled, unshuffle_weight  # noqa: E402
from aiterlite.reference import fused_moe as reference  # noqa: E402

pytestmark = [pytest.mark.compile, pytest.mark.usefixtures("one_thread")]
BF16, FP16 = torch.bfloat16, torch.float16


# What arguments mean --------------------------------------------------------------------------------------------------


def test_signatures_are_upstream_s() -> None:
    names = list(inspect.signature(moe.fused_moe).parameters)
    assert names[:9] == [
        "hidden_states", "w1", "w2", "topk_weight", "topk_ids", "expert_mask", "activation", "quant_type",
        "doweight_stage1",
    ]  # fmt: skip
    assert names[9:32] == [
        "w1_scale", "w2_scale", "a1_scale", "a2_scale", "block_size_M", "num_local_tokens",
        "moe_sorting_dispatch_policy", "dtype", "hidden_pad", "intermediate_pad", "bias1", "bias2", "splitk",
        "swiglu_limit", "beta", "linear_beta", "gate_mode", "shared_w1", "shared_w2", "shared_w1_scale",
        "shared_w2_scale", "shared_expert_id", "stage2_scatter",
    ]  # fmt: skip
    names = list(inspect.signature(moe.fmoe_fp8_blockscale_g1u1).parameters)
    assert names[:18] == [
        "out", "input", "gate", "down", "sorted_token_ids", "sorted_weights", "sorted_expert_ids", "num_valid_ids",
        "topk", "input_scale", "fc1_scale", "fc2_scale", "kernelName", "fc_scale_blkn", "fc_scale_blkk",
        "fc2_smooth_scale", "activation", "block_size_M",
    ]  # fmt: skip
    assert list(inspect.signature(moe.shuffle_weight).parameters) == [
        "x", "layout", "use_int4", "is_guinterleave", "gate_up", "pad_k_to",
    ]  # fmt: skip


class GateMode(str, Enum):
    SEPARATED = "separated"
    INTERLEAVE = "interleave"


def test_forms_of_the_same_call_give_the_same_bits() -> None:
    case = case_of(problem_of(shuffled=True, interleaved=True), 3)
    made = case.made
    assert made.weights.w1_scale is not None and made.weights.w2_scale is not None
    expected = call(case)
    check(case, expected)
    flat = {"w1_scale": made.weights.w1_scale.flatten(), "w2_scale": made.weights.w2_scale.flatten(1)}
    for changes in (
        {"quant_type": QuantType.per_1x128},
        {"quant_type": 5, "activation": 0},
        {"gate_mode": GateMode.INTERLEAVE},
        {"block_size_M": 64, "moe_sorting_dispatch_policy": 2, "splitk": 4},
        {"block_size_M": -1},
        {"hidden_pad": 64, "intermediate_pad": 32},
        {"dtype": BF16},
        {"topk_ids": made.ids.long()},
        {"num_local_tokens": torch.tensor([5], dtype=torch.int32)},
        {"deterministic": False},
        flat,
    ):
        assert torch.equal(call(case, **changes), expected), changes


def test_absent_operands_are_told_apart_by_their_places() -> None:
    """A mask of one expert and a count of tokens lie alike; each call that follows is prepared for itself."""
    case = case_of(problem_of(experts=1, topk=1), 3, torch.zeros(5, 1, dtype=torch.int32))
    one = torch.tensor([1], dtype=torch.int32)
    whole = call(case)
    first = torch.cat([whole[:1], torch.zeros_like(whole[1:])])
    for _ in range(2):
        assert torch.equal(call(case, expert_mask=one), whole)
        assert torch.equal(call(case, num_local_tokens=one), first)
    swiglu = {"activation": ActivationType.Swiglu}
    assert not torch.equal(call(case, **swiglu, beta=2.0), call(case, **swiglu, linear_beta=2.0))


def test_in_inference_mode_and_beside_parameters() -> None:
    case = case_of(problem_of(quant="none"), 3)
    expected = call(case)
    w1 = torch.nn.Parameter(case.made.w1)
    with torch.inference_mode():
        assert torch.equal(call(case, w1=w1), expected)
    with torch.no_grad():
        assert torch.equal(call(case, w1=w1), expected)


def test_one_shuffled_weight_means_both_as_upstream() -> None:
    case = case_of(problem_of(shuffled=True), 3)
    for one, other in ((case.made.w1, case.made.w2), (case.made.w2, case.made.w1)):
        one.is_shuffled, other.is_shuffled = True, False
        check(case, call(case))
    case.made.w1.is_shuffled, case.made.w2.is_shuffled = True, False
    # A copy loses the attribute; the same bytes then mean another matrix.
    lost = case.made.w1.clone()
    assert not torch.equal(call(case), call(case, w1=lost))
    lost.is_shuffled = True
    check(case, call(case, w1=lost))


def test_engines_may_wrap_shuffled_weights() -> None:
    """As vLLM and SGLang keep them: in parameters made of them, or that have them as data; the tensors are dropped."""
    case = case_of(problem_of(), 3)
    expected = call(case_of(problem_of(shuffled=True), 3))
    plain = case.made.w1, case.made.w2

    def parameter(of: Tensor) -> Tensor:
        return torch.nn.Parameter(moe.shuffle_weight(of), requires_grad=False)

    def assigned(of: Tensor) -> Tensor:
        made = torch.nn.Parameter(of.clone(), requires_grad=False)
        made.data = moe.shuffle_weight(of)
        return made

    for wrap in (parameter, assigned, lambda of: moe.shuffle_weight(of).view(torch.uint8).view(of.dtype)):
        w1, w2 = map(wrap, plain)
        gc.collect()
        assert not hasattr(w1, "is_shuffled") and torch.equal(call(case, w1=w1, w2=w2), expected)
        # What a tensor says of itself goes before: it was unshuffled where it lies.
        w1.data.copy_(plain[0])
        w2.data.copy_(plain[1])
        w1.is_shuffled = w2.is_shuffled = False
        check(case, call(case, w1=w1, w2=w2))


def test_memory_says_nothing_of_what_else_lies_in_it() -> None:
    """Neither of other tensors, nor of memory that is used again."""
    weight = torch.randn(32, 64).bfloat16()
    made = moe.shuffle_weight(weight)
    assert is_shuffled(made) and is_shuffled(made[:16]) and not is_shuffled(made.clone()) and not is_shuffled(weight)
    # As an allocator hands out again what was freed: the same place, by another name.
    place = bytearray(4096)
    first, second = (torch.frombuffer(place, dtype=BF16).view(32, 64) for _ in range(2))
    assert first.data_ptr() == second.data_ptr()
    mark_shuffled(first)
    del first.is_shuffled
    assert is_shuffled(first) and not is_shuffled(second)
    # Some have no memory of their own.
    assert not is_shuffled(torch.eye(4).to_sparse())


def test_a_tracer_takes_the_attribute_alone_and_its_code_refuses_the_rest() -> None:
    case = case_of(problem_of(shuffled=True), 3)
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    check(case, compiled(case))
    weights = {name: torch.nn.Parameter(getattr(case.made, name), requires_grad=False) for name in ("w1", "w2")}
    with pytest.raises(ArgumentError, match=r"shuffled, by its memory alone.*Set w1.is_shuffled = True"):
        compiled(case, **weights)
    weights["w1"].is_shuffled = True
    check(case, compiled(case, **weights))


def test_scales_of_rows_with_a_trailing_one() -> None:
    case = case_of(problem_of(quant="token"), 3)
    scales = {"w1_scale": case.made.weights.w1_scale, "w2_scale": case.made.weights.w2_scale}
    assert torch.equal(call(case), call(case, **{name: s.unsqueeze(-1) for name, s in scales.items() if s is not None}))


def test_scales_of_blocks_in_another_order_are_refused() -> None:
    """As many numbers as there are blocks are not yet those of the blocks."""
    case = case_of(problem_of(width=384, inter=256), 3)
    scale = case.made.weights.w1_scale
    assert scale is not None and list(scale.shape) == [8, 4, 3]
    expected = call(case)
    for shape in ((8, 12), (96,), (8, 12, 1), (8, 4, 1, 3)):
        assert torch.equal(call(case, w1_scale=scale.view(shape)), expected)
    for shape in ((8, 3, 4), (8, 6, 2), (32, 3)):
        with pytest.raises(ArgumentError, match=r"`w1_scale` is of shape .*\[8, 4, 3\], or flattened"):
            call(case, w1_scale=scale.reshape(shape))


def test_strided_scales_of_quantised_hidden_states() -> None:
    case = case_of(problem_of(quantised=True, tokens=7), 3)
    assert case.made.x_scale is not None
    transposed = case.made.x_scale.T.contiguous().T
    assert transposed.stride() != case.made.x_scale.stride()
    assert torch.equal(call(case), call(case, a1_scale=transposed))


def test_swiglu_takes_its_numbers_and_a_clamped_silu_is_one() -> None:
    case = case_of(problem_of(activation="swiglu", quant="none"), 3)
    case.made.x *= 8  # far beyond the limits
    check(case, call(case))
    made = case.made
    for changes, activation in (
        ({}, reference.Activation("swiglu", 7.0, 1.702, 1.0)),
        ({"swiglu_limit": 2.5, "beta": 0.5, "linear_beta": 3.0}, reference.Activation("swiglu", 2.5, 0.5, 3.0)),
        ({"swiglu_limit": 0.0}, reference.Activation("swiglu")),
        ({"activation": ActivationType.Silu, "swiglu_limit": 3.0}, reference.Activation("swiglu", 3.0, 1.0, 0.0)),
    ):
        layer = reference.fused_moe(made.x, made.weights, made.ids, made.routing, activation)
        got = call(case, **changes).double()
        assert bool(((got - layer.out).abs() <= reference.error_bound(layer, BF16, False)).all()), changes


def test_kernels_are_told_where_gate_and_up_rows_lie() -> None:
    """Those that are compiled for either do not look; others go by this."""
    problem = problem_of(inter=384)
    told = [layer_sizes(problem, interleaved) for interleaved in (False, True)]
    assert [(sizes["gate_step"], sizes["up_offset"]) for sizes in told] == [(1, 384), (2, 1)]


def test_no_tokens_and_no_slots() -> None:
    case = case_of(problem_of(), 1)
    made = case.made
    none = {"hidden_states": made.x[:0], "topk_ids": made.ids[:0], "topk_weight": made.routing[:0]}
    assert call(case, **none).shape == (0, 256)
    assert not call(case, topk_ids=made.ids[:, :0], topk_weight=made.routing[:, :0]).any()


# Shuffled weights -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.uint8, BF16, FP16])
@pytest.mark.parametrize("shape", [(16, 32), (3, 48, 96), (2, 2, 32, 64)])
def test_shuffled_weights_lie_as_upstream_puts_them(dtype: Any, shape: tuple[int, ...]) -> None:
    bits = torch.uint8 if dtype.itemsize == 1 else torch.int16
    x = torch.randint(0, 120, shape, dtype=bits).view(dtype)
    made = moe.shuffle_weight(x)
    assert made.shape == x.shape and made.dtype == dtype and made.is_shuffled and not hasattr(x, "is_shuffled")
    rows, columns = shape[-2:]
    vector = 16 // dtype.itemsize
    flat, given = made.view(bits).reshape(-1, rows * columns), x.view(bits).reshape(-1, rows, columns)
    for n, k in ((0, 0), (1, 0), (0, 1), (rows - 1, columns - 1), (rows // 2, columns // 3)):
        tile = n // 16 * (columns // 32) + k // 32
        place = ((tile * (32 // vector) + k % 32 // vector) * 16 + n % 16) * vector + k % vector
        assert torch.equal(flat[:, place], given[:, n, k])
    assert torch.equal(unshuffle_weight(made).view(bits), x.view(bits))
    strided = x.transpose(-1, -2).contiguous().transpose(-1, -2)
    assert torch.equal(moe.shuffle_weight(strided).view(bits), made.view(bits))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"layout": (32, 16)}, "`layout` is (32, 16); allowed: (16, 16)"),
        ({"use_int4": True}, "`use_int4`"),
        ({"is_guinterleave": True, "gate_up": True}, "torch.stack((gate, up), 2)"),
        ({"pad_k_to": 256}, "`pad_k_to`"),
        ({"x": torch.zeros(24, 64, dtype=BF16)}, "`x` is of shape [24, 64]"),
        ({"x": torch.zeros(32, 48, dtype=BF16)}, "`x` is of shape [32, 48]"),
        ({"x": torch.zeros(64, dtype=BF16)}, "`x` is of shape [64]"),
        ({"x": torch.zeros(32, 64)}, "`x` is of dtype torch.float32"),
        ({"x": None}, "`x` is None"),
    ],
)
def test_weights_that_are_not_shuffled(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        moe.shuffle_weight(**{"x": torch.zeros(32, 64, dtype=BF16), **changes})
    assert named in str(caught.value)


# torch ----------------------------------------------------------------------------------------------------------------


def test_compiled_with_dynamic_shapes_it_gives_the_same() -> None:
    """Also of weights whose attribute says that they are shuffled, after such that do not have it."""
    torch._dynamo.reset()

    def layer(x: Tensor, w1: Tensor, w2: Tensor, weights: Tensor, ids: Tensor, s1: Tensor, s2: Tensor) -> Tensor:
        return moe.fused_moe(x, w1, w2, weights, ids, quant_type=QuantType.per_1x128, w1_scale=s1, w2_scale=s2) * 2

    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    for tokens, shuffled in ((3, False), (5, True), (40, False)):
        case = case_of(problem_of(tokens=tokens, shuffled=shuffled), tokens)
        made = case.made
        scales = made.weights.w1_scale, made.weights.w2_scale
        got = compiled(made.x, made.w1, made.w2, made.routing, made.ids, *scales)
        assert torch.equal(got, call(case) * 2)


def test_fake_tensors_have_the_result_s_shape_and_the_same_refusals() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    case = case_of(problem_of(tokens=6), 1)
    with FakeTensorMode(allow_non_fake_inputs=False) as mode:
        made = case.made
        fakes = {name: mode.from_tensor(getattr(made, name)) for name in ("x", "w1", "w2", "ids", "routing")}
        scales = [mode.from_tensor(s) for s in (made.weights.w1_scale, made.weights.w2_scale)]
        given = (fakes["x"], fakes["w1"], fakes["w2"], fakes["routing"], fakes["ids"])
        options: dict[str, Any] = {"quant_type": QuantType.per_1x128, "w1_scale": scales[0], "w2_scale": scales[1]}
        out = moe.fused_moe(*given, **options)
        assert out.shape == (6, 256) and out.dtype == BF16
        with pytest.raises(ArgumentError, match="`w1_scale`"):
            moe.fused_moe(*given, **{**options, "w1_scale": scales[1]})


def test_it_is_not_differentiable() -> None:
    case = case_of(problem_of(quant="none"), 1)
    with pytest.raises(NotImplementedError, match="not differentiable"):
        call(case, hidden_states=case.made.x.clone().requires_grad_())
    with torch.no_grad():
        check(case, call(case, hidden_states=case.made.x.clone().requires_grad_()))
