"""The CPU's kernel of the fused mixture of experts, `csrc/fused_moe/cpu.cpp`, through its C interface: against float64,
at each CPU level that runs here."""

from __future__ import annotations

import dataclasses
import itertools
import math
import pickle
import re
import subprocess
import sys
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import fused_moe_cpu_cases as cases  # noqa: E402
import guarded_moe  # noqa: E402
from fused_moe_cpu_cases import CODES, DTYPES, Case, make, run  # noqa: E402
from guarded_gemm import Pool  # noqa: E402
from test_gemm_cpu_unit import HOST, RUNNABLE  # noqa: E402
from torch import Tensor  # noqa: E402

from aiterlite.jit import engine  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.compile, pytest.mark.usefixtures("one_thread")]
# A vector of each length: x86-64-v2 has those of x86-64. With AVX-512 fp16 runs what CPUs without AVX512_BF16 do.
LEVELS = [target for target in RUNNABLE if target in (HOST, "cpu-x86-64", "cpu-x86-64-v3")]
levels = pytest.mark.parametrize("target", LEVELS)
fp8 = pytest.mark.parametrize("code", ["e4m3fn", "e4m3fnuz"])


def right(target: str, case: Case, threads: int = 1) -> Tensor:
    got = run(target, case, threads)
    assert cases.off(case, got) <= 1
    return got


def same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.contiguous().view(torch.int16), b.contiguous().view(torch.int16))


# What is computed -----------------------------------------------------------------------------------------------------


@levels
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("code", "quant", "quantised"),
    [
        ("none", "none", False),
        *itertools.product(("e4m3fn", "e4m3fnuz"), ("token", "block"), (False, True)),
    ],
)
def test_every_kind_of_weight(target: str, dtype: str, code: str, quant: str, quantised: bool) -> None:
    """Plain and shuffled weights give the same bits. 9 tokens of 3 slots by 5 experts: tiles of 1 to 4 tokens and
    strips that are decoded first."""
    case = make(9, 5, 3, 384, 256, dtype=dtype, code=code, quant=quant, quantised=quantised, pad=1, out_pad=5)
    assert same(right(target, case), run(target, dataclasses.replace(case, shuffled=True)))


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("weighted_input", [False, True])
@pytest.mark.parametrize("activation", cases.ACTIVATIONS)
def test_activations_and_where_the_routing_weight_goes(
    activation: str, weighted_input: bool, interleaved: bool
) -> None:
    given: dict[str, Any] = {"activation": activation, "weighted_input": weighted_input, "interleaved": interleaved}
    right(HOST, make(5, 4, 2, 256, 128, **given))
    if activation == "swiglu":
        right(HOST, make(5, 4, 2, 256, 128, limit=0.7, beta=1.0, linear_beta=0.25, **given))


@levels
def test_an_activation_of_any_gate(target: str) -> None:
    """silu from -inf to inf as float64 has it, where exp2 would leave its range too: gates through one element of x."""
    gates = [-math.inf, -3e4, -200.0, -88.5, -87.0, -1.0, -0.0, 0.0, 1e-3, 87.0, 90.0, 3e4, math.inf, math.nan]
    case = make(len(gates), 1, 1, 128, 16, code="none", quant="none", dtype="bf16")
    case.x.zero_()[:, 0] = torch.tensor(gates)
    case.x[:, 1] = 1.0
    case.w1.zero_()[:, :16, 0] = 1.0
    case.w1[:, 16:, 1] = 1.0
    case.weights.fill_(1.0)
    got = run(target, case)
    wanted, *_ = cases.exact(case)
    torch.testing.assert_close(got.double(), wanted, rtol=2e-2, atol=1e-36, equal_nan=True)
    # An infinite x meets weights of zero too. Here -inf is a scale's: silu of it is NaN.
    one = make(1, 1, 1, 128, 16, quant="token")
    assert one.w1_scale is not None
    one.x.fill_(1.0), one.w1[0, 0].fill_(-1.0)
    one.w1_scale[0, 0] = math.inf
    assert bool(run(target, one).isnan().all())


@levels
@pytest.mark.parametrize(("width", "inter"), [(8, 8), (72, 24), (200, 40), (328, 130), (1, 1)])
@pytest.mark.parametrize("code", CODES)
def test_sizes_that_no_group_divides(target: str, code: str, width: int, inter: int) -> None:
    for interleaved in (False, True):
        quant = "none" if code == "none" else "token"
        right(target, make(6, 3, 2, width, inter, code=code, quant=quant, interleaved=interleaved, pad=3))


@pytest.mark.parametrize("code", CODES)
def test_shuffled_weights_that_no_group_divides(code: str) -> None:
    """Rows are multiples of 16, K of 32; gate and up of 48 rows each share no panel."""
    case = make(6, 3, 2, 96, 96, code=code, quant="none" if code == "none" else "token")
    assert same(right(HOST, case), run(HOST, dataclasses.replace(case, shuffled=True)))


@pytest.mark.parametrize("tokens", [33, 70, 530])
def test_many_tokens_of_one_expert(tokens: int) -> None:
    """More than a panel holds, and more than a chunk."""
    case = make(tokens, 4, 2, 128, 32, code="none", quant="none")
    case.ids[:] = torch.tensor([2, 0], dtype=torch.int32)
    case.ids[::7, 1] = 3
    right(HOST, case, 2)


# Which pairs count ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [torch.int32, torch.int64], ids=str)
def test_ids_that_name_no_expert_add_nothing(words: torch.dtype) -> None:
    case = make(6, 4, 3, 128, 128, pad=2)
    ids = case.ids.to(words)
    ids[0] = -1
    ids[1] = torch.tensor([4, 2, -(2**31)], dtype=words)
    ids[2] = torch.tensor([3, 3, 3], dtype=words)
    ids[3, 1] = 2**31 - 1 if words == torch.int32 else 2**32
    case = dataclasses.replace(case, ids=ids)
    got = right(HOST, case)
    assert not bool(got[0].any())


def test_masks_number_the_experts_that_are_here() -> None:
    """Of 9 experts those of ids 1, 4, 5, 8 are here; a mask that names more than there are weights of adds nothing."""
    case = make(7, 4, 3, 128, 128)
    g = torch.Generator().manual_seed(1)
    mask = torch.tensor([0, 1, 0, 0, 1, 1, 0, 0, 1])
    ids = torch.rand(7, 9, generator=g).argsort(1)[:, :3].int()
    ids[0] = torch.tensor([9, -1, 0])
    case = dataclasses.replace(case, ids=ids, mask=mask)
    got = right(HOST, case)
    assert not bool(got[0].any()) and bool(got[1:].any())
    more = dataclasses.replace(case, mask=torch.tensor([0, 1, 0, 0, 1, 1, 0, 0, 1, 1]))
    more.ids[0] = 9
    assert same(got, run(HOST, more))


@pytest.mark.parametrize("live", [-3, 0, 1, 5, 6, 99])
def test_tokens_that_do_not_live_become_zero(live: int) -> None:
    """Their ids, weights and x may be anything."""
    case = make(6, 4, 2, 128, 128)
    at = max(0, live)
    case.x[at:] = math.nan
    case.weights[at:] = math.nan
    case = dataclasses.replace(case, live=live)
    got = right(HOST, case)
    assert not bool(got[at:].any())


@pytest.mark.parametrize("block", [1, 4, 32])
def test_sorted_pairs(block: int) -> None:
    """The bits of the same pairs unsorted; tokens that have none become zero."""
    case = make(21, 5, 3, 256, 128)
    case.ids[4] = -1
    case.ids[7, 1] = 77
    wanted = right(HOST, case)
    assert same(wanted, run(HOST, dataclasses.replace(case, sorted_block=block)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_go_onto_what_is_there(dtype: str) -> None:
    """Rounded once. A token without pairs keeps its row, whatever it holds."""
    case = make(11, 4, 2, 128, 128, dtype=dtype, quantised=True, sorted_block=8)
    added = torch.randn(11, 128, generator=torch.Generator().manual_seed(3)).to(DTYPES[dtype])
    case.ids[5] = -1
    case = dataclasses.replace(case, added=added)
    right(HOST, case)
    added[5] = -0.0
    got = run(HOST, case)
    assert same(got[5], added[5]) and bool(got.any())


# Bits -----------------------------------------------------------------------------------------------------------------


@levels
@pytest.mark.parametrize("code", CODES)
def test_bits_do_not_depend_on_threads_nor_on_other_tokens(target: str, code: str) -> None:
    case = make(40, 3, 2, 640, 256, code=code, quant="none" if code == "none" else "block")
    ones = run(target, case, 1)
    assert same(ones, run(target, case, 2)) and same(ones, run(target, case, 3))
    for first, last in ((0, 1), (3, 5), (7, 10), (11, 15), (16, 33)):
        part = dataclasses.replace(
            case, x=case.x[first:last], ids=case.ids[first:last], weights=case.weights[first:last]
        )
        assert same(ones[first:last], run(target, part, 2))


def of_codes(code: str) -> Case:
    """One token, one expert, h of one element that is 8 (gelu of 8 is), w2's column 0 all codes in turn."""
    case = make(1, 1, 1, 256, 128, code=code, activation="gelu")
    assert case.w1_scale is not None and case.w2_scale is not None
    case.w1_scale.fill_(1.0), case.w2_scale.fill_(1.0)
    case.x.zero_()[0, 5] = 1.0
    case.w1.view(torch.uint8).zero_(), case.w2.view(torch.uint8).zero_()
    case.w1[0, 0, 5], case.w1[0, 128, 5] = 8.0, 1.0
    case.weights.fill_(1.0)
    return case


@levels
@fp8
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_code_of_w2_is_its_number(target: str, code: str, dtype: str) -> None:
    codes = torch.arange(256, dtype=torch.int32).to(torch.uint8)
    case = of_codes(code)
    case.w2.view(torch.uint8)[0, :, 0] = codes
    if dtype == "fp16":
        case = dataclasses.replace(case, dtype=dtype, x=case.x.half())
    wanted = codes.view(CODES[code]).float() * 8
    # More tokens take strips that are decoded first.
    for tokens in (1, 9):
        some = {"x": case.x, "ids": case.ids, "weights": case.weights}
        many = dataclasses.replace(case, **{name: t.expand(tokens, -1).clone() for name, t in some.items()})
        for got in run(target, many).float():
            assert torch.equal(got.isnan(), wanted.isnan()) and int(got.isnan().sum()) == (2 if code == "e4m3fn" else 1)
            assert torch.equal(got.nan_to_num(), wanted.nan_to_num())


@levels
@fp8
@pytest.mark.parametrize("of_x", [False, True])
def test_every_code_of_w1_and_of_x_is_its_number(target: str, code: str, of_x: bool) -> None:
    """Up is 1 and the gate, by swiglu with beta 0 half of it, each code of w1 or of x in turn; but for NaN."""
    values = torch.arange(256, dtype=torch.int32).to(torch.uint8).view(CODES[code]).float()
    case = make(1, 1, 1, 256, 256, code=code, activation="swiglu", beta=0.0, linear_beta=1.0, quantised=True)
    assert case.w1_scale is not None and case.w2_scale is not None and case.x_scale is not None
    for scale in (case.w1_scale, case.w2_scale, case.x_scale):
        scale.fill_(1.0)
    for t in (case.x, case.w1, case.w2):
        t.view(torch.uint8).zero_()
    case.weights.fill_(1.0)
    # w2 is one at (i, i): out is h, for up = 0 half of the gate.
    case.w2[0] = torch.eye(256).to(CODES[code])
    numbers = values.nan_to_num(0.0)
    if of_x:
        case = dataclasses.replace(
            case,
            x=torch.zeros(256, 256).to(CODES[code]),
            ids=case.ids.expand(256, 1),
            weights=case.weights.expand(256, 1),
            x_scale=case.x_scale.expand(256, 2),
        )
        place = torch.arange(256) * 77 % 256
        case.x[torch.arange(256), place] = numbers.to(CODES[code])
        case.w1[0, 0] = 1.0
        assert torch.equal(run(target, case)[:, 0].float(), numbers / 2)
    else:
        case.x[0, 200] = 1.0
        case.w1[0, :256, 200] = numbers.to(CODES[code])
        assert torch.equal(run(target, case)[0].float(), numbers / 2)


@levels
@fp8
def test_nan_stays_where_it_is_read(target: str, code: str) -> None:
    """A NaN of w2 is one of its column for the tokens of its expert; one of w1 or of a scale is one of all of these
    tokens; one of an expert that nobody chose, or of a token that has no pair, is none."""
    case = make(13, 4, 2, 256, 128, code=code)
    case.ids[:, 0], case.ids[:, 1] = 0, torch.arange(13) % 2 + 1
    case.ids[6] = -1
    case.x[6] = math.nan
    nan = 0x7F if code == "e4m3fn" else 0x80
    case.w1.view(torch.uint8)[3], case.w2.view(torch.uint8)[3] = nan, nan
    right(target, case)
    case.w2.view(torch.uint8)[1, 5, 100] = nan
    odd = torch.zeros(13, 256, dtype=torch.bool)
    of_one = case.ids[:, 1] == 1
    odd[of_one, 5] = True
    got = run(target, case)
    assert torch.equal(got.isnan(), odd)
    case.w1.view(torch.uint8)[1, 200, 77] = nan
    odd[of_one] = True
    assert torch.equal(run(target, case).isnan(), odd)


# Memory ---------------------------------------------------------------------------------------------------------------


def memory(t: Tensor) -> bytes:
    length = sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True)) + 1
    return bytes(torch.as_strided(t, (length,), (1,)).clone().view(torch.uint8).numpy().tobytes())


def guarded(case: Case, **more: Any) -> guarded_moe.Call:
    layout = cases.ARGS.layout()
    given = {name: memory(t) for name, t in cases.operands(case).items() if t is not None}
    if case.sorted_block:
        # What the cases put behind the ends is not there.
        entries = int.from_bytes(given["num_valid_ids"][:4], "little")
        for name in ("sorted_ids", "sorted_weights"):
            given[name] = given[name][: 4 * entries]
        given["sorted_expert_ids"] = given["sorted_expert_ids"][: 4 * entries // case.sorted_block]
    out = b"\xc1\x7f" * ((len(case.x) - 1) * (case.width + case.out_pad) + case.width)
    fields = tuple(field.name for field in layout.packed)
    return guarded_moe.Call(cases.symbol(case), layout.packer.format, fields, cases.numbers(case), given, out, **more)


def run_guarded(target: str, calls: list[guarded_moe.Call]) -> list[tuple[int, bytes]]:
    library = engine.obtain(cases.host_unit(target)).entry.path
    words = [sys.executable, guarded_moe.__file__]
    done = subprocess.run(words, input=pickle.dumps((str(library), calls)), capture_output=True, timeout=120)
    errors = done.stderr.decode(errors="replace")
    if done.returncode != 0:
        at = re.findall(r"^(\d+) (\w+)$", errors, re.MULTILINE)
        where = f"call {at[-1][0]}, inaccessible page {at[-1][1]}" if at else "before the first call"
        pytest.fail(f"the child ended with {done.returncode} in {where}\n{errors[-2000:]}")
    results: list[tuple[int, bytes]] = pickle.loads(done.stdout)
    assert results[::2] == results[1::2], "a result depends on the operands' addresses"
    return results[::2]


@levels
def test_nothing_is_touched_outside_operands(target: str) -> None:
    """Every operand ends, or begins, where the next page is inaccessible. Threads of their own, tasks in any order."""
    of_pool: dict[str, Any] = {"pool": Pool(3, reverse=True, threads=True), "threads": 3}
    every = []
    for code in CODES:
        quant = "none" if code == "none" else "token"
        for dtype in DTYPES:
            every.append(make(6, 3, 2, 200, 40, code=code, quant=quant, dtype=dtype, pad=3, out_pad=3))
            every.append(make(7, 3, 2, 96, 96, code=code, quant=quant, dtype=dtype, shuffled=True))
            if quant != "none":
                every.append(make(5, 3, 2, 200, 40, code=code, quant="tensor", dtype=dtype))
                every.append(make(9, 3, 2, 256, 128, code=code, dtype=dtype, quantised=True, pad=1))
                every.append(make(9, 3, 2, 256, 128, code=code, dtype=dtype, sorted_block=4))
    for case, (status, out) in zip(every, run_guarded(target, [guarded(c, **of_pool) for c in every]), strict=True):
        assert status == 0
        stride = case.width + case.out_pad
        flat = torch.frombuffer(bytearray(out + b"\xc1\x7f" * case.out_pad), dtype=DTYPES[case.dtype]).view(-1, stride)
        assert cases.off(case, flat[:, : case.width]) <= 1
        assert bool(flat[:, case.width :].isnan().all())


def test_what_a_call_returns_where_it_fails() -> None:
    """What the thread pool returned, and -2 where there is no memory: 512 tokens of one row of x need 128 MiB."""
    failing = guarded(make(9, 3, 2, 256, 128), pool=Pool(status=7), threads=2)
    wide = guarded(make(1, 1, 1, 65536, 16, code="none", quant="none"))
    numbers = {**wide.numbers, "tokens": 512, "stride_x": 0, "stride_out": 0, "stride_ids": 0, "stride_weights": 0}
    starved = dataclasses.replace(wide, numbers=numbers, memory=32 << 20)
    assert [status for status, _ in run_guarded(HOST, [failing, starved])] == [7, -2]


def test_a_call_without_tokens_does_nothing() -> None:
    call = guarded(make(1, 1, 1, 128, 128))
    [(status, out)] = run_guarded(HOST, [dataclasses.replace(call, numbers={**call.numbers, "tokens": 0})])
    assert status == 0 and out == call.out


def test_levels_differ_by_rounding_h_only() -> None:
    """fp16, whose arithmetic is fp32 everywhere, by AVX-512 and with fewer lanes."""
    case = make(5, 3, 2, 384, 128, dtype="fp16")
    wanted = cases.exact(case)[0]
    for target in LEVELS:
        assert float((run(target, case).double() - wanted).norm() / wanted.norm()) < 2.0**-11
