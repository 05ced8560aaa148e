"""What the GPUs' kernels of the GEMM of 8-bit floats share: sizes, and x that is quantised ahead of them."""

from __future__ import annotations

from aiterlite.kernel import WORKSPACE, Kernel, Operand, Value
from aiterlite.tables import quant
from aiterlite.tables.gemm_a8w8_problem import STEP_K, A8w8Problem, BatchedProblem, flavour
from aiterlite.tables.quant_plan import QuantProblem
from aiterlite.target import Persona

_LINE = 256


def sizes(problem: A8w8Problem) -> dict[str, Value]:
    return {"n": problem.n, "m": problem.m, "k": problem.k, "batch": problem.batches}


def quantised(problem: A8w8Problem, persona: Persona) -> tuple[dict[str, Value], tuple[Kernel, ...]]:
    """Where x is quantised here: where its codes and scales lie, and what makes them, of rows of x that are `stride_x`
    apart."""
    if not isinstance(problem, BatchedProblem):
        return {}, ()
    rows, batch, groups = problem.n * problem.batches, problem.batches, -(-problem.k // STEP_K)
    codes, scales = Operand(WORKSPACE), Operand(WORKSPACE, _lines(rows * problem.k))
    made = QuantProblem(rows, problem.k, STEP_K, problem.dtype, flavour(problem, persona), aligned=problem.aligned)
    into: dict[str, Value] = {"out": codes, "scales": scales, "num_rows": 0, "num_rows_factor": 1}
    of_token, of_batch = (batch, 1) if problem.tokens_first else (1, problem.n)
    args: dict[str, Value] = {"x": codes, "x_scale": scales, "stride_x_scale_group": 1}
    args |= {"stride_x": of_token * problem.k, "stride_x_batch": of_batch * problem.k}
    args |= {"stride_x_scale": of_token * groups, "stride_x_scale_batch": of_batch * groups}
    return args, quant.rows_within(made, persona, into)


def quantised_bytes(problem: A8w8Problem) -> int:
    """Of the workspace, from its beginning on."""
    if not isinstance(problem, BatchedProblem):
        return 0
    rows, groups = problem.n * problem.batches, -(-problem.k // STEP_K)
    return _lines(rows * problem.k) + _lines(4 * rows * groups)


def _lines(size: int) -> int:
    return -(-size // _LINE) * _LINE
