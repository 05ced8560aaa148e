"""MLA decode in assembly, emulated with all sanitizers: against float64, whatever the pieces; what must not be read;
scores that grow; and what it spends."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from gemm_operands import AMD, on  # noqa: E402
from mla_cases import STAMP, Batch, assert_nothing_leaks, assert_right, batch, plan, run  # noqa: E402

from aiterlite.emulator import Schedule, watching  # noqa: E402
from aiterlite.errors import BuildError  # noqa: E402
from aiterlite.jit import engine, toolchain  # noqa: E402
from aiterlite.reference import mla as reference  # noqa: E402
from aiterlite.tables import mla_accuracy, mla_asm  # noqa: E402
from aiterlite.tables.asm import AsmVariant  # noqa: E402
from aiterlite.target import resolve  # noqa: E402

pytestmark = [
    pytest.mark.compile,
    pytest.mark.emulated,
    pytest.mark.skipif(toolchain.find("amd") is None, reason=toolchain.how_to_get("amd")),
]
FP8 = {"gfx942": torch.float8_e4m3fnuz, "gfx950": torch.float8_e4m3fn}
NAMES = {"gfx942": "e4m3fnuz", "gfx950": "e4m3fn"}
# 8 bits as the table has them, with weights of two numbers, and as they are where assembly is asked for: one number, if
# a piece has at most 16 rows of q.
KINDS = ("bf16", "fp8", "fp8_one")

each_target = pytest.mark.parametrize("target", AMD)
each_kind = pytest.mark.parametrize("kind", KINDS)

# heads, rows of each request, tokens of each, page size, options: splits, or the fold and tile of a plan. Pieces of
# fewer tokens than waves have, tiles that are not whole, requests without tokens, rows that see fewer than others.
CASES: list[tuple[int, list[int], list[int], int, dict[str, Any]]] = [
    (16, [1, 1, 1], [16, 0, 203], 1, {"splits": 1}),
    (24, [3, 1], [140, 5], 64, {"splits": 1}),
    (16, [1, 2, 1], [50, 0, 7], 1, {"splits": 3}),
    (16, [1, 1, 1], [150, 3, 340], 16, {"tile": 1}),
    (8, [2, 1], [70, 1], 64, {"splits": 2, "causal": False}),
    (24, [1, 3], [33, 9], 16, {"tile": 2}),
    (64, [1, 1], [135, 20], 64, {"fold": 4}),
    (64, [2, 2], [66, 5], 1, {"fold": 4, "tile": 1}),
    (64, [1, 1], [40, 20], 1, {"fold": 1}),
]


def types(kind: str, target: str) -> tuple[str, str]:
    """Of q and KV."""
    name = "bf16" if kind == "bf16" else NAMES[target]
    return name, name


def asked(kind: str) -> dict[str, str | None]:
    return {"AITERLITE_PREFER": None if kind == "fp8" else "asm"}


def options(case: Batch, heads: int, given: dict[str, Any]) -> dict[str, Any]:
    causal = {"causal": given.get("causal", True)}
    if "splits" in given:
        return {"num_kv_splits": given["splits"], **causal}
    return {**plan(case, heads, given.get("fold", 1), workgroups=3, tile=given.get("tile", 8), seed=1), **causal}


def rounded(case: Batch, causal: bool = True) -> torch.Tensor:
    """What weights of 8 bits give: rounded relative to a power of two that the row's largest is between 4 and 8 of, and
    divided by their own sum."""
    dtype, (rows, heads, _) = case.q.dtype, case.q.shape
    scale = 576**-0.5 * float(case.q_scale) * float(case.kv_scale)
    out = torch.zeros(rows, heads, 512, dtype=torch.float64)
    for b, count in enumerate(case.counts):
        first, last = case.kv_indptr[b : b + 2].tolist()
        kv = reference.paged_rows(case.kv_buffer, case.kv_indices[first:last], int(case.kv_last_page_lens[b])).double()
        for i in range(count):
            seen = kv[: max(0, len(kv) - count + 1 + i)] if causal else kv
            if not len(seen):
                continue
            row = int(case.qo_indptr[b]) + i
            scores = case.q[row].double() @ seen.T * scale * math.log2(math.e)
            weights = (scores - scores.amax(-1, keepdim=True).ceil() + 3).exp2().float().to(dtype).double()
            out[row] = weights @ seen[:, :512] / weights.sum(-1, keepdim=True) * float(case.kv_scale)
    return out


def apart(o: torch.Tensor, exact: torch.Tensor) -> float:
    """The largest relative error of a row of q's heads together."""
    error = (o.double() - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)
    return float(error.nan_to_num(0.0).max())


def assert_in_class(
    got: tuple[torch.Tensor, torch.Tensor], case: Batch, one: bool, causal: bool = True, whole: bool = False
) -> None:
    """`one`: weights of 8 bits have one number. `whole`: no request was cut. Parts are weighed by their exact log-sums,
    so that the reference is of one piece."""
    exact = case.exact(causal)
    if not one:
        assert_right(got, exact)
        return
    assert apart(got[0], exact.out) <= mla_accuracy.EIGHT_BIT_WEIGHTS
    if whole:
        assert apart(got[0], rounded(case, causal)) <= mla_accuracy.RELATIVE_ERROR[16]
    torch.testing.assert_close(got[1].double(), exact.lse, rtol=1e-5, atol=2e-4)


@pytest.fixture
def asm_alone(sanitized: Any) -> Iterator[Any]:
    """That decode was launched in assembly, and nothing else but a merge; no sanitizer finds anything."""
    yield sanitized
    names = {launch["kernel"] for launch in sanitized.launches}
    decode = names - {"aiterlite_mla_reduce"}
    assert decode and all(name.startswith(("aiterlite_mla_decode_bf16", "aiterlite_mla_decode_fp8")) for name in decode)


@each_target
@each_kind
@pytest.mark.parametrize(("heads", "counts", "lengths", "page_size", "given"), CASES)
def test_decode(
    heads: int,
    counts: list[int],
    lengths: list[int],
    page_size: int,
    given: dict[str, Any],
    kind: str,
    target: str,
    asm_alone: Any,
) -> None:
    case = batch(lengths, counts, heads, types=types(kind, target), page_size=page_size, seed=heads)
    with on(target, **asked(kind)):
        got = run(case, **options(case, heads, given))
    tiles = max(counts) * -(-heads // given.get("fold", 1) // 16)
    assert_in_class(got, case, kind == "fp8_one" and tiles == 1, given.get("causal", True), given.get("splits") == 1)


@each_target
@each_kind
def test_what_must_not_be_read_changes_no_bit(kind: str, target: str, asm_alone: Any) -> None:
    with on(target, **asked(kind)) as device:
        assert_nothing_leaks(device, types(kind, target))
        if kind == "fp8":
            assert_nothing_leaks(device, types(kind, target), heads=48)


@each_target
@each_kind
def test_rows_of_a_plan_that_do_not_fit_are_no_work(kind: str, target: str, asm_alone: Any) -> None:
    """Each has one word that does not fit, and would write where another row's result lies, or past a buffer."""
    case = batch([50, 33], [1, 1], 16, types=types(kind, target), seed=10)
    given = plan(case, 16, workgroups=2, seed=2)
    parts, fits = given["reduce_partial_map"].numel(), given["work_info_set"][0].tolist()
    words = [(0, -1), (0, 2), (0, 1 << 30), (1, parts), (1, 1 << 30), (2, -1), (2, 1), (3, 0), (3, 9), (7, STAMP | 3)]
    broken = torch.tensor([[value if at == word else fits[at] for at in range(8)] for word, value in words])
    broken[:, 1] = torch.where(broken[:, 1] == fits[1], -1, broken[:, 1])
    rows, last = given["work_info_set"], int(given["work_indptr"][-1])
    more = {"work_info_set": torch.cat([rows[:last], broken.int()]), "work_indptr": given["work_indptr"].clone()}
    more["work_indptr"][-1] += len(words)
    far = {**more, "work_indptr": more["work_indptr"].clone()}
    far["work_indptr"][-1] += 100  # rows behind the buffer
    with on(target, **asked(kind)):
        clean = run(case, **given)
        for other in (more, far):
            assert all(torch.equal(a, b) for a, b in zip(run(case, **{**given, **other}), clean, strict=True))


@each_target
@each_kind
def test_scores_that_grow(kind: str, target: str, asm_alone: Any) -> None:
    """Each tile's scores lie far above those before, then far below; some heads', others' not."""
    case = batch([400], [1], 16, types=types(kind, target), seed=5)
    case.q[:, ::2, 1:] = (case.q[:, ::2, 1:].float() * 0.25).to(case.q.dtype)
    case.q[:, ::2, 0] = 8.0
    rise = torch.cat([torch.linspace(-240, 240, 300), torch.linspace(240, -100, 100)])
    case.kv_buffer[case.kv_indices[:400].long(), 0, 0, 0] = rise.to(case.kv_buffer.dtype)
    case.q_scale = None if kind == "bf16" else torch.tensor([4.0])
    with on(target, **asked(kind)):
        got = run(case, num_kv_splits=1)
    exact = case.exact()
    assert float(exact.lse.max()) > 50
    assert_in_class(got, case, kind == "fp8_one", whole=True)


@each_target
def test_outliers_stay_in_the_class(target: str, asm_alone: Any) -> None:
    """Dimensions of rope to 1e3, rows of q to 1e4."""
    case = batch([90, 33], [1, 1], 16, seed=6)
    case.kv_buffer[..., 512:516] *= 1000
    case.q[:, 3] *= 1e4
    with on(target):
        o, _ = run(case, num_kv_splits=1)
    assert bool(o.isfinite().all()) and apart(o, case.exact().out) <= mla_accuracy.RELATIVE_ERROR[16]


@each_kind
def test_a_nan_of_a_token_is_its_readers(kind: str, asm_alone: Any) -> None:
    """In a visible token; nothing of it shows in other requests."""
    case = batch([70, 40], [1, 1], 16, types=types(kind, "gfx942"), seed=7)
    with on("gfx942", **asked(kind)):
        clean = run(case, num_kv_splits=1)
        case.kv_buffer[int(case.kv_indices[65]), 0, 0, 530] = math.nan
        o, lse = run(case, num_kv_splits=1)
    assert bool(o[0].isnan().all() and lse[0].isnan().all())
    assert torch.equal(o[1], clean[0][1]) and torch.equal(lse[1], clean[1][1])


@each_target
@each_kind
def test_schedules_leave_the_same_bits(kind: str, target: str) -> None:
    case = batch([150, 90], [1, 1], 16, types=types(kind, target), seed=8)
    if kind == "fp8":
        case = batch([150, 90], [1, 1], 64, types=types(kind, target), seed=8)
    given, results = plan(case, case.q.shape[1], workgroups=2, seed=4), []
    for schedule in (None, Schedule(quantum=1), Schedule(quantum=1 << 20, seed=3)):
        with on(target, **asked(kind)), watching(sanitize=False, schedule=schedule):
            results.append(run(case, **given))
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


@each_target
@each_kind
def test_kv_is_read_once(kind: str, target: str) -> None:
    """A row that is there, by one workgroup, whole; of tokens that are not there nothing."""
    heads = 64 if kind == "fp8" else 16
    case = batch([130, 37], [1, 1], heads, types=types(kind, target), page_size=16, seed=9)
    case.kv_indices[1] = -1
    with on(target, **asked(kind)), watching(sanitize=False, counters=True) as seen:
        run(case, num_kv_splits=2)
    (counted,) = [item for item in seen.counters if "decode" in item["kernel"]]
    read = counted["arguments"]["kv_buffer"]
    assert read["read"] == read["unique_read"] == (130 + 37 - 16) * 576 * case.kv_buffer.itemsize
    # The weights that gfx950's waves share are in the way of each other a little.
    assert counted["lds"]["conflict_cycles"] <= (0.1 * counted["lds"]["cycles"] if "shared" in counted["kernel"] else 0)


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"KV": 4}, "AITERLITE_KV must be"),
        ({"PARTS": 1}, "AITERLITE_PARTS must be"),
        ({"PARTS": 3, "KV": 1}, "AITERLITE_PARTS must be"),
        ({"PLANNED": 2}, "AITERLITE_PLANNED must be"),
    ],
)
@pytest.mark.parametrize(("name", "target"), [("bf16", "gfx942"), ("bf16_shared", "gfx950")])
def test_other_knob_values_do_not_assemble(name: str, target: str, knobs: dict[str, int], said: str) -> None:
    given = {"KV": 2, "PARTS": 2, "PLANNED": 0, **knobs}
    variant = AsmVariant(tuple((f"AITERLITE_{knob}", str(value)) for knob, value in given.items()), (16, 512), 4, 1, 1)
    with pytest.raises(BuildError, match=said):
        engine.obtain(mla_asm.KERNEL_OF[name].device_unit(variant, target))


def test_gfx942_has_no_transposing_reads() -> None:
    with pytest.raises(BuildError, match="gfx942 has no LDS reads that transpose"):
        engine.obtain(
            mla_asm.KERNEL_OF["fp8_shared"].device_unit(mla_asm.KERNEL_OF["fp8_shared"].variants("")[0], "gfx942")
        )


@each_target
def test_who_goes_first(target: str) -> None:
    """bf16 of 16 rows of q a piece, and 8 bits; weights of one number where assembly is asked for."""
    from aiterlite.dispatch import Wishes, decide
    from aiterlite.tables import mla

    persona, fp8 = resolve(target), {"q_dtype": NAMES[target]}
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({"heads": 16}, "decode_asm_bf16", "decode_asm_bf16"),
        ({"heads": 8, "splits": 4}, "decode_asm_bf16", "decode_asm_bf16"),
        ({"heads": 16, "q_len": 2}, "mfma", "decode_asm_bf16_tiles"),
        ({"heads": 32, "splits": 4}, "mfma", "decode_asm_bf16_tiles"),
        ({"heads": 16, "page_size": 24}, "mfma", "mfma"),
        ({"heads": 16, "q_dtype": "fp16"}, "mfma", "mfma"),
        ({"heads": 16, "kv_dtype": NAMES[target]}, "mfma", "mfma"),
        ({"heads": 16, **fp8}, "decode_asm_fp8", "decode_asm_fp8_one"),
        ({"heads": 64, **fp8}, "decode_asm_fp8", "decode_asm_fp8"),
        ({"heads": 8, "q_len": 2, **fp8}, "decode_asm_fp8", "decode_asm_fp8"),
    ]
    for given, first, asked in cases:
        problem = mla.MlaProblem(**mla.derive({"batch": 4, "context": 1024, **given}))
        found = [decide(mla.DECODE, problem, persona, Wishes(prefer=prefer)).row for prefer in (None, "asm")]
        assert [row.name for row in found if row is not None] == [first, asked], given
    problem = mla.MlaProblem(**mla.derive({"batch": 4, "heads": 16, "context": 1024, **fp8}))
    row = decide(mla.DECODE, problem, persona, Wishes(prefer="asm")).row
    assert row is not None and row.accuracy is not None
    said = "class of a 8-bit q: relative error at most 0.03; weights rounded to e4m3, as their sum is"
    assert str(row.accuracy(problem)) == said
