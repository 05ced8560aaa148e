"""Rotary embeddings on a CPU, emulated on both AMD targets with all sanitizers, and on a GPU: held to float64, in place
and not, with nothing written beside their rows."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from gemm_operands import TARGETS, on  # noqa: E402
from hostsim_launch import simulate  # noqa: E402
from quant_cases import same  # noqa: E402
from rope_cases import POSITIONS, Case, assert_is_rotated, operands_of, run  # noqa: E402

from aiterlite import dispatch, rope  # noqa: E402
from aiterlite.errors import ArgumentError  # noqa: E402
from aiterlite.jit import engine, toolchain  # noqa: E402
from aiterlite.ops import rope_operator as ops  # noqa: E402
from aiterlite.reference import rope as reference  # noqa: E402
from aiterlite.tables import TABLES  # noqa: E402
from aiterlite.tables import rope as tables  # noqa: E402
from aiterlite.tables import rope_plan as plans  # noqa: E402
from aiterlite.target import resolve  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.compile]
where = pytest.mark.parametrize("target", TARGETS)


@pytest.fixture(autouse=True)
def _all_sanitizers(request: pytest.FixtureRequest) -> None:
    callspec = getattr(request.node, "callspec", None)
    if callspec is not None and str(callspec.params.get("target", "")).startswith("gfx"):
        request.getfixturevalue("sanitized")


# DeepSeek-R1's, q and k strided; pairs of halves of the last part of a head, by two dimensions of tokens; tables that
# have a number an element, of float32; odd rows that no vector fits; positions that are places, or sums; and rows that
# a workgroup goes through in several steps.
CASES = [
    Case((9,), pad=128),
    Case((3, 5), (3, 2), 192, 64, style=0, nope_first=True, pad=8, positions=torch.int32),
    Case((4,), (2,), 96, 96, table="fp32", half=False),
    Case((3, 1), (3, 3), 81, 34, "fp16", "fp32", 0, True, False, pad=5, offset=3, with_offsets=True),
    Case((5, 3), (2, 1), 48, 32, "fp16", "fp16", positions=None),
    Case((7,), (2,), 33, 18, pad=1, offset=1, positions=torch.int32, with_offsets=True),
    Case((2,), (1, 1), 10400, 2064, nope_first=True),
]
ON_A_CPU = [
    Case((2, 3), (2, 1), 1040, 1040, style=0, half=False),
    Case((2,), (1, 2), 1040, 700, "fp16", "fp16", half=False),
    Case((300,), (16, 1)),
]


@where
@pytest.mark.parametrize("number", range(len(CASES)))
def test_rows(number: int, target: str) -> None:
    with on(target) as device:
        run(CASES[number], device, number)


@pytest.mark.parametrize("number", range(len(ON_A_CPU)))
def test_rows_on_a_cpu(number: int) -> None:
    run(ON_A_CPU[number], "cpu", number)


@where
def test_bits_are_the_reference_s_where_products_are_exact(target: str) -> None:
    case = Case((11,), (2, 1), style=0)
    given = operands_of(case)
    with on(target) as device:
        found = run(case, device)
    for out, x in zip(found, given.tensors, strict=True):
        assert same(out, reference.rope(x, given.cos, given.sin, given.at, True))


@where
def test_positions_outside_the_table_leave_rows_as_they_are(target: str) -> None:
    """In place, and as new tensors; rows of NaN stay what they are, and nobody else's."""
    case = Case((6,), (2, 1), 96, 64)
    given = operands_of(case)
    x, y = (tensor.clone() for tensor in given.tensors)
    x[3, 0], y[4] = float("nan"), -0.0
    at = given.at.clone()
    at[:4] = torch.tensor([-1, POSITIONS, 1 << 62, -(1 << 62)])
    wanted = [reference.rope(t, given.cos, given.sin, at, False) for t in (x, y)]
    assert all(same(w[:4], t[:4]) for w, t in zip(wanted, (x, y), strict=True))
    with on(target) as device:
        on_device = [t.to(device) for t in (x, y, given.cos, given.sin, at)]
        found = rope.rope_cached_thd_positions_2c_fwd(*on_device, 1, True, False)
        assert all(same(out, w) for out, w in zip(found, wanted, strict=True))
        again = rope.rope_cached_thd_positions_2c_fwd_inplace(*on_device, 1, True, False)
        assert again[0] is on_device[0] and all(same(out, w) for out, w in zip(again, wanted, strict=True))


@where
def test_heads_side_by_side(target: str) -> None:
    """vLLM's form: [tokens, heads * head_size], or in two dimensions of tokens, some columns of a wider tensor."""
    case = Case((2, 4), (3, 1), 96, 64, style=0)
    given = operands_of(case)
    wanted = [reference.rope(t.flatten(0, 1), given.cos, given.sin, given.at, True) for t in given.tensors]
    assert given.positions is not None
    with on(target) as device:
        cos, sin, positions = (t.to(device) for t in (given.cos, given.sin, given.positions))
        for form in ("tokens", "batch", "heads"):
            qkv = torch.cat([t.flatten(2) for t in given.tensors], -1).to(device)
            query, key = qkv.split([3 * 96, 96], -1)
            if form != "batch":
                query, key = query.flatten(0, 1), key.flatten(0, 1)
            if form == "heads":
                query, key = query.unflatten(-1, (3, 96)), key.unflatten(-1, (1, 96))
            at = positions if form == "batch" else positions.flatten()
            if form == "tokens":
                # What offsets add is taken away before.
                shift = torch.arange(8, device=device)
                rope.batched_rotary_embedding(at - shift, query, key, 96, cos, sin, True, False, 64, shift)
            else:
                rope.rotary_embedding_fwd(at, query, key, 96, cos[:, None, None], sin[:, None, None], True, False)
            for tensor, right in zip((query, key), wanted, strict=True):
                assert same(tensor.reshape(right.shape), right), form
        alone = given.tensors[0].flatten(2).to(device)
        rope.rotary_embedding_fwd(positions, alone, None, 96, cos, sin, True, False)
        assert same(alone.view(8, 3, 96), wanted[0])


@where
@pytest.mark.parametrize("shape", [(0, 2, 64), (3, 0, 64), (0, 2, 4, 64)])
def test_nothing_to_rotate(shape: tuple[int, ...], target: str) -> None:
    """An empty tensor, alone and beside one that is not."""
    with on(target) as device:
        x = torch.empty(shape, dtype=torch.bfloat16, device=device)
        y = torch.ones(*shape[:-2], 1, 64, dtype=torch.bfloat16, device=device)
        cos = torch.zeros(POSITIONS, 32, dtype=torch.bfloat16, device=device)
        at = torch.ones(shape[:-2], dtype=torch.int64, device=device)
        assert rope.rope_cached_positions_fwd(x, cos, cos, at, 1, True, False).shape == shape
        found = rope.rope_cached_positions_2c_fwd(x, y, cos, cos, at, 1, True, False)
        assert found[0].shape == shape and not bool(found[1].any())
        rope.rope_cached_positions_2c_fwd_inplace(x, y, cos, cos, at, 1, True, False)
        assert not bool(y.any())
        y.fill_(1)
        rope.rope_cached_positions_2c_fwd_inplace(y, x, cos, cos, at, 1, True, False)
        assert not bool(y.any())


# sm_90 on the host ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "case",
    [
        Case((5,), (3, 1), 96, 64),
        Case((4,), (2, 2), 33, 18, "fp16", "fp32", 0, True, half=False),
    ],
)
def test_sm90_s_path_on_the_host(case: Case, tmp_path: Path) -> None:
    """The kernel as sm_90 compiles it, lane by lane, under the address sanitizer."""
    given = operands_of(case)
    cos, sin = given.cos.contiguous(), given.sin.contiguous()
    fields = {"tokens": case.tokens, "x_heads": case.heads[0], "y_heads": case.heads[1], "head_dim": case.width}
    fields |= {"rot_dim": case.rotated, "dtype": case.dtype, "table_dtype": case.table, "half_table": case.half}
    fields |= {"style": tables.STYLES[case.style], "nope_first": case.nope_first, "in_place": False}
    problem = tables.RopeProblem(**{**tables.ROPE.derive(fields)})
    # The struct's fields take what operands are named for.
    (kernel,) = dispatch.decide(tables.ROPE, problem, resolve("h100")).kernels
    whole, begin = kernel.args, case.width - case.rotated if case.nope_first else 0
    tensors: dict[str, Any] = {}
    for side, x in zip("qk", given.tensors, strict=True):
        nope = x[..., :begin] if case.nope_first else x[..., case.rotated :]
        tensors |= {f"{side}_nope": nope.contiguous(), f"{side}_pe": x[..., begin : begin + case.rotated].contiguous()}
        tensors |= {f"{side}_out": torch.zeros(x.shape, dtype=x.dtype)}
    tensors |= {"cos": cos, "sin": sin, "positions": given.positions}
    sizes: dict[str, Any] = dict.fromkeys(plans.STRIDES, 0)
    for side, heads in zip("qk", case.heads, strict=True):
        for part, width in (("nope", case.width - case.rotated), ("pe", case.rotated), ("out", case.width)):
            sizes |= {f"{side}_{part}_head": width, f"{side}_{part}_token": width * heads}
    sizes |= {"cos_row": cos.shape[1], "sin_row": sin.shape[1], "inner": 1, "table_rows": POSITIONS}
    sizes |= {"cache_slots": 0, "block_size": 1, "rotated": case.tokens, "copied": 0}
    kernel = replace(kernel, args={name: value for name, value in whole.items() if name not in tensors})
    simulate(kernel, tensors, sizes, tmp_path)
    for side, x in zip("qk", given.tensors, strict=True):
        assert_is_rotated(tensors[f"{side}_out"], x, given, case)


# How it is cut --------------------------------------------------------------------------------------------------------

CHIPS = ("mi300x", "mi308x", "mi355x", "h200", "h100")


@pytest.mark.parametrize("chip", CHIPS)
def test_workgroups_have_all_rows_and_waves_of_one_kind(chip: str) -> None:
    persona = resolve(chip)
    for head, rotated in ((64, 64), (192, 64), (576, 64), (33, 18), (4096, 2), (4096, 4096), (16, 2)):
        for tokens in (1, 3, 256, 4096, 1 << 20):
            problem = tables.RopeProblem(tokens, 16, 1, head, rotated, in_place=False)
            plan = dispatch.decide(tables.ROPE, problem, persona).plan
            wave = persona.wave_size
            assert plan.threads <= 1024 and plan.threads % wave == 0 and plan.nope_threads % wave == 0
            assert (plan.nope_threads == 0) == (head == rotated) and plan.threads > plan.nope_threads
            assert plan.q_groups * plan.rows >= 16 * tokens > (plan.q_groups - 1) * plan.rows
            k_groups = plan.grid - plan.q_groups
            assert k_groups * plan.rows >= tokens > (k_groups - 1) * plan.rows
            assert plan.early == (plan.grid * plan.threads <= 1024 * persona.cu_count)


def test_rows_of_vectors_are_told_from_others() -> None:
    """sm_90 faults at a vector that does not begin at a multiple of 16 bytes."""
    whole = torch.zeros(4, 6, 80, dtype=torch.bfloat16)
    assert whole.data_ptr() % 16 == 0 and ops.is_aligned(whole) and ops.is_aligned(whole[:, :, 16:], 8)
    assert ops.is_aligned(whole[:, :1, :8].as_strided((4, 1, 8), (80, 3, 1))), "the stride of one head is none"
    for unlike in (whole[:, :, 4:], whole.view(-1)[:-4].as_strided((4, 2, 64), (84, 64, 1)), whole.view(-1)[1:]):
        assert not ops.is_aligned(unlike if unlike.dim() > 1 else unlike[None])
    assert not ops.is_aligned(whole, 4) and ops.is_aligned(whole.float(), 4)


SPILLS: list[tuple[str, dict[str, Any]]] = [
    ("rope", {"tokens": 4096}),
    ("rope", {"tokens": 4096, "style": "neox", "table_dtype": "fp32", "half_table": False}),
    ("fused_qk_rope_concat_and_cache_mla", {"tokens": 4096}),
    ("fused_qk_rope_cat_and_cache_mla", {"tokens": 4096, "cache_dtype": "e4m3fnuz", "table_dtype": "fp32"}),
]


@pytest.mark.parametrize(
    "chip",
    [
        pytest.param("gfx942", marks=pytest.mark.skipif(toolchain.find("amd") is None, reason="no AMDGPU clang")),
        pytest.param("sm_90a", marks=pytest.mark.nvcc),
    ],
)
def test_nothing_goes_through_scratch(chip: str) -> None:
    for op, given in SPILLS if chip == "sm_90a" else SPILLS[2:]:
        table = TABLES[op]
        for kernel in dispatch.decide(table, table.problem(**table.derive(given)), resolve(chip)).kernels:
            used = engine.obtain(kernel.unit, build=True).entry.meta["resources"][kernel.symbol]
            spilled = ("vgpr_spills", "scratch_bytes", "spill_store_bytes", "spill_load_bytes", "stack_bytes")
            assert used and not any(used.get(name) for name in spilled), f"{kernel}: {used}"


# The public names -----------------------------------------------------------------------------------------------------

_STYLE = "rotate_style, reuse_freqs_front_part, nope_first"
_ROTARY = "positions, query, key, head_size, cos_cache, sin_cache, is_neox, is_nope_first"
_TRANSPOSED = "transpose_output=False"


def _signatures() -> dict[str, str]:
    found = {"rotary_embedding_fwd": _ROTARY}
    found["batched_rotary_embedding"] = f"{_ROTARY}, rot_dim, cos_sin_cache_offsets"
    for middle, index in (("", ""), ("_positions", "positions, "), ("_positions_offsets", "positions, offsets, ")):
        for two, operands in (("", "input"), ("_2c", "input_x, input_y")):
            given = f"{operands}, cos, sin, {index}{_STYLE}"
            found[f"rope_cached{middle}{two}_fwd"] = f"{given}, {_TRANSPOSED}"
            found[f"rope_cached{middle}{two}_fwd_inplace"] = given
        if middle:
            given = f"x, y, cos, sin, {index}{_STYLE}, {_TRANSPOSED}"
            found |= dict.fromkeys(
                (f"rope_cached_thd{middle}_2c_fwd", f"rope_cached_thd{middle}_2c_fwd_inplace"), given
            )
    return found


def test_signatures_are_upstream_s() -> None:
    wanted = _signatures()
    assert set(rope.__all__) == set(wanted)
    for name, parameters in wanted.items():
        shown = [
            f"{p.name}{'' if p.default is p.empty else f'={p.default}'}"
            for p in inspect.signature(getattr(rope, name)).parameters.values()
        ]
        assert ", ".join(shown) == parameters


X, AT = torch.ones(1, 4, 2, 64, dtype=torch.bfloat16), torch.zeros(1, 4, dtype=torch.int64)
COS, SIDE = torch.ones(8, 32, dtype=torch.bfloat16), X[0].flatten(1)


def _call(x: Any = X, cos: Any = COS, sin: Any = COS, at: Any = AT, *how: Any, **more: Any) -> Callable[[], Any]:
    return functools.partial(rope.rope_cached_positions_fwd, x, cos, sin, at, *(how or (1, True, False)), **more)


def _two(x: Any = X, y: Any = X, at: Any = AT) -> Callable[[], Any]:
    return functools.partial(rope.rope_cached_positions_2c_fwd_inplace, x, y, COS, COS, at, 1, True, False)


def _rotary(query: Any = SIDE, key: Any = None, size: int = 64) -> Callable[[], Any]:
    return functools.partial(rope.rotary_embedding_fwd, AT[0], query, key, size, COS, COS, False, False)


REFUSED = {
    "x` is of dtype torch.float32": _call(X.float()),
    r"x` is of shape \[4, 64\]; allowed: \[s, b, heads, D\]": _call(X[0, :, 0]),
    r"x` is of strides \[.*, 2\].*Call .contiguous": _call(torch.ones(1, 4, 2, 128).bfloat16()[..., ::2]),
    "cos` is of dtype torch.float16; allowed: torch.bfloat16, torch.float32": _call(cos=COS.half()),
    "sin` is of dtype torch.float32; allowed: torch.bfloat16, the dtype of cos": _call(sin=COS.float()),
    r"sin` is of shape \[7, 32\]; allowed: \[8, 32\]": _call(sin=COS[1:]),
    r"cos` is of shape \[32\]; allowed: \[positions, F\]": _call(cos=COS[0]),
    r"cos` is of shape \[0, 32\], *|cos` is of shape \[0, 32\]; allowed: at least one": _call(cos=COS[:0], sin=COS[:0]),
    r"cos` is of shape \[8, 64\], for 128 elements; .* at most the 64": _call(
        cos=torch.ones(8, 64).bfloat16(), sin=torch.ones(8, 64).bfloat16()
    ),
    "rotate_style` is 2; allowed: 0, 1": _call(X, COS, COS, AT, 2, True, False),
    r"positions` is of shape \[1, 3\]; allowed: 4 elements, one for each token": _call(at=AT[:, :3]),
    "positions` is of dtype torch.float32; allowed: torch.int64, torch.int32": _call(at=AT.float()),
    r"y` is of shape \[1, 3, 2, 64\]; allowed: \[1, 4, heads, 64\]": _two(y=X[:, :3]),
    r"x` is of strides .*; allowed: elements that do not overlap": _two(X[:, :1].expand(1, 4, 2, 64)),
    r"y` is of strides .*; allowed: elements that do not overlap": _two(
        y=torch.ones(400).bfloat16().as_strided((1, 4, 2, 64), (0, 64, 32, 1))
    ),
    r"query` is of shape \[4, 128\]; allowed: 4 tokens, as positions has, of heads of 96": _rotary(size=96),
    r"key` is of shape \[3, 64\]; allowed: 4 tokens": _rotary(key=X[0, :3, 0]),
    "rot_dim` is 32; allowed: 64": lambda: rope.batched_rotary_embedding(
        AT[0], SIDE, None, 64, COS, COS, False, False, 32, AT[0]
    ),
    r"x` is of shape \[1, 4, 2, 64\]; allowed: \[tokens, heads, D\]": lambda: rope.rope_cached_thd_positions_2c_fwd(
        X, X, COS, COS, AT, 1, True, False
    ),
    "transpose_output` is True; allowed: False for operands of": _call(X[0], COS, COS, AT[0], 1, True, False, True),
    "cos` is None; allowed: a tensor": _call(cos=None),
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_does_not_fit_is_refused_in_words(said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        REFUSED[said]()


def test_operators_are_traced_with_their_writes() -> None:
    assert ops.IN_PLACE.mutates == ("x", "y") and ops.ONE.mutates == ops.TWO.mutates == ()
    with torch.device("meta"):
        x, cos = torch.empty(2, 3, 4, 64, dtype=torch.float16), torch.empty(9, 32, dtype=torch.float16)
        out = rope.rope_cached_fwd(x, cos, cos, 0, True, False, transpose_output=True)
    assert out.is_meta and out.shape == x.shape and out.transpose(0, 1).is_contiguous()


def test_a_compiled_function_has_the_same_bits() -> None:
    given = operands_of(Case((1, 5)))

    def layer(x: Any, y: Any) -> tuple[Any, Any, Any]:
        at = given.positions
        rope.rope_cached_positions_2c_fwd_inplace(x, y, given.cos, given.sin, at, 1, True, False)
        z = rope.rope_cached_positions_fwd(x, given.cos, given.sin, at, 0, True, False)
        return x * 2, y, z

    results = []
    for function in (layer, torch.compile(layer, fullgraph=True, backend="aot_eager")):
        x, y = (tensor.clone() for tensor in given.tensors)
        results.append((*function(x, y), x))
    assert all(same(a, b) for a, b in zip(*results, strict=True))


def test_what_is_written_to_has_no_gradient() -> None:
    x = X.clone().requires_grad_()
    with pytest.raises(NotImplementedError, match="writes to `x`"):
        rope.rope_cached_positions_fwd_inplace(x, COS, COS, AT, 1, True, False)
