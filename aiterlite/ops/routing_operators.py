"""The operators of routing: what each one's arguments mean, checked, as one kind of call; what they mean to a caller is
in `ops/routing.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aiterlite.dispatch import Table
from aiterlite.errors import ArgumentError
from aiterlite.launch import calls as launches
from aiterlite.ops import arguments, calls, operands
from aiterlite.ops.calls import Run
from aiterlite.ops.operator import Operator, register
from aiterlite.tables import routing as tables
from aiterlite.tables.routing import RoutingProblem

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_MOST_SCALE = torch.finfo(torch.float32).max
_OPERANDS = ("gating", "bias", "weights", "ids", "token_expert_indices")


@dataclass(frozen=True)
class _Call:
    """What a function's arguments mean. `columns` are those of ids that are chosen experts; the rest of the fields are
    as in `RoutingProblem`. `names` are the function's own names of gating, weights and ids; `counted` is that of the
    argument that says the columns, where there is one."""

    table: Table
    gating: Tensor
    weights: Tensor
    ids: Tensor
    columns: int
    names: tuple[str, str, str] = ("gating_output", "topk_weights", "topk_ids")
    bias: Tensor | None = None
    bias_name: str = "correction_bias"
    indices: Tensor | None = None
    groups: int = 1
    topk_groups: int = 1
    score: str = "softmax"
    renorm: bool = False
    scale: float = 1.0
    without: int = 0  # columns of gating that are no experts to choose from
    shared: int = 0
    scored: bool = False
    exact: bool = False  # whether results have no further columns
    counted: str = ""

    @property
    def op(self) -> str:
        return self.table.op

    @property
    def experts(self) -> int:
        return self.gating.shape[1] - self.without

    def check(self) -> None:
        """Raises `ArgumentError`."""
        op, gating = self.op, self.gating
        name, of_weights, of_ids = self.names
        operands.check_dims(op, name, gating, 2, "[tokens, experts]")
        operands.check_dtype(op, name, gating, _DTYPES)
        if self.experts < 1:
            raise ArgumentError(op, name, f"of shape {list(gating.shape)}", f"more than {self.without} columns")
        self._check_columns()
        if not abs(self.scale) <= _MOST_SCALE:
            raise ArgumentError(op, "routed_scaling_factor", self.scale, "a finite float32")
        ids = self.columns + (0 if self.scored else self.shared)
        self._check_result(of_weights, self.weights, torch.float32, self.columns + self.shared)
        self._check_result(of_ids, self.ids, torch.int32, ids)
        if self.indices is not None:
            self._check_result("token_expert_indices", self.indices, torch.int32, self.columns)
            if gating.shape[0] * self.columns > 2**31:
                got = f"for {gating.shape[0]} tokens of {self.columns} slots"
                raise ArgumentError(op, "token_expert_indices", got, "at most 2^31 slots", "Split tokens.")
        operands.check_dense(op, **{name: gating})
        if self.bias is not None:
            types = tuple(dict.fromkeys((gating.dtype, torch.float32)))
            operands.check_dtype(op, self.bias_name, self.bias, types, f"beside {name} of {gating.dtype}")
            operands.check_device(op, self.bias_name, self.bias, gating, name)
            operands.check_shape(op, self.bias_name, self.bias, [[self.experts]], f"[{self.experts}], one an expert")
            operands.check_dense(op, **{self.bias_name: self.bias})
        if self.groups < 1 or self.experts % self.groups:
            allowed = f"a divisor of the {self.experts} experts"
            raise ArgumentError(op, "num_expert_group", self.groups, allowed)
        if not 1 <= self.topk_groups <= self.groups:
            raise ArgumentError(op, "topk_group", self.topk_groups, f"1 to num_expert_group, {self.groups}")
        held = self.topk_groups * (self.experts // self.groups)
        if self.columns > held:
            got = f"for {self.columns} experts of {held} in the groups that are kept"
            raise ArgumentError(op, of_ids, got, f"at most {held}", "Keep more groups.")

    def _check_columns(self) -> None:
        op, shared, most = self.op, 0 if self.scored else self.shared, tables.MOST_TOPK
        if 1 <= self.columns <= most:
            return
        if not self.counted:
            raise ArgumentError(op, self.names[2], f"of {self.columns} columns", f"1 to {most}, one a chosen expert")
        among = f", with the {shared} shared" if shared else ""
        raise ArgumentError(op, self.counted, self.columns + shared, f"{1 + shared} to {most + shared}{among}")

    def _check_result(self, name: str, tensor: Tensor, dtype: torch.dtype, columns: int) -> None:
        tokens = self.gating.shape[0]
        operands.check_dims(self.op, name, tensor, 2, f"[{tokens}, {columns}]")
        if tensor.shape[0] != tokens or tensor.shape[1] < columns or (self.exact and tensor.shape[1] > columns):
            allowed = f"[{tokens}, {columns}]{'' if self.exact else ' or wider'}"
            raise ArgumentError(self.op, name, f"of shape {list(tensor.shape)}", allowed)
        operands.check_dtype(self.op, name, tensor, (dtype,))
        operands.check_device(self.op, name, tensor, self.gating, self.names[0])
        operands.check_dense(self.op, **{name: tensor})
        arguments.check_apart(self.op, name, tensor[:, :columns])

    @property
    def problem(self) -> RoutingProblem:
        gating, bias = self.gating, self.bias
        vector = 16 // gating.itemsize
        aligned = operands.is_aligned(gating, vector) and (bias is None or bias.data_ptr() % 16 == 0)
        return RoutingProblem(
            num_tokens=gating.shape[0],
            experts=self.experts,
            topk=self.columns,
            groups=self.groups,
            topk_groups=self.topk_groups,
            dtype=operands.dtype_name(gating.dtype),
            bias=tables.NO_BIAS if bias is None else operands.dtype_name(bias.dtype),
            score=self.score,
            renorm=self.renorm,
            shared_experts=self.shared,
            shared_scored=self.scored,
            aligned=aligned,
        )

    @property
    def sizes(self) -> dict[str, int | float]:
        """What the kernel's arguments hold besides addresses and the problem's fields."""
        return {
            "stride_gating": self.gating.stride(0),
            "stride_weights": self.weights.stride(0),
            "stride_ids": self.ids.stride(0),
            "stride_indices": 0 if self.indices is None else self.indices.stride(0),
            "scale": self.scale,
        }


def _columns(op: str, name: str, ids: Tensor) -> int:
    operands.check_dims(op, name, ids, 2, "[tokens, topk]")
    return ids.shape[1]


def _register(schema: str, meaning: Callable[..., _Call], *given: str) -> Operator:
    """An operator whose arguments mean a call. `given` are the kernel's names of its arguments, the first of them; ""
    for one that no kernel takes."""
    absent = [name for name in _OPERANDS if name not in given]
    places = [given.index(name) if name in given else None for name in _OPERANDS]

    def prepare(*args: Any) -> Run:
        call = meaning(*args)
        call.check()
        if call.gating.shape[0] == 0:
            return lambda *_: None
        decision = calls.decide(call.table, call.problem, calls.persona_of(call.op, call.gating.device))
        launch = launches.prepare(decision, call.gating.device, _OPERANDS, call.sizes, absent)

        def run(*args: Any) -> None:
            launch(*[None if place is None else args[place] for place in places])

        return run

    def fake(*args: Any) -> None:
        meaning(*args).check()

    return register(schema, prepare, fake)


def _biased(
    gating: Tensor,
    bias: Tensor,
    weights: Tensor,
    ids: Tensor,
    groups: int,
    topk_groups: int,
    renorm: bool,
    scale: float = 1.0,
) -> _Call:
    return _Call(
        tables.BIASED_GROUPED_TOPK,
        *(gating, weights, ids, _columns(tables.BIASED_GROUPED_TOPK.op, "topk_ids", ids)),
        bias=bias,
        groups=groups,
        topk_groups=topk_groups,
        score="sigmoid",
        renorm=renorm,
        scale=scale,
        exact=True,
    )


def _grouped(
    gating: Tensor,
    weights: Tensor,
    ids: Tensor,
    groups: int,
    topk_groups: int,
    renorm: bool,
    is_softmax: bool = True,
    scale: float = 1.0,
) -> _Call:
    return _Call(
        tables.GROUPED_TOPK,
        *(gating, weights, ids, _columns(tables.GROUPED_TOPK.op, "topk_ids", ids)),
        groups=groups,
        topk_groups=topk_groups,
        score="softmax" if is_softmax else "sigmoid",
        renorm=renorm,
        scale=scale,
        exact=True,
    )


def _fused_gate(
    gating: Tensor,
    bias: Tensor,
    weights: Tensor,
    ids: Tensor,
    groups: int,
    topk_groups: int,
    topk: int,
    shared: int,
    scale: float = 1.0,
) -> _Call:
    op = tables.MOE_FUSED_GATE.op
    if not 0 <= shared <= tables.MOST_SHARED:
        raise ArgumentError(op, "n_share_experts_fusion", shared, f"0 to {tables.MOST_SHARED}")
    if topk <= shared:
        raise ArgumentError(op, "topk", topk, f"more than the {shared} shared experts that it counts")
    return _Call(
        tables.MOE_FUSED_GATE,
        *(gating, weights, ids, topk - shared),
        names=("input", "topk_weights", "topk_ids"),
        bias=bias,
        bias_name="bias",
        groups=groups,
        topk_groups=topk_groups,
        score="sigmoid",
        renorm=True,
        scale=scale,
        shared=shared,
        counted="topk",
    )


def _softmax(
    weights: Tensor, ids: Tensor, indices: Tensor, gating: Tensor, renorm: bool, shared: int = 0, scoring: str = ""
) -> _Call:
    op = tables.TOPK_SOFTMAX.op
    if scoring not in ("", "sigmoid"):
        raise ArgumentError(op, "shared_expert_scoring_func", repr(scoring), "'', 'sigmoid'")
    if not 0 <= shared <= tables.MOST_SHARED:
        raise ArgumentError(op, "num_shared_experts", shared, f"0 to {tables.MOST_SHARED}")
    return _Call(
        tables.TOPK_SOFTMAX,
        *(gating, weights, ids, _columns(op, "topk_indices", ids)),
        names=("gating_output", "topk_weights", "topk_indices"),
        indices=indices,
        renorm=renorm,
        without=shared,
        shared=shared if scoring else 0,
        scored=True,
    )


def _sigmoid(weights: Tensor, ids: Tensor, gating: Tensor) -> _Call:
    names = ("gating_output", "topk_weights", "topk_indices")
    columns = _columns(tables.TOPK_SIGMOID.op, "topk_indices", ids)
    return _Call(tables.TOPK_SIGMOID, gating, weights, ids, columns, names=names, score="sigmoid", exact=True)


def _fused(hidden: Tensor, gating: Tensor, topk: int, renorm: bool, ids: Tensor, weights: Tensor) -> _Call:
    op = tables.FUSED_TOPK.op
    operands.check_dims(op, "gating_output", gating, 2, "[tokens, experts]")
    if hidden.shape[:1] != gating.shape[:1]:
        allowed = f"as many rows as gating_output, {list(gating.shape)}"
        raise ArgumentError(op, "hidden_states", f"of shape {list(hidden.shape)}", allowed)
    return _Call(tables.FUSED_TOPK, gating, weights, ids, topk, renorm=renorm, counted="topk")


_TO = "Tensor(a!) topk_weights, Tensor(b!) topk_ids"
BIASED_GROUPED_TOPK = _register(
    f"biased_grouped_topk(Tensor gating_output, Tensor correction_bias, {_TO}, int num_expert_group, int topk_group, "
    "bool need_renorm, float routed_scaling_factor=1.0) -> ()",
    _biased,
    *("gating", "bias", "weights", "ids"),
)
GROUPED_TOPK = _register(
    f"grouped_topk(Tensor gating_output, {_TO}, int num_expert_group, int topk_group, bool need_renorm, "
    "bool is_softmax=True, float routed_scaling_factor=1.0) -> ()",
    _grouped,
    *("gating", "weights", "ids"),
)
MOE_FUSED_GATE = _register(
    f"moe_fused_gate(Tensor input, Tensor bias, {_TO}, int num_expert_group, int topk_group, int topk, "
    "int n_share_experts_fusion, float routed_scaling_factor=1.0) -> ()",
    _fused_gate,
    *("gating", "bias", "weights", "ids"),
)
TOPK_SOFTMAX = _register(
    "topk_softmax(Tensor(a!) topk_weights, Tensor(b!) topk_indices, Tensor(c!) token_expert_indices, "
    'Tensor gating_output, bool need_renorm, int num_shared_experts=0, str shared_expert_scoring_func="") -> ()',
    _softmax,
    *("weights", "ids", "token_expert_indices", "gating"),
)
TOPK_SIGMOID = _register(
    "topk_sigmoid(Tensor(a!) topk_weights, Tensor(b!) topk_indices, Tensor gating_output) -> ()",
    _sigmoid,
    *("weights", "ids", "gating"),
)
FUSED_TOPK = _register(
    "fused_topk(Tensor hidden_states, Tensor gating_output, int topk, bool renormalize, Tensor(a!) topk_ids, "
    "Tensor(b!) topk_weights) -> ()",
    _fused,
    *("", "gating", "", "", "ids", "weights"),
)
