"""The fused mixture of experts: `fused_moe`, from hidden states and their routing to the layer's result.

What is computed is in `reference/fused_moe.py`, and what each field of the kernels' arguments holds in
csrc/include/aiterlite/fused_moe/args.h. The stages, sorting included, are the kernels of one launch.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from aiterlite import envs
from aiterlite.errors import ArgumentError
from aiterlite.launch import calls as launches
from aiterlite.ops import arguments, calls, direct, operands
from aiterlite.ops import fused_moe_mxfp4 as mxfp4
from aiterlite.ops import fused_moe_operands as checks
from aiterlite.ops.calls import Run
from aiterlite.ops.operator import register
from aiterlite.ops.shuffle import is_shuffled
from aiterlite.tables import fused_moe as tables
from aiterlite.tables.fused_moe_problem import MX_CODE, OP, MoeProblem
from aiterlite.tables.quant_types import ActivationType, QuantType

# Operands of the kernels that each call brings, in this order.
OPERANDS = (
    *("x", "x_scale", "w1", "w1_scale", "w2", "w2_scale", "topk_ids", "topk_weights", "expert_mask"),
    *("num_local_tokens", "out", "bias1", "bias2"),
)


def fused_moe(
    hidden_states: Tensor,
    w1: Tensor,
    w2: Tensor,
    topk_weight: Tensor,
    topk_ids: Tensor,
    expert_mask: Tensor | None = None,
    activation: int = ActivationType.Silu,
    quant_type: int = QuantType.No,
    doweight_stage1: bool = False,
    w1_scale: Tensor | None = None,
    w2_scale: Tensor | None = None,
    a1_scale: Tensor | None = None,
    a2_scale: Tensor | None = None,
    block_size_M: int | None = None,  # noqa: N803 (upstream's name)
    num_local_tokens: Tensor | None = None,
    moe_sorting_dispatch_policy: int = 0,
    dtype: torch.dtype | None = None,
    hidden_pad: int = 0,
    intermediate_pad: int = 0,
    bias1: Tensor | None = None,
    bias2: Tensor | None = None,
    splitk: int = 0,
    swiglu_limit: float | None = None,
    beta: float | None = None,
    linear_beta: float | None = None,
    gate_mode: str | None = "separated",
    shared_w1: Tensor | None = None,
    shared_w2: Tensor | None = None,
    shared_w1_scale: Tensor | None = None,
    shared_w2_scale: Tensor | None = None,
    shared_expert_id: int = -1,
    stage2_scatter: Any = None,
    no_combine: bool = False,
    deterministic: bool = True,
) -> Tensor:
    """A layer of experts: the sum over a token's slots of weight * w2 (act(gate x) * up x), by the slot's expert.

    Args:
        hidden_states: [tokens, width] bfloat16 or float16, rows may be strided; or codes of w1's type, or of MXFP8
            (float8_e4m3fn) beside weights of MXFP4, with a1_scale.
        w1: [experts, 2 * inter, width], contiguous: rows of gate before those of up, or as gate_mode says. Of
            hidden_states' dtype, or codes of an e4m3 type, or of MXFP4, two a byte (float4_e2m1fn_x2, uint8). With the
            attribute `is_shuffled` on w1 or w2, or on the memory of one that has no such attribute, both lie as
            `shuffle_weight` puts them.
        w2: [experts, width, inter], of w1's dtype, contiguous.
        topk_weight: float32 [tokens, topk], rows may be strided.
        topk_ids: int32 or int64 [tokens, topk], rows may be strided. An id that is no expert's, such as -1, adds
            nothing; an id may be there twice.
        expert_mask: int32, an entry for each expert that ids may name: 0 for those of other ranks, the others are those
            of w1, in their order. More than w1 has add nothing. It may end in an entry of 0 for an expert that is none.
        activation: Silu, Gelu (exact, by erf) or Swiglu, of `ActivationType`.
        quant_type: No; per_Tensor: a scale for each expert's w1, or its gate and its up rows, and w2; per_Token: one
            for each row of w1 and w2; per_1x128 or per_128x128, which are the same: one for each block of 128 x 128,
            and width and inter are multiples of 128. Hidden states, and what is between the stages, are quantised in
            the call, by groups of 128, where a kernel multiplies 8-bit numbers. per_1x32: MXFP4, and both become it for
            any number of tokens, or MXFP8 where gates take turns; or what AITERLITE_MXFP4_ACTIVATIONS says: either, or
            they keep 16 bits (docs/fused-moe.md).
        doweight_stage1: the routing weight goes on hidden_states, not on the result. (Upstream: topk 1 only.)
        w1_scale: float32 [experts, 2 * inter / 128, width / 128], or [experts, 2 * inter], contiguous or flattened, or
            [experts], or [experts, 2], gate's and up's; a number is its code times its scale. Of MXFP4 float8_e8m0fnu
            or uint8 [experts, 2 * inter, width / 32]; of weights that are shuffled what `shuffle_scale` makes of
            [experts * 2 * inter, width / 32].
        w2_scale: the same of w2: [experts, width / 128, inter / 128], or [experts, width], or [experts].
        a1_scale: where hidden_states are codes: float32 [tokens, width / 128], or [tokens, 1] or one number beside
            scales of tensors or rows; of MXFP4 and MXFP8 bytes [tokens, width / 32]; of any strides. Beside scales of
            tensors and hidden_states that are no codes, a checkpoint's static scale of them: one float32.
        a2_scale: beside scales of tensors, a checkpoint's static scale of what is between the stages: one float32.
            Static scales are not read: both are quantised by groups' own scales, which clip nothing, or not at all.
        block_size_M, moe_sorting_dispatch_policy, splitk: preferences; the table decides, with the same result.
            (Upstream's function does not hand splitk on, either.)
        num_local_tokens: int32 [1], on the device: how many tokens there are; rows of the result behind them are 0.
        dtype: of the result: bfloat16 or float16, that of hidden_states unless those are codes.
        swiglu_limit, beta, linear_beta: of Swiglu, which is gate * sigmoid(beta * gate) * (up + linear_beta) of gate at
            most the limit and up within it; None for upstream's 7, 1.702 and 1. With Silu, a limit clamps the same way.
        gate_mode: "separated", or "interleave": row 2 i of w1 is gate i, row 2 i + 1 is up i.
        no_combine: the result is what each slot adds, [tokens, topk, width], weighted as it would be and rounded; zeros
            where it adds nothing.
        deterministic: the sum over slots goes in their order, and the same call gives the same bits. False allows
            kernels that add in any order.
        hidden_pad, intermediate_pad: how many of the last of width and inter are padding. They say nothing that changes
            the result: weights, scales and biases are zeros there, and are multiplied.
        bias1: float32 [experts, 2 * inter], contiguous, of the rows of w1 as they lie: what gate and up are more, after
            the weight of doweight_stage1.
        bias2: float32 [experts, width], contiguous: what a slot's result is more before its weight.
        shared_w1, shared_w2, shared_w1_scale, shared_w2_scale, shared_expert_id: not here. They are upstream's for one
            shared expert of MXFP8 beside routed ones of MXFP4, which it has on gfx950 only: [1, 2 * inter, width] and
            [1, width, inter] of float8_e4m3fn with shuffled e8m0 scales stand for row shared_expert_id, the last of w1
            and w2, which is a dummy. A shared expert of the routed ones' format needs none of them, there and here: it
            is one more expert of w1 and w2 that each token names. One of another format is a call of its own, whose
            result is added; numbers of MXFP8 are numbers of bfloat16, of quant_type No.
        stage2_scatter: not here.

    Returns [tokens, width], or with no_combine [tokens, topk, width]. Sums are float32. Not differentiable.

    Source of the semantics: `aiter.fused_moe.fused_moe`; `deterministic` is not upstream's, and `no_combine` is what
    SGLang passes where that has it.
    Raises `ArgumentError`, `DispatchError` (with the reasons) or a `JitError`.
    """
    if (
        stage2_scatter is not None
        or not (shared_w1 is shared_w2 is shared_w1_scale is shared_w2_scale is None and shared_expert_id == -1)
        or splitk
        or block_size_M
        or moe_sorting_dispatch_policy
    ):
        _refuse(
            stage2_scatter=stage2_scatter, shared_w1=shared_w1, shared_w2=shared_w2, shared_w1_scale=shared_w1_scale,
            shared_w2_scale=shared_w2_scale, shared_expert_id=shared_expert_id,
        )  # fmt: skip
        _check_preferences(block_size_M, moe_sorting_dispatch_policy, splitk)
    arguments.check_tensors(OP, hidden_states=hidden_states, w1=w1, w2=w2, topk_weight=topk_weight, topk_ids=topk_ids)
    kind = checks.number_of(OP, "quant_type", quant_type)
    if a1_scale is not None or a2_scale is not None:
        quant = checks.quant_name(OP, kind)
        checks.check_static(OP, quant, hidden_states, a2_scale=a2_scale)
        if quant == "tensor" and hidden_states.itemsize != 1:
            checks.check_static(OP, quant, hidden_states, a1_scale=a1_scale)
            a1_scale = None
    if hidden_pad or intermediate_pad:
        width, inter = (w2.shape[1], w1.shape[1] // 2) if w1.dim() == w2.dim() == 3 else (1, 1)
        arguments.check_ints(OP, hidden_pad=(hidden_pad, 0, width), intermediate_pad=(intermediate_pad, 0, inter))
    result_dtype = hidden_states.dtype if dtype is None else dtype
    if result_dtype not in checks.DTYPES:
        remedy = "" if dtype is not None else "It is that of hidden_states where it is not given: pass it."
        raise ArgumentError(OP, "dtype", result_dtype, ", ".join(map(str, checks.DTYPES)), remedy)
    # Operands of other ranks are refused by the operator, in its words.
    shape: tuple[int, ...]
    shape = (hidden_states.shape[0], w2.shape[1]) if hidden_states.dim() == 2 and w2.dim() == 3 else (0, 0)
    if no_combine:
        shape = (shape[0], topk_ids.shape[1] if topk_ids.dim() == 2 else 0, shape[1])
    out = torch.empty(shape, dtype=result_dtype, device=hidden_states.device)
    mode = getattr(gate_mode, "value", gate_mode)
    args = (
        hidden_states, w1, w2, topk_weight, topk_ids, out, expert_mask, num_local_tokens, w1_scale, w2_scale, a1_scale,
        checks.number_of(OP, "activation", activation), kind, bool(doweight_stage1), mode, is_shuffled(w1, w2),
        swiglu_limit, beta, linear_beta, deterministic, "", bool(no_combine), bias1, bias2,
    )  # fmt: skip
    direct.call(OPERATOR, args, ())
    return out


_REMEDIES = {
    "stage2_scatter": "Combine the results of ranks after the call.",
    "shared_expert_id": "Append the shared expert to w1 and w2, and its id and weight to each token's; one of another "
    "format is a call of its own.",
}
_UNASKED = {"shared_expert_id": -1}


def _refuse(**given: Any) -> None:
    """Raises `ArgumentError` for the first that is not as where nothing is asked."""
    for name, value in given.items():
        unasked = _UNASKED.get(name)
        if (value is None) != (unasked is None) or (value is not None and value != unasked):
            got = f"a {type(value).__name__}" if unasked is None else value
            remedy = _REMEDIES["shared_expert_id" if name.startswith("shared_") else name]
            raise ArgumentError(OP, name, got, str(unasked), remedy)


def _check_preferences(block_size: Any, policy: Any, splits: Any) -> None:
    arguments.check_ints(OP, splitk=(splits, -1, 2**31 - 1))
    if block_size is not None:
        arguments.check_ints(OP, block_size_M=(block_size, -1, tables.MOST_BLOCK))
    operands.check_choice(OP, "moe_sorting_dispatch_policy", policy, tables.POLICIES)


# The operator ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Call:
    """The arguments of the operator by their names."""

    hidden_states: Tensor
    w1: Tensor
    w2: Tensor
    topk_weight: Tensor
    topk_ids: Tensor
    out: Tensor
    expert_mask: Tensor | None = None
    num_local_tokens: Tensor | None = None
    w1_scale: Tensor | None = None
    w2_scale: Tensor | None = None
    a1_scale: Tensor | None = None
    activation: int = 0
    quant_type: int = 0
    doweight_stage1: bool = False
    gate_mode: str | None = "separated"
    shuffled: bool = False
    swiglu_limit: float | None = None
    beta: float | None = None
    linear_beta: float | None = None
    deterministic: bool = True
    asked_precision: str = ""
    by_slots: bool = False
    bias1: Tensor | None = None
    bias2: Tensor | None = None

    @property
    def precision(self) -> str:
        """What is asked for, or else what the environment says, which prepared calls go by."""
        interleaved = checks.is_interleaved(OP, self.gate_mode)
        asked = envs.MXFP4_ACTIVATIONS.get()
        return self.asked_precision or mxfp4.precision_of(asked, self.hidden_states, interleaved)

    @property
    def quantised(self) -> bool:
        return self.hidden_states.itemsize == 1

    @property
    def is_mx(self) -> bool:
        return checks.quant_name(OP, self.quant_type) == "mxfp4"

    @property
    def named(self) -> int:
        """The experts that ids may name."""
        return self.w1.shape[0] if self.expert_mask is None else self.expert_mask.numel()

    def check(self) -> None:
        """Raises `ArgumentError`."""
        x, w1, w2, out = self.hidden_states, self.w1, self.w2, self.out
        quant = checks.quant_name(OP, self.quant_type)
        self.numbers()
        if not self.shuffled and is_shuffled(w1, w2):
            # A tracer saw no attribute, and could not see the memory.
            got, allowed = "shuffled, by its memory alone", "shuffled weights with the attribute is_shuffled"
            raise ArgumentError(OP, "w1", got, f"{allowed}, in compiled code", "Set w1.is_shuffled = True.")
        checks.is_interleaved(OP, self.gate_mode)
        if self.is_mx:
            mxfp4.check_weights(OP, x, w1, w2, self.shuffled)
        else:
            checks.check_weights(OP, x, w1, w2, ("hidden_states", "w1", "w2"), self.shuffled)
        operands.check_dtype(OP, "out", out, checks.DTYPES)
        self._check_out()
        operands.check_device(OP, "out", out, x, "hidden_states")
        scales = {"w1_scale": self.w1_scale, "w2_scale": self.w2_scale}
        if self.is_mx:
            mxfp4.check_input(OP, x, self.a1_scale, out.dtype, self.precision)
            mxfp4.check_scales(OP, w1, w2, self.shuffled, **scales)
        else:
            checks.check_codes(OP, quant, w1, out.dtype)
            checks.check_input(OP, quant, x, self.a1_scale, w1, out.dtype)
            checks.check_scales(OP, quant, w1, w2, ("w1", "w2"), **scales)
        checks.check_biases(OP, w1, w2, bias1=self.bias1, bias2=self.bias2)
        checks.check_routing(OP, x, self.topk_ids, self.topk_weight)
        checks.check_counted(OP, x, w1.shape[0], self.expert_mask, self.num_local_tokens)
        operands.check_dense(OP, hidden_states=x)

    def _check_out(self) -> None:
        out, (tokens, _), width = self.out, self.hidden_states.shape, self.w2.shape[1]
        if self.by_slots:
            operands.check_dims(OP, "topk_ids", self.topk_ids, 2, "[tokens, topk]")
            operands.check_shape(OP, "out", out, [[tokens, self.topk_ids.shape[1], width]])
            arguments.check_contiguous(OP, out=out)
            return
        operands.check_shape(OP, "out", out, [[tokens, width]])
        operands.check_dense(OP, out=out)
        arguments.check_apart(OP, "out", out)

    def numbers(self) -> tuple[str, dict[str, int | float]]:
        name = checks.activation_name(OP, self.activation)
        return checks.activation_numbers(OP, name, self.swiglu_limit, self.beta, self.linear_beta)

    @property
    def problem(self) -> MoeProblem:
        x, w1 = self.hidden_states, self.w1
        quant = checks.quant_name(OP, self.quant_type)
        return MoeProblem(
            tokens=x.shape[0],
            experts=w1.shape[0],
            topk=self.topk_ids.shape[1],
            width=self.w2.shape[1],
            inter=w1.shape[1] // 2,
            dtype=operands.dtype_name(self.out.dtype),
            code=MX_CODE if self.is_mx else "" if quant == "none" else operands.dtype_name(w1.dtype),
            quant=quant,
            activation=self.numbers()[0],
            shuffled=self.shuffled,
            interleaved=checks.is_interleaved(OP, self.gate_mode),
            quantised=self.quantised,
            weighted_input=self.doweight_stage1,
            masked=self.expert_mask is not None,
            global_experts=self.named,
            aligned=checks.is_aligned(x, self.out, w1, self.w2),
            # Kernels that add to the result have the sorting clear it, which does not know of strides.
            deterministic=self.deterministic or not self.out.is_contiguous(),
            precision=self.precision if self.is_mx else "",
            by_slots=self.by_slots,
            bias1=self.bias1 is not None,
            bias2=self.bias2 is not None,
        )

    @property
    def sizes(self) -> dict[str, int | float]:
        """What the kernels' arguments hold besides addresses and what kernels say themselves."""
        problem, scale = self.problem, self.w1_scale
        halves = problem.quant == "tensor" and scale is not None and scale.numel() == 2 * problem.experts
        return layer_sizes(problem, problem.interleaved) | {
            "w1_scales": 2 if halves else 1,
            "global_experts": self.named,
            "id_words": self.topk_ids.itemsize // 4,
            "stride_x": self.hidden_states.stride(0),
            "stride_out": self.out.stride(-2),
            "stride_ids": self.topk_ids.stride(0),
            "stride_weights": self.topk_weight.stride(0),
            **checks.input_strides(problem.quant, self.a1_scale),
            **self.numbers()[1],
        }


# Where the operator's arguments have biases.
_BIASES = [field.name for field in fields(_Call)].index("bias1")


def layer_sizes(problem: Any, interleaved: bool) -> dict[str, int | float]:
    """What a problem says of the kernels' arguments."""
    given = {name: getattr(problem, name) for name in ("tokens", "topk", "experts", "width", "inter")}
    rows = {"gate_step": 2 if interleaved else 1, "up_offset": 1 if interleaved else problem.inter}
    return {**given, **rows, "sorted_entries": 0, "w1_scales": 1}


def _prepare(*args: Any) -> Run:
    call = _Call(*args)
    call.check()
    if call.topk_ids.numel() == 0:
        return _clear
    decision = calls.decide(tables.TABLE, call.problem, calls.persona_of(OP, call.out.device))
    optional = {"x_scale": call.a1_scale, "w1_scale": call.w1_scale, "w2_scale": call.w2_scale}
    optional |= {"expert_mask": call.expert_mask, "num_local_tokens": call.num_local_tokens}
    optional |= {"bias1": call.bias1, "bias2": call.bias2}
    absent = [name for name, tensor in optional.items() if tensor is None]
    launch = launches.prepare(decision, call.out.device, OPERANDS, call.sizes, absent)

    def run(*args: Any) -> None:
        x, w1, w2, weights, ids, out, mask, live, w1_scale, w2_scale, x_scale = args[:11]
        # Calls may leave the last ones out.
        bias1, bias2 = (*args[_BIASES:], None, None)[:2]
        launch(x, x_scale, w1, w1_scale, w2, w2_scale, ids, weights, mask, live, out, bias1, bias2)

    return run


def _clear(*args: Any) -> None:
    args[5].zero_()


def _fake(*args: Any) -> None:
    _Call(*args).check()


OPERATOR = register(
    f"{OP}(Tensor hidden_states, Tensor w1, Tensor w2, Tensor topk_weight, Tensor topk_ids, Tensor(a!) out, "
    "Tensor? expert_mask, Tensor? num_local_tokens, Tensor? w1_scale, Tensor? w2_scale, Tensor? a1_scale, "
    "int activation, int quant_type, bool doweight_stage1, str? gate_mode, bool shuffled, float? swiglu_limit, "
    "float? beta, float? linear_beta, bool deterministic, str precision='', bool by_slots=False, "
    "Tensor? bias1=None, Tensor? bias2=None) -> ()",
    _prepare,
    _fake,
)
