"""`gemm_a16wfp4` and `gemm_afp4wfp4` at DeepSeek-R1's projections, beside 16-bit linears and others' MXFP4 kernels
where those can be called.

In one run, graph-timed on a GPU, operands rotated through more than the L2. `floor` only reads the packed weights and
their scales, `dequantised` is the table's other row, `linear` is ours of bf16 weights, `torch` its own; `marlin` is
vLLM's, `triton` triton_kernels'. Prints microseconds and the error over its bound; `--json FILE` writes them. On a CPU
`--device cpu` times ours and `linear`. `--calls` names those that are timed, for a short run.

`--sweep N` measures cuts instead: for each shape the plan's, and of each kind of cut (workgroups that split K,
warpgroups that take turns, folds) the N that its estimate thinks best.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cut_sweep
import torch
from side_by_side import build, contenders_of, imported, microseconds, tried, write
from torch import Tensor

import aiterlite
from aiterlite import dispatch, gemm
from aiterlite.benchmark.floor import read_floor
from aiterlite.benchmark.timing import Contender, copies_for
from aiterlite.ops import gemm_mxfp4 as ops
from aiterlite.ops import gemm_mxfp4_dense
from aiterlite.ops.shuffle import shuffle_scale, shuffle_weight
from aiterlite.reference import gemm_mxfp4 as reference
from aiterlite.reference import mxfp4
from aiterlite.tables import gemm_mxfp4 as tables
from aiterlite.tables import gemm_mxfp4_sm90 as sm90
from aiterlite.tables.gemm_mxfp4_problem import MxGemmProblem
from aiterlite.target import persona_for

DTYPE = torch.bfloat16
SHAPES = ("2112x7168", "7168x2048", "24576x1536", "4096x7168", "7168x16384")
TOKENS = (1, 4, 16, 64)


@dataclass(frozen=True)
class Operands:
    x: Tensor
    w: Tensor
    w_scale: Tensor
    x_codes: Tensor
    x_scale: Tensor
    dense: Tensor | None


Call = Callable[[Operands], Any]


def operands_of(n: int, m: int, k: int, device: torch.device, with_dense: bool = True) -> list[Operands]:
    def made() -> Operands:
        w = torch.randint(0, 256, (m, k // 2), dtype=torch.uint8, device=device)
        w_scale = torch.randint(115, 123, (m, k // 32), dtype=torch.uint8, device=device)
        x = torch.randn(n, k, device=device).to(DTYPE)
        codes, scale = mxfp4.quantise(x)
        dense = mxfp4.dequantise(w, w_scale).to(DTYPE) if with_dense else None
        return Operands(x, w, w_scale, codes, scale, dense)

    count = copies_for(device, m * k * 17 // 32) if device.type == "cuda" else 4
    return [made() for _ in range(min(count, 48))]


def ours(o: Operands) -> Tensor:
    return gemm.gemm_a16wfp4(o.x, o.w, o.w_scale)


def ours_packed(o: Operands) -> Tensor:
    return gemm.gemm_afp4wfp4(o.x_codes, o.w, o.x_scale, o.w_scale)


def of_torch(o: Operands) -> Tensor:
    assert o.dense is not None
    return torch.nn.functional.linear(o.x, o.dense)


def of_linear(o: Operands) -> Tensor:
    assert o.dense is not None
    return aiterlite.linear(o.x, o.dense)


def dequantised() -> Call:
    run = gemm_mxfp4_dense.prepare((1.0, 0.0), (False, False, False), False, torch.device("cuda"))
    made: dict[int, Tensor] = {}

    def call(o: Operands) -> Tensor:
        y = made.setdefault(o.w.data_ptr(), torch.empty(o.x.shape[0], o.w.shape[0], dtype=DTYPE, device=o.x.device))
        run(o.x, o.w, None, y, None, o.w_scale)
        return y

    return call


def shuffled_call(operands: list[Operands]) -> Call:
    """Ours, of shuffled weights and scales, made once."""
    made = {o.w.data_ptr(): (shuffle_weight(o.w), shuffle_scale(o.w_scale)) for o in operands}

    def call(o: Operands) -> Tensor:
        w, scale = made[o.w.data_ptr()]
        result: Tensor = ops.FORWARD(o.x, w, None, scale, None, DTYPE, 1.0, 0.0, True, False, True)
        return result

    return call


def peers(operands: list[Operands]) -> dict[str, Call]:
    """Others' kernels of 16-bit x and MXFP4 weights, on weights in the order that they want."""
    found: dict[str, Call] = {}
    marlin = imported("vllm.model_executor.layers.quantization.utils.marlin_utils_fp4")
    if marlin is not None:
        found["marlin"] = _marlin(marlin, operands)
    kernels = imported("triton_kernels.matmul_ogs")
    if kernels is not None:
        found["triton"] = _triton(kernels, operands)
    return found


def _marlin(marlin: Any, operands: list[Operands]) -> Call:
    made: dict[int, Any] = {}
    for o in operands:
        layer = torch.nn.Module()
        layer.params_dtype = DTYPE
        layer.output_size_per_partition, layer.input_size_per_partition = o.w.shape[0], o.w.shape[1] * 2
        layer.weight = torch.nn.Parameter(o.w, requires_grad=False)
        layer.weight_scale = torch.nn.Parameter(o.w_scale, requires_grad=False)
        marlin.prepare_fp4_layer_for_marlin(layer)
        made[o.w.data_ptr()] = layer

    def call(o: Operands) -> Any:
        layer = made[o.w.data_ptr()]
        sizes = layer.output_size_per_partition, layer.input_size_per_partition
        return marlin.apply_fp4_marlin_linear(
            input=o.x,
            weight=layer.weight,
            weight_scale=layer.weight_scale,
            weight_global_scale=getattr(layer, "weight_global_scale", None),
            workspace=layer.workspace,
            size_n=sizes[0],
            size_k=sizes[1],
        )

    return call


def _triton(kernels: Any, operands: list[Operands]) -> Call:
    from triton_kernels.tensor import FP4, convert_layout, wrap_torch_tensor  # type: ignore[import-not-found]
    from triton_kernels.tensor_details import layout  # type: ignore[import-not-found]

    made: dict[int, Any] = {}
    for o in operands:
        value, options = layout.make_default_matmul_mxfp4_w_layout(mx_axis=0)
        w = convert_layout(wrap_torch_tensor(o.w.t(), dtype=FP4), value, **options)
        lying, options = layout.make_default_matmul_mxfp4_w_scale_layout(mx_axis=0)
        scale = convert_layout(wrap_torch_tensor(o.w_scale.t()), lying, **options)
        made[o.w.data_ptr()] = w, kernels.PrecisionConfig(weight_scale=scale)

    def call(o: Operands) -> Any:
        w, precision = made[o.w.data_ptr()]
        return kernels.matmul_ogs(o.x, w, None, precision_config=precision)

    return call


def of_bound(o: Operands, got: Tensor) -> float:
    exact, magnitude = reference.product(o.x, mxfp4.dequantise(o.w, o.w_scale))
    return float(((got.double() - exact).abs() / reference.error_bound(exact, magnitude, DTYPE)).max())


@functools.cache
def floor_of(m: int, k: int, copies: int, device: torch.device) -> Contender:
    """What only reads as many bytes, its fastest form."""
    size = -(-m * k * 17 // 32 // 16) * 8
    return read_floor([torch.zeros(size, dtype=torch.int16, device=device) for _ in range(copies)])


def build_own(shapes: list[tuple[int, int, int]], device: torch.device, named: tuple[str, ...]) -> None:
    """Kernels of ours, side by side: else each is built when it is first called."""
    persona = persona_for(device.type, device.index or 0)
    kinds = {"ours": ("bf16", False), "shuffled": ("bf16", True), "a4w4": ("fp4", False)}
    problems = [
        MxGemmProblem(n, m, k, x, shuffled=shuffled, w_scale="shuffled" if shuffled else "rows")
        for n, m, k in shapes
        for name, (x, shuffled) in kinds.items()
        if not named or name in named
    ]
    decisions = [dispatch.decide(tables.TABLE, problem, persona) for problem in problems]
    build(list(dict.fromkeys(kernel.unit for decision in decisions for kernel in decision.kernels)))


def measure(n: int, m: int, k: int, device: torch.device, samples: int, named: tuple[str, ...]) -> dict[str, Any]:
    operands = operands_of(n, m, k, device, with_dense=not named or bool({"linear", "torch"} & set(named)))
    own = {"ours": ours, "shuffled": shuffled_call(operands), "a4w4": ours_packed}
    others: dict[str, Call] = {"linear": of_linear, "torch": of_torch}
    if device.type == "cuda":
        others |= {"dequantised": dequantised(), **peers(operands)}
    wanted = {name: call for name, call in {**own, **others}.items() if not named or name in named}

    def trial(name: str, call: Call) -> None:
        for one in operands:
            call(one)

    calls, _ = tried(wanted, trial, own=tuple(own))
    error = of_bound(operands[0], ours(operands[0]))
    if device.type == "cuda":
        contenders = {**contenders_of(calls, operands), "floor": floor_of(m, k, len(operands), device)}
        times = microseconds(contenders, len(operands), device, samples)
    else:
        times = on_cpu(calls, operands, samples)
    decision = dispatch.decide(tables.TABLE, MxGemmProblem(n, m, k), persona_for(device.type, device.index or 0))
    plan = asdict(decision.plan) if decision.plan is not None else None
    return {"n": n, "m": m, "k": k, "microseconds": times, "of_bound": error, "plan": plan, "copies": len(operands)}


def on_cpu(calls: dict[str, Call], operands: list[Operands], samples: int) -> dict[str, float]:
    """Medians of calls that take turns."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(4 * samples):
        for one in operands:
            for name, call in calls.items():
                start = time.perf_counter()
                call(one)
                taken[name].append(time.perf_counter() - start)
    return {name: sorted(times)[len(times) // 2] * 1e6 for name, times in taken.items()}


def show(row: dict[str, Any]) -> None:
    times = row["microseconds"]
    listed = "  ".join(f"{name} {value:.2f}" for name, value in times.items())
    of_floor = f"{times['ours'] / times['floor']:.2f} floors  " if "floor" in times else ""
    cut = {name: value for name, value in row["plan"]["cut"].items() if name != "cols"} if row["plan"] else {}
    head = f"({row['m']}, {row['k']}) {row['n']:>4}  {of_floor}"
    print(f"{head}{listed}  error {row['of_bound']:.2f}  {cut}", flush=True)


# The sweep ------------------------------------------------------------------------------------------------------------


def swept(n: int, m: int, k: int, device: torch.device, samples: int, count: int) -> list[dict[str, Any]]:
    """The plan's choice first; then of each kind the best by the estimate, no two of the same rows."""
    persona = persona_for(device.type, device.index or 0)
    operands = operands_of(n, m, k, device, with_dense=False)
    first = operands[0]

    def prepare() -> Contender:
        run = ops.FORWARD.prepare(first.x, first.w, None, first.w_scale, None, DTYPE, 1.0, 0.0)
        return lambda copy: run(operands[copy].x, operands[copy].w, None, operands[copy].w_scale, None)

    problem = MxGemmProblem(n, m, k)
    trial = cut_sweep.Trial(sm90, problem, persona, device, len(operands), prepare, functools.partial(of_bound, first))
    planned, _, kinds = cut_sweep.ranked(trial, lambda cut: (cut.cluster, cut.turns, cut.fold))
    cuts = [planned]
    for of_kind in kinds:
        rows = list(dict.fromkeys(cut.rows for cut in of_kind))[:count]
        cuts += [next(cut for cut in of_kind if cut.rows == number) for number in rows]
    return cut_sweep.sweep(
        trial,
        list(dict.fromkeys(cuts)),
        lambda cut: f"r{cut.rows} c{cut.cluster} t{cut.turns} f{cut.fold} s{cut.stages}",
        samples,
        {"floor": floor_of(m, k, len(operands), device)},
        lambda row: f"{row['us'] / row['floor']:.2f} floors",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shapes", nargs="+", default=SHAPES, metavar="NxK")
    parser.add_argument("--tokens", nargs="+", type=int, default=TOKENS)
    parser.add_argument("--samples", type=int, default=11)
    parser.add_argument("--calls", nargs="+", default=(), metavar="NAME")
    parser.add_argument("--sweep", type=int, default=0, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    device = torch.device(options.device)
    rows: list[dict[str, Any]] = []
    shapes = [(int(m), int(k)) for m, k in (shape.split("x") for shape in options.shapes)]
    with torch.no_grad():
        if device.type == "cuda" and not options.sweep:
            build_own([(n, m, k) for m, k in shapes for n in options.tokens], device, tuple(options.calls))
        for m, k in shapes:
            for n in options.tokens:
                if options.sweep:
                    rows += swept(n, m, k, device, options.samples, options.sweep)
                else:
                    rows.append(measure(n, m, k, device, options.samples, tuple(options.calls)))
                    show(rows[-1])
    write(options.json, device, rows)


if __name__ == "__main__":
    main()
