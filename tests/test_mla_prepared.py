"""One preparation serves calls of MLA whose index buffers differ in length. L2."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from gemm_operands import AMD, on  # noqa: E402
from mla_cases import Batch, assert_right, batch, plan, ringed, run  # noqa: E402

from aiterlite.errors import ArgumentError  # noqa: E402
from aiterlite.jit import toolchain  # noqa: E402
from aiterlite.mla import mla_prefill_fwd  # noqa: E402
from aiterlite.ops import calls  # noqa: E402
from aiterlite.ops import mla as ops  # noqa: E402
from aiterlite.tables import mla as tables  # noqa: E402
from aiterlite.tables import mla_context  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.compile]


@pytest.fixture
def decided(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The problems of calls, one for each that is prepared. What other tests prepared is forgotten."""
    problems: list[Any] = []
    decide = calls.decide

    def noting(table: Any, problem: Any, persona: Any) -> Any:
        problems.append(problem)
        return decide(table, problem, persona)

    monkeypatch.setattr(calls, "decide", noting)
    for operator in (ops.OPERATOR, ops.PREFILL):
        operator.prepared._kept = (None, {}, {})
    return problems


def paged(tokens: int, tail: int = 0, heads: int = 16, **options: Any) -> Batch:
    """Two requests that have so many tokens on average, and an index buffer that is `tail` longer; 300 rows of KV."""
    lengths = [tokens - 9, tokens + 9]
    return batch(lengths, [1, 1], heads, seed=tokens, tail=tail, spare=300 - 2 * tokens, **options)


@pytest.mark.parametrize("mode", ["splits", "unasked", "plan", "prefill"])
def test_one_preparation_serves_every_length_of_about_the_same_context(mode: str, decided: list[Any]) -> None:
    """129 to 192 tokens, with a tail and without."""
    for tokens, tail in ((129, 0), (130, 0), (145, 17), (131, 5), (148, 88)):
        case = paged(tokens, tail)
        given: dict[str, Any] = {"splits": {"num_kv_splits": 2}, "unasked": {}}.get(mode, {})
        if mode == "plan":
            given = padded(plan(case, 16, seed=tokens))
        if mode == "prefill":
            o, _ = ringed(2, 16, torch.bfloat16)
            _, lse = mla_prefill_fwd(case.q, case.kv_buffer, o, *case.pages, 1)
            assert_right((o, lse[:, 0, :, 0]), case.exact())
        else:
            assert_right(run(case, **given), case.exact())
    (problem,) = decided
    assert problem.context == 192
    run(paged(128))
    assert [one.context for one in decided] == [192, 128]


def padded(given: dict[str, Any], rows: int = 40) -> dict[str, Any]:
    """Plans of one size, whatever they hold: as buffers that are made once."""
    grown = {}
    for name, tensor in given.items():
        grown[name] = tensor
        if name in ("work_info_set", "reduce_final_map", "reduce_partial_map", "reduce_indptr"):
            fill = tensor[-1:].expand(rows - tensor.shape[0], *tensor.shape[1:])
            grown[name] = torch.cat([tensor, fill])
    return grown


@pytest.mark.parametrize("target", AMD)
@pytest.mark.skipif(toolchain.find("amd") is None, reason=toolchain.how_to_get("amd"))
def test_emulated_kernels_get_the_length_of_each_call(target: str, decided: list[Any], sanitized: Any) -> None:
    """Behind a shorter buffer there is nothing that a launch may read, and an index there does not exist."""
    with on(target):
        for tokens, tail in ((20, 0), (30, 11), (11, 0)):
            case = paged(tokens, tail)
            assert_right(run(case, num_kv_splits=1), case.exact())
        assert len(decided) == 1
        # The second request's last five pages stand behind the buffer that this call brings.
        case = paged(20)
        shorter = replace(case, kv_indices=case.kv_indices[:-5].clone())
        unnamed = replace(case, kv_indices=torch.cat([case.kv_indices[:-5], torch.full((5,), -1, dtype=torch.int32)]))
        got = run(shorter, num_kv_splits=1)
        assert all(torch.equal(a, b) for a, b in zip(got, run(unnamed, num_kv_splits=1), strict=True))
    assert len(decided) == 1


def test_a_buffer_with_gaps_is_refused_also_after_one_of_a_single_entry(decided: list[Any]) -> None:
    """A single entry may have any stride."""
    case = batch([1], [1], 16, tail=0, spare=4)
    wide = torch.zeros(8, 2, dtype=torch.int32)
    assert_right(
        run(replace(case, kv_indices=wide[:1, 0]), num_kv_splits=1), replace(case, kv_indices=wide[:1, 0]).exact()
    )
    with pytest.raises(ArgumentError, match="`kv_indices` is of strides"):
        run(replace(case, kv_indices=wide[:, 0]), num_kv_splits=1)
    with pytest.raises(ArgumentError, match="`kv_indices` is of dtype torch.int64"):
        run(replace(case, kv_indices=wide[:1, 0].long()), num_kv_splits=1)
    with pytest.raises(ArgumentError, match="`kv_indices` is of shape"):
        run(replace(case, kv_indices=wide[:1]), num_kv_splits=1)
    assert len(decided) == 1


def test_contexts_are_rounded_up() -> None:
    wanted = [0, 1, 64, 65, 128, 129, 192, 193, 256, 1025, 8192, 8193, 3 << 30, 1 << 40]
    assert [mla_context.about(tokens) for tokens in wanted] == [
        *(64, 64, 64, 128, 128, 192, 192, 256, 256, 1536, 8192, 12288, 3 << 30, 3 << 30),
    ]  # fmt: skip
    assert all(tokens <= mla_context.about(tokens) <= max(64, 2 * tokens) for tokens in range(1, 5000))


def test_splits_of_a_call_are_those_of_its_context(decided: list[Any]) -> None:
    """So that a compiled program, which knows a range of lengths, has results of the same shape."""
    shapes = set()
    threads = torch.get_num_threads()
    try:
        # As many as keep several pieces of two requests busy.
        torch.set_num_threads(8)
        for tokens in (129, 140, 148):
            case = paged(tokens)
            o, _ = ringed(2, 16, torch.bfloat16)
            logits, _ = ops.mla_decode_fwd(case.q, case.kv_buffer, o, *case.pages, 1, return_logits=True)
            assert logits is not None
            shapes.add(tuple(logits.shape))
    finally:
        torch.set_num_threads(threads)
    ((_, splits, heads, dim),) = shapes
    (problem,) = decided
    assert (heads, dim) == (16, tables.VALUE_DIM) and splits == problem.splits > 1
