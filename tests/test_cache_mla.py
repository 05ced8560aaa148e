"""Latents on their way to a paged cache, on a CPU, emulated on both AMD targets with all sanitizers, and on a GPU: the
reference's bits in the slots that are named, and poison everywhere else."""

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
from quant_cases import Ringed, every_value, same  # noqa: E402
from rope_cases import CacheCase, Latents, check_concat, check_fused, strided  # noqa: E402

from aiterlite import cache, dispatch, rope  # noqa: E402
from aiterlite.errors import ArgumentError  # noqa: E402
from aiterlite.ops import cache_operators as ops  # noqa: E402
from aiterlite.reference import cache as reference  # noqa: E402
from aiterlite.tables import cache as tables  # noqa: E402
from aiterlite.tables import rope_plan as plans  # noqa: E402
from aiterlite.target import resolve  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.compile]
where = pytest.mark.parametrize("target", TARGETS)
FN, FNUZ = torch.float8_e4m3fn, torch.float8_e4m3fnuz


@pytest.fixture(autouse=True)
def _all_sanitizers(request: pytest.FixtureRequest) -> None:
    callspec = getattr(request.node, "callspec", None)
    if callspec is not None and str(callspec.params.get("target", "")).startswith("gfx"):
        request.getfixturevalue("sanitized")


# DeepSeek-R1's, in blocks that are apart; 8 bits, strided rows, blocks of one slot; widths that no vector fits.
CONCATS = [
    CacheCase(9, gap=3),
    CacheCase(9, cache=FN, pad=64, block=1),
    CacheCase(5, lora=37, width=6, cache=FNUZ, dtype="fp16", offset=1, index=torch.int32),
]
# DeepSeek-R1's; codes of q and cache, halves, the rotated part first, q without a slot; heads of k in blocks that are
# apart; widths that no vector fits.
FUSED = [
    CacheCase(7),
    CacheCase(7, cache=FNUZ, q=FNUZ, neox=True, nope_first=False, all_q=True, block=1, pad=64),
    CacheCase(5, 0, kv_heads=3, lora=64, width=32, gap=2, cache=FN, index=torch.int32),
    CacheCase(5, lora=33, width=10, heads=2, dtype="fp16", cache=torch.float16, q=FN, pad=1, offset=3),
]


@where
@pytest.mark.parametrize("number", range(len(CONCATS)))
def test_concat(number: int, target: str) -> None:
    with on(target) as device:
        check_concat(CONCATS[number], device, seed=number)


@where
@pytest.mark.parametrize("number", range(len(FUSED)))
def test_fused(number: int, target: str) -> None:
    with on(target) as device:
        check_fused(FUSED[number], device, number)


@pytest.mark.parametrize("code", [torch.bfloat16, FN, FNUZ])
def test_many_tokens_on_a_cpu(code: torch.dtype) -> None:
    check_concat(CacheCase(300, block=64, cache=code), "cpu")
    check_fused(CacheCase(300, heads=16, block=64, cache=code, q=code), "cpu")


@where
def test_a_cache_of_bytes_has_the_target_s_format(target: str) -> None:
    code = FNUZ if target == "gfx942" else FN
    with on(target) as device:
        check_concat(CacheCase(4, lora=64, cache=code), device, as_bytes=True)


@where
def test_every_number_becomes_the_code_that_the_reference_has(target: str) -> None:
    """All 65,536, by a scale that saturates some; NaN and infinities too. By a scale of one, of zero and of NaN."""
    rows = every_value(torch.bfloat16).view(64, 1024)
    pe = rows[:, :16].contiguous()
    with on(target) as device:
        slots = torch.arange(64, device=device)
        for scale in (0.37, 0.0) if target != "cpu" else (0.37, 1.0, 0.0, float("nan")):
            for code in (FN, FNUZ):
                own = torch.zeros(8, 8, 1040, dtype=code, device=device)
                by = torch.tensor([scale])
                cache.concat_and_cache_mla(rows.to(device), pe.to(device), own, slots, "fp8", by.to(device))
                wanted = reference.scaled(torch.cat((rows, pe), -1), code, by)
                assert same(own.view(64, 1040), wanted), (scale, code)


@where
def test_a_fused_call_has_the_bits_of_its_parts(target: str) -> None:
    """Those of rope, and of the write after it, on the same target; q and k are views of wider rows."""
    case = CacheCase(6, 0, lora=64, cache=FN)
    given = Latents(case)
    with on(target) as device:
        slots, cos, sin = (t.to(device) for t in (given.slots, given.cos, given.sin))
        # A position of none of the table's is another thing there.
        at = given.positions.clamp(0, 63).to(device)
        kv_c, k_pe, scale = given.kv_c[:, 0].to(device), given.k_pe.to(device), given.scales[0].to(device)
        q = torch.cat((given.q_nope, given.q_pe), -1).to(device)
        once, twice = (torch.zeros(given.blocks, case.block, 128, dtype=FN, device=device) for _ in range(2))
        q_nope, q_pe, out = q[..., :64], q[..., 64:], torch.empty_like(q)
        angles = at, cos, sin, False, True, True
        cache.fused_qk_rope_concat_and_cache_mla(
            q_nope, q_pe, kv_c, k_pe[:, 0], once, out, slots, scale, scale, *angles
        )
        # What is read may be what is written.
        own, third = q.clone(), torch.zeros_like(once)
        cache.fused_qk_rope_concat_and_cache_mla(
            own[..., :64], own[..., 64:], kv_c, k_pe[:, 0], third, own, slots, scale, scale, *angles
        )
        rope.rope_cached_thd_positions_2c_fwd_inplace(q_pe, k_pe, cos, sin, at, 1, True, True)
        cache.concat_and_cache_mla(kv_c, k_pe[:, 0].contiguous(), twice, slots, "fp8", scale)
    assert same(once, twice) and same(once, third) and same(out, q) and same(own, q)


def cat(target: str, device: str, **more: Any) -> None:
    """SGLang's form: 7 tokens, 4 of them with a q, in blocks of one slot; a cache of q's type is divided, too."""
    case = CacheCase(6, 1, lora=64, block=1, kv_heads=1, **more)
    given, tokens, count = Latents(case), 4, 2
    given.positions = torch.where(given.positions.abs() < 64, given.positions, 63)
    coded = case.cache.itemsize == 1
    scale = None if not coded and target == "gfx950" else given.scales[0]
    k_pe = given.turned(given.k_pe)
    k_pe[tokens:] = given.k_pe[tokens:]
    q_pe = given.turned(given.q_pe)[:tokens]
    ringed, wanted = given.cache(device)
    reference.write(wanted, given.slots, given.kv_c, k_pe, scale)
    rows = [t.to(device) for t in (given.q_nope[:tokens], given.q_pe[:tokens], given.kv_c, given.k_pe)]
    at = [t.to(device) for t in (given.slots, given.positions, given.cos, given.sin)]
    of_k = None if scale is None else scale.to(device)
    k_pe_out = Ringed.of(tuple(k_pe.shape), k_pe.dtype, device)
    how: dict[str, Any] = {"num_decode_toks_for_zeros": count, "k_pe_out": k_pe_out.inner, "q_out_dtype": case.q}
    found = cache.fused_qk_rope_cat_and_cache_mla(*rows, ringed.inner[:, 0], *at, of_k, case.neox, **how)
    q_out, decode, kept, zeros = found
    assert ringed.ring_is_whole and same(ringed.inner, wanted)
    assert same(q_out, reference.scaled(torch.cat((given.q_nope[:tokens], q_pe), -1), case.q, None))
    assert same(decode, q_pe[:count]) and zeros.shape == (count, case.heads, 64) and not bool(zeros.any())
    written = torch.zeros(len(k_pe), dtype=torch.bool)
    written[: case.tokens] = given.there
    assert kept is k_pe_out.inner and same(kept.cpu()[written], k_pe[written]) and k_pe_out.ring_is_whole
    assert bool(k_pe_out.untouched().cpu()[~written].all())


@where
@pytest.mark.parametrize("code", [torch.bfloat16, FN])
def test_sglang_s_form(code: torch.dtype, target: str) -> None:
    with on(target) as device:
        cat(target, device, cache=code, q=code, neox=code == FN)


@where
def test_nothing_to_write(target: str) -> None:
    """No slots, no rows, or no cache: nothing is touched."""
    with on(target) as device:
        kv_c, k_pe = (torch.ones(3, width, dtype=torch.bfloat16, device=device) for width in (64, 32))
        own = torch.ones(2, 4, 96, dtype=torch.bfloat16, device=device)
        slots, scale = torch.zeros(0, dtype=torch.int64, device=device), torch.ones(1, device=device)
        cache.concat_and_cache_mla(kv_c, k_pe, own, slots, "auto", scale)
        cache.concat_and_cache_mla(kv_c[:0], k_pe[:0], own, slots, "auto", scale)
        cache.concat_and_cache_mla(kv_c, k_pe, own[:0], slots.new_zeros(3), "auto", scale)
        q, out = torch.ones(3, 2, 96, dtype=torch.bfloat16, device=device), own[0, :3, None].clone().expand(3, 1, 96)
        cos = torch.zeros(5, 16, dtype=torch.bfloat16, device=device)
        rest = slots, scale, scale, slots, cos, cos, False, True
        cache.fused_qk_rope_concat_and_cache_mla(q[:, :1, :64], q[:, :1, 64:], kv_c, k_pe, own, out, *rest)
        assert bool((own == 1).all()) and bool((out == 1).all())
        # A q without k, and k without a q.
        at = torch.zeros(3, dtype=torch.int64, device=device)
        latents, pe = kv_c[:, None], k_pe[:, None]
        found = cache.fused_qk_rope_cat_and_cache_mla(
            q[..., :64], q[..., 64:], latents, pe, own.view(8, 1, 96), slots, at, cos, cos, None, False
        )
        assert bool((found[0][..., :64] == 1).all()) and not bool(found[0][..., 64:].any())
        found = cache.fused_qk_rope_cat_and_cache_mla(
            q[:0, :, :64], q[:0, :, 64:], latents, pe * 2, own.view(8, 1, 96), at[:1] + 5, at, cos, cos, None, False
        )
        assert found[0].shape == (0, 2, 96) and own[1, 1].tolist() == [1.0] * 64 + [2.0] * 32


@pytest.mark.parametrize("case", [FUSED[1], replace(FUSED[3], q=torch.float16)])
def test_sm90_s_path_on_the_host(case: CacheCase, tmp_path: Path) -> None:
    """The fused kernel as sm_90 compiles it, lane by lane, under the address sanitizer."""
    given = Latents(replace(case, pad=0, offset=0))
    names = {torch.bfloat16: "bf16", torch.float16: "fp16", FN: "e4m3fn", FNUZ: "e4m3fnuz"}
    fields = {"tokens": case.tokens, "kv_lora_rank": case.lora, "rope_dim": case.width, "dtype": case.dtype}
    fields |= {"cache_dtype": names[case.cache], "q_dtype": names[case.q], "heads": case.heads, "all_q": case.all_q}
    fields |= {"style": "neox" if case.neox else "gptj", "nope_first": case.nope_first}
    table = tables.FUSED_TABLE
    (kernel,) = dispatch.decide(table, table.problem(**table.derive(fields)), resolve("h100")).kernels
    k_pe, q_pe = given.turned(given.k_pe), given.turned(given.q_pe)
    own = torch.zeros(given.blocks, case.block, 1, case.lora + case.width).to(case.cache)
    wanted, coded = own.clone(), case.cache.itemsize == 1
    reference.write(wanted, given.slots, given.kv_c, k_pe, given.scales[0] if coded else None, case.nope_first)
    q_out = torch.zeros(len(given.q_nope), case.heads, case.lora + case.width).to(case.q)
    parts = (given.q_nope, q_pe) if case.nope_first else (q_pe, given.q_nope)
    joined = reference.scaled(torch.cat(parts, -1), case.q, given.scales[1] if case.q.itemsize == 1 else None)
    tensors = {"k_nope": given.kv_c, "k_pe": given.k_pe, "k_out": own, "q_out": q_out, "slots": given.slots}
    tensors |= {"q_nope": given.q_nope.contiguous(), "q_pe": given.q_pe.contiguous(), "positions": given.positions}
    tensors |= {"cos": given.cos.contiguous(), "sin": given.sin.contiguous()}
    tensors |= {"k_scale": given.scales[0]} if coded else {}
    tensors |= {"q_scale": given.scales[1]} if case.q.itemsize == 1 else {}
    sizes: dict[str, Any] = dict.fromkeys(plans.STRIDES, 0)
    for side, heads in (("q", case.heads), ("k", 1)):
        for part, width in (("nope", case.lora), ("pe", case.width), ("out", case.lora + case.width)):
            sizes |= {f"{side}_{part}_head": width, f"{side}_{part}_token": width * heads}
    sizes |= {"cos_row": case.width // 2, "sin_row": case.width // 2, "inner": 1, "table_rows": len(given.cos)}
    sizes |= {"cache_slots": given.blocks * case.block, "block_size": case.block, "rotated": case.tokens, "copied": 0}
    kernel = replace(kernel, args={name: value for name, value in kernel.args.items() if name not in tensors})
    simulate(kernel, tensors, sizes, tmp_path)
    assert same(own, wanted)
    written = given.there | case.all_q
    assert same(q_out[: case.tokens][written], joined[: case.tokens][written])
    assert not bool(q_out[: case.tokens][~written].float().any()) and not bool(q_out[case.tokens :].float().any())


# The public names -----------------------------------------------------------------------------------------------------

SIGNATURES = {
    "concat_and_cache_mla": "kv_c, k_pe, kv_cache, slot_mapping, kv_cache_dtype, scale",
    "fused_qk_rope_concat_and_cache_mla": "q_nope, q_pe, kv_c, k_pe, kv_cache, q_out, slot_mapping, k_scale, q_scale, "
    "positions, cos_cache, sin_cache, is_neox, is_nope_first, compute_all_q_rope=False",
    "fused_qk_rope_cat_and_cache_mla": "q_nope, q_pe, k_nope, k_pe, kv_cache, slot_mapping, pos, cos, sin, k_scale, "
    "is_neox, num_decode_toks_for_zeros=0, apply_scale=True, q_out=None, decode_q_pe_out=None, k_pe_out=None, "
    "q_out_dtype=None, shuffled_kv_cache=False, upcast_operand=False",
}


def test_signatures_are_upstream_s() -> None:
    assert set(cache.__all__) == set(SIGNATURES)
    for name, wanted in SIGNATURES.items():
        parameters = inspect.signature(getattr(cache, name)).parameters.values()
        shown = [f"{p.name}{'' if p.default is p.empty else f'={p.default}'}" for p in parameters]
        assert ", ".join(shown) == wanted


B = torch.bfloat16
KV, PE, OWN = torch.ones(4, 64, dtype=B), torch.ones(4, 32, dtype=B), torch.zeros(2, 4, 96, dtype=B)
SLOTS, ONE, COS, Q = torch.arange(4), torch.ones(1), torch.ones(8, 16, dtype=B), torch.ones(4, 2, 96, dtype=B)


def _concat(
    kv: Any = KV, pe: Any = PE, own: Any = OWN, slots: Any = SLOTS, kind: str = "auto", scale: Any = ONE
) -> Callable[[], None]:
    return functools.partial(cache.concat_and_cache_mla, kv, pe, own, slots, kind, scale)


def _fused(**given: Any) -> Callable[[], None]:
    known = {"q_nope": Q[..., :64], "q_pe": Q[..., 64:], "kv_c": KV, "k_pe": PE, "kv_cache": OWN, "q_out": Q.clone()}
    known |= {"slot_mapping": SLOTS, "k_scale": ONE, "q_scale": ONE, "positions": SLOTS}
    known |= {"cos_cache": COS, "sin_cache": COS, "is_neox": False, "is_nope_first": True}
    return functools.partial(cache.fused_qk_rope_concat_and_cache_mla, **{**known, **given})


def _cat(**given: Any) -> Callable[[], Any]:
    known = {"q_nope": Q[..., :64], "q_pe": Q[..., 64:], "k_nope": KV[:, None], "k_pe": PE[:, None], "pos": SLOTS}
    known |= {"kv_cache": OWN.view(8, 1, 96), "slot_mapping": SLOTS, "cos": COS, "sin": COS, "k_scale": None}
    return functools.partial(cache.fused_qk_rope_cat_and_cache_mla, **{**known, "is_neox": False, **given})


REFUSED = {
    "kv_c` is of dtype torch.float32": _concat(KV.float()),
    "k_pe` is of dtype torch.float16; allowed: torch.bfloat16, the dtype of kv_c": _concat(pe=PE.half()),
    "k_pe` is of shape .*; allowed: the tokens and heads of kv_c": _concat(pe=PE[:3]),
    r"kv_c` is of strides \[1, 4\].*Call .contiguous": _concat(torch.ones(64, 4, dtype=B).T),
    r"kv_cache` is of shape .*; allowed: \[blocks, block, 1, 96\]": _concat(own=OWN[..., :80]),
    "kv_cache` is of dtype torch.float8_e4m3fn; allowed: torch.bfloat16": _concat(own=OWN.to(FN)),
    "kv_cache` is of dtype torch.bfloat16; allowed: torch.float8_e4m3fn, ": _concat(kind="fp8"),
    "kv_cache_dtype` is 'fp8_e5m2'; allowed: auto, fp8, fp8_e4m3": _concat(kind="fp8_e5m2"),
    r"kv_cache` is of strides .*; allowed: elements that do not overlap": _concat(own=OWN[:1].expand(2, 4, 96)),
    "slot_mapping` is of 5 elements; allowed: at most the 4 rows of kv_c": _concat(slots=torch.arange(5)),
    "slot_mapping` is of dtype torch.float32": _concat(slots=SLOTS.float()),
    r"slot_mapping` is of strides \[2\].*Call .contiguous": _concat(slots=torch.arange(8)[::2]),
    "scale` is of dtype torch.float64; allowed: torch.float32": _concat(own=OWN.to(FN), kind="fp8", scale=ONE.double()),
    r"scale` is of shape \[4\]; allowed: one element": _concat(own=OWN.to(FN), kind="fp8", scale=torch.ones(4)),
    "kv_c` is None; allowed: a tensor": _concat(kv=None),
    r"q_nope` is of shape \[3, 2, 64\]; allowed: at least 4 tokens": _fused(
        q_nope=Q[:3, :, :64], q_pe=Q[:3, :, 64:], q_out=Q[:3].clone()
    ),
    r"q_nope` is of shape \[4, 2, 80\]; allowed: \[tokens, heads, 64\], as kv_c has it": _fused(q_nope=Q[..., :80]),
    r"q_out` is of shape \[4, 2, 80\]; allowed: \[4, 2, 96\]": _fused(q_out=Q[..., :80].clone()),
    "q_out` is of dtype torch.float32": _fused(q_out=Q.float()),
    r"positions` is of shape \[3\]; allowed: at least 4 elements": _fused(positions=SLOTS[:3]),
    r"cos_cache` is of shape \[8, 8\]; allowed: 16 or 32 columns, for 32 elements": _fused(
        cos_cache=COS[:, :8], sin_cache=COS[:, :8]
    ),
    r"q_scale` is of shape \[2\]; allowed: one element": _fused(q_scale=torch.ones(2)),
    r"kv_cache` is of shape .*; allowed: \[blocks, block, 2, 96\]": _fused(
        kv_c=KV[:, None].expand(4, 2, 64), k_pe=PE[:, None].expand(4, 2, 32)
    ),
    "shuffled_kv_cache` is True; allowed: False": _cat(shuffled_kv_cache=True),
    r"q_nope` is of shape .*; allowed: at most the 3 tokens of k_nope": _cat(
        k_nope=KV[:3, None], k_pe=PE[:3, None], slot_mapping=SLOTS[:3]
    ),
    "num_decode_toks_for_zeros` is 5; allowed: an integer, 0 to 4": _cat(num_decode_toks_for_zeros=5),
    r"decode_q_pe_out` is of shape .*; allowed: 2 tokens": _cat(
        num_decode_toks_for_zeros=2, decode_q_pe_out=Q[:1, :, 64:].clone()
    ),
    r"k_pe_out` is of strides .*Call .contiguous": _cat(k_pe_out=torch.ones(4, 1, 64, dtype=B)[..., :32]),
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_does_not_fit_is_refused_in_words(said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        REFUSED[said]()


def test_operators_are_traced_with_their_writes() -> None:
    assert ops.CONCAT_AND_CACHE.mutates == ("kv_cache",) and ops.FUSED_CONCAT.mutates == ("kv_cache", "q_out")
    wanted = ("kv_cache", "q_out", "decode_q_pe_out", "k_pe_out", "q_nope_zeros_out")
    assert ops.FUSED_CAT.mutates == wanted


def test_a_compiled_function_has_the_same_bits() -> None:
    generator = torch.Generator().manual_seed(0)
    kv_c, k_pe = (strided((4, width), B, generator, 0, 0) for width in (64, 32))

    def layer(own: Any) -> Any:
        out = _cat(k_nope=kv_c[:, None], k_pe=k_pe[:, None], kv_cache=own.view(8, 1, 96))()[0]
        cache.concat_and_cache_mla(kv_c, k_pe, own, SLOTS + 4, "auto", ONE)
        return out

    results = []
    for function in (layer, torch.compile(layer, fullgraph=True, backend="aot_eager")):
        own = OWN.clone()
        results.append((function(own), own))
    assert all(same(a, b) for a, b in zip(*results, strict=True))
