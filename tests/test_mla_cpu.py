"""The ways of decoding MLA on a CPU: each level of x86-64 that this one runs, and with and without tiles of AMX. L2."""

from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from mla_cases import Batch, assert_nothing_leaks, assert_right, batch, run  # noqa: E402

from aiterlite import envs  # noqa: E402
from aiterlite.errors import ArgumentError  # noqa: E402
from aiterlite.jit.spec import Unit  # noqa: E402
from aiterlite.mla import mla_decode_fwd  # noqa: E402
from aiterlite.tables import mla as tables  # noqa: E402
from aiterlite.target import X86_LEVELS, host_persona  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.compile]

HOST, LEVELS = host_persona().target, [f"cpu-{level}" for level in X86_LEVELS]
RUNNABLE = LEVELS[: LEVELS.index(HOST) + 1] if HOST in LEVELS else [HOST]
TYPES = (("bf16", "bf16"), ("bf16", "e4m3fn"), ("e4m3fnuz", "e4m3fnuz"), ("fp16", "fp16"))


@pytest.mark.parametrize("target", RUNNABLE)
def test_each_level_without_tiles_is_right(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    units: list[Unit] = []

    def unit_of(level: str) -> Unit:
        units.append(replace(made(level), defines=(("AITERLITE_CPU_AMX", "0"),)))
        return units[-1]

    made = tables.host_unit
    monkeypatch.setattr(tables, "host_unit", unit_of)
    # What is prepared here is kept under this environment, which no other test has.
    with envs.override(AITERLITE_TARGET=target):
        for number, types in enumerate(TYPES):
            case = batch([100, 0, 7, 33], [2, 1, 3, 1], 17, types=types, page_size=(1, 16)[number % 2], seed=number)
            assert_right(run(case, num_kv_splits=1 + number % 2), case.exact())
        assert_nothing_leaks("cpu")
    assert {unit.target for unit in units} == {target}


def test_where_rows_lie_changes_no_bit() -> None:
    """Tiles are read where rows lie at equal distances, and copied where they do not."""
    case = batch([150, 64, 31], [1, 2, 1], 20, page_size=64, seed=5)
    rows = case.kv_buffer.view(-1, 1, 1, 576)
    order = torch.randperm(rows.shape[0], generator=torch.Generator().manual_seed(1))
    scattered = torch.empty_like(rows)
    scattered[order] = rows
    indices, starts = [], [0]
    for b, length in enumerate(case.lengths):
        pages = case.kv_indices[int(case.kv_indptr[b]) :].long()
        indices += [order[int(pages[at // 64]) * 64 + at % 64] for at in range(length)]
        starts.append(len(indices))
    alone = Batch(
        case.q,
        scattered,
        case.qo_indptr,
        torch.tensor(starts, dtype=torch.int32),
        torch.stack(indices).int(),
        torch.ones(3, dtype=torch.int32),
        case.lengths,
        case.counts,
    )
    for splits in (1, 2):
        got, other = run(case, num_kv_splits=splits), run(alone, num_kv_splits=splits)
        assert_right(got, case.exact())
        assert all(torch.equal(a, b) for a, b in zip(got, other, strict=True))


def test_a_falling_and_a_flat_maximum() -> None:
    """Scores that rise from block to block, so that sums are rescaled, and that fall, so that they are not."""
    for sign in (1.0, -1.0):
        case = batch([300], [1], 16, seed=9)
        case.q[..., 575] = sign * 24
        for at, index in enumerate(case.kv_indices[:300].tolist()):
            case.kv_buffer[index, 0, 0, 575] = at / 8
        assert_right(run(case, num_kv_splits=1), case.exact())


def test_scores_whose_rounding_is_larger_than_a_weight_s_reach() -> None:
    """Of a score of 2^40 the last place is 2^17: what weights are relative to has to be rounded as they are."""
    case = batch([40, 3], [1, 1], 16, page_size=16)
    for power in (30, 36, 44, 80):
        large = replace(case, q=case.q * 2.0**power)
        assert_right(run(large), large.exact())


def test_an_operand_that_begins_elsewhere_is_refused_by_its_own_name() -> None:
    case = batch([20], [1], 16)
    for name, width in (("q", 576), ("o", 512)):
        shifted = torch.empty(16 * width + 4, dtype=torch.bfloat16)[4:].view(1, 16, width)
        given = {"q": case.q, "o": torch.empty(1, 16, 512, dtype=torch.bfloat16), name: shifted}
        with pytest.raises(ArgumentError, match=f"`{name}` is at 0x.*; allowed: .*multiple of 16 bytes"):
            mla_decode_fwd(given["q"], case.kv_buffer, given["o"], *case.pages, 1)


def test_a_call_is_cut_into_pieces_for_the_threads_that_there_are() -> None:
    """More of them are parts to write and to merge, and keep nobody busier."""
    threads = torch.get_num_threads()
    case = batch([512], [1], 16, seed=3)
    try:
        found = {}
        for count in (1, 4):
            torch.set_num_threads(count)
            # A call that was prepared keeps its pieces.
            with envs.override(AITERLITE_STRICT=str(count % 2)):
                found[count] = run(case)[0], run(case, num_kv_splits=count)[0]
        assert all(torch.equal(unasked, asked) for unasked, asked in found.values())
    finally:
        torch.set_num_threads(threads)
    problem = tables.MlaProblem(1, 16, 4096)
    assert [tables.splits_of(host_persona(), problem, count) for count in (1, 2, 8, 64)] == [1, 2, 8, 16]
    assert tables.splits_of(host_persona(), replace(problem, batch=64), 2) == 1
