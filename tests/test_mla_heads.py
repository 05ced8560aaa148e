"""The table of native heads, and the sizes and queries that follow from it.

The golden file holds the whole matrix. After a change of the table, read the difference that the failing test shows,
and write the file anew with `python tests/test_mla_heads.py`.
"""

from __future__ import annotations

import difflib
import itertools
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from aiterlite import envs  # noqa: E402
from aiterlite.errors import ArgumentError  # noqa: E402
from aiterlite.ops import mla_query as queries  # noqa: E402
from aiterlite.ops.mla_plan import get_mla_metadata_info_v1, get_mla_metadata_v1  # noqa: E402
from aiterlite.tables import mla_heads, mla_plan  # noqa: E402
from aiterlite.target import Persona, resolve  # noqa: E402

GOLDEN = Path(__file__).with_name("golden") / "mla_heads.txt"
CHIPS = ("mi300x", "mi308x", "mi355x", "h100", "cpu")
QUERIES = range(1, 9)
BF16, FP8 = torch.bfloat16, torch.float8_e4m3fn
MATRIX = list(itertools.product(("gfx942", "gfx950", "sm_90a", "cpu"), mla_heads.DTYPES, mla_heads.HEADS))


def persona(chip: str) -> Persona:
    """This machine's CPU is any CPU."""
    return resolve("cpu-x86-64") if chip == "cpu" else resolve(chip)


def golden_text() -> str:
    """Of each target, dtypes and heads: fold x rows of a tile x tiles, for 1 to 8 queries. Of each chip the buffers of
    128 requests: rows, tiles and partial entries of `fast`."""
    lines = []
    for target, (q, kv), heads in MATRIX:
        found = [mla_heads.fold(target, heads, q, kv, q_len) for q_len in QUERIES]
        told = " ".join(f"{one.fold}x{one.tile_rows}x{one.q_tiles}" for one in found)
        lines.append(f"{target} {q}/{kv} {heads}: {told}")
    for chip, (q, kv), heads, q_len in itertools.product(CHIPS, mla_heads.DTYPES, mla_heads.HEADS, (1, 4)):
        held = mla_plan.sizes(persona(chip), 128, q_len, heads, q, kv)
        told = f"{held.units} workgroups, {held.work_rows} {held.reduce_tiles} {held.partial_entries}"
        lines.append(f"{chip} {q}/{kv} {heads} heads, {q_len} queries: {told}")
    return "\n".join(lines) + "\n"


def test_the_matrix_is_as_the_golden_file_has_it() -> None:
    wanted, found = GOLDEN.read_text().splitlines(), golden_text().splitlines()
    assert wanted == found, "\n".join(difflib.unified_diff(wanted, found, "golden", "now", lineterm="", n=0))


def native_upstream(arch: str, heads: int, q: str, kv: str, q_len: int) -> bool:
    """The contract's table of head dispatch, as one expression."""
    bf16, fp8 = (q, kv) == ("bf16", "bf16"), (q, kv) == ("fp8", "fp8")
    if arch == "gfx942":
        return heads == 16 or (fp8 and (heads == 128 or (heads == 64 and q_len == 1)))
    return heads == 16 or bf16 or (fp8 and heads in (32, 64, 128))


@pytest.mark.parametrize("arch", ["gfx942", "gfx950"])
def test_amd_folds_what_upstream_folds(arch: str) -> None:
    for (q, kv), heads, q_len in itertools.product(mla_heads.DTYPES, mla_heads.HEADS, QUERIES):
        if q == "fp16":
            continue
        found = mla_heads.fold(arch, heads, q, kv, q_len)
        folds = not native_upstream(arch, heads, q, kv, q_len) and heads % 16 == 0
        assert (found.fold, found.heads) == ((heads // 16, 16) if folds else (1, heads))
        packed = found.heads * q_len
        halved = packed >= 64 and found.heads <= 64 and (packed < 128 or found.heads == 48)
        rows = 64 if arch == "gfx950" and ((q, kv) == ("bf16", "bf16") and halved) else 128
        rows = 64 if (arch, q, kv, heads, q_len) == ("gfx950", "fp8", "fp8", 32, 3) else rows
        assert found.tile_rows == rows
        if 2 * found.heads > rows:
            assert found.q_tiles == q_len
        elif found.heads not in (24, 48):
            # Those are no power of two: so many tiles could hold more rows than a tile has.
            assert found.q_tiles == -(-packed // rows)


def test_a_tile_never_has_more_rows_than_it_may_and_sizes_hold_every_query() -> None:
    for target, (q, kv), heads in MATRIX:
        for q_len in QUERIES:
            found = mla_heads.fold(target, heads, q, kv, q_len)
            assert found.fold * found.heads == heads
            assert -(-q_len // found.q_tiles) * found.heads <= max(found.tile_rows, found.heads)
            most = mla_heads.most_tiles(target, heads, q, kv, q_len)
            assert all(most >= _tiles(target, heads, q, kv, shorter) for shorter in range(1, q_len + 1))


def _tiles(target: str, heads: int, q: str, kv: str, q_len: int) -> int:
    found = mla_heads.fold(target, heads, q, kv, q_len)
    return found.fold * found.q_tiles


def test_hopper_and_cpus_fold_nothing() -> None:
    for target, (q, kv), heads in MATRIX:
        if target in ("sm_90a", "cpu"):
            assert mla_heads.fold(target, heads, q, kv, 1).fold == 1
    assert mla_heads.fold("sm_90", 64, "bf16", "fp8", 4) == mla_heads.fold("sm_90a", 64, "bf16", "e4m3fn", 4)
    assert mla_heads.fold("cpu-x86-64-v4", 64, "fp8", "e4m3fnuz", 2) == mla_heads.fold("cpu", 64, "fp8", "fp8", 2)


def test_other_heads_are_padded_and_others_refused() -> None:
    assert [mla_heads.padded(heads) for heads in (1, 4, 8, 12, 17, 40, 100, 128)] == [8, 8, 8, 16, 24, 48, 112, 128]
    for heads in (0, 129):
        with pytest.raises(ValueError, match=f"heads is {heads}; allowed: 1 to 128"):
            mla_heads.padded(heads)
    for given, said in (
        (("gfx90a", 16, "bf16", "bf16", 1), "target is gfx90a; allowed: gfx942"),
        (("gfx942", 16, "fp8", "bf16", 1), "q and KV are fp8 and bf16; allowed: bf16 and bf16, bf16 and fp8"),
        (("gfx942", 16, "bf16", "bf16", 0), "the query length is 0; allowed: at least 1"),
    ):
        with pytest.raises(ValueError, match=said):
            mla_heads.fold(*given)


def test_sizes_are_the_contract_s() -> None:
    """(bs + S - 1) * t rows, bs * t tiles, min(bs + S - 1, 2 * (S - 1)) * t entries; others T * S, T * splits."""
    chip = persona("mi300x")
    assert vars(mla_plan.sizes(chip, 8, 1, 64, "fp8", "fp8")) == {
        "units": 304, "work_rows": 311, "reduce_tiles": 8, "partial_entries": 311,
    }  # fmt: skip
    folded = mla_plan.sizes(chip, 512, 4, 64, "fp8", "fp8")
    assert (folded.work_rows, folded.reduce_tiles, folded.partial_entries) == (815 * 4, 2048, 606 * 4)
    assert mla_plan.sizes(chip, 8, 1, 16, "fp8", "fp8", planner="intra", num_kv_splits=32).work_rows == 256
    assert mla_plan.sizes(chip, 8, 1, 16, "fp8", "fp8", planner="cost").partial_entries == 8 * 304
    assert mla_plan.sizes(chip, 512, 1, 16, "fp8", "fp8", max_split_per_batch=32).partial_entries == 816
    sparse = mla_plan.sizes(chip, 8, 4, 16, "bf16", "bf16", sparse=True)
    assert sparse == mla_plan.sizes(chip, 32, 1, 16, "bf16", "bf16")
    with envs.override(AITERLITE_TARGET="mi308x"):
        info = get_mla_metadata_info_v1(8, 1, 128, BF16, BF16, is_sparse=False)
        assert info[1] == (81, torch.int32) and info[2] == (((8 + 79) * 8, 8), torch.int32)
        for given, name in (((-1, 1, 16), "batch_size"), ((1, 0, 16), "max_seqlen_qo"), ((1, 1, 0), "num_head_qo")):
            with pytest.raises(ArgumentError, match=name):
                get_mla_metadata_info_v1(*given, BF16, BF16, False)


# Queries --------------------------------------------------------------------------------------------------------------


def test_shapes_are_answered_from_the_table() -> None:
    """The figures are those of upstream's own test where it has one."""

    def factor(arch: str, dtype: torch.dtype, heads: int, q_len: int = 1) -> int | None:
        found = queries.get_mla_decode_shape_support(heads, q_len, dtype, dtype, arch=arch)
        return found.fold_factor if found.planner_accepts else None

    assert [factor("gfx950", FP8, heads) for heads in (48, 64, 96, 128)] == [3, 1, 6, 1]
    assert [factor("gfx950", BF16, heads) for heads in (48, 128, 144)] == [1, 1, None]
    assert (factor("gfx942", FP8, 64), factor("gfx942", FP8, 64, 2), factor("gfx942", BF16, 128)) == (1, 4, 8)
    for target, (q, kv), heads in MATRIX:
        dtypes = [{"bf16": BF16, "fp16": torch.float16, "fp8": FP8}[name] for name in (q, kv)]
        found = queries.get_mla_decode_shape_support(heads, 3, *dtypes, arch=target, return_lse=True)
        assert found.supported and not found.reasons
        assert found.fold_factor == mla_heads.fold(target, heads, q, kv, 3).fold
        code, why = queries.mla_decode_asm_query(target, q, kv, heads, 1, 3, True, True, True, False)
        assert (code == queries.OK, bool(why)) == (found.supported, True)
    for changes, said in (
        ({"page_size": 0}, "page_size"),
        ({"cp_round_robin": True}, "merge by LSE"),
        ({"num_heads": 40, "kv_dtype": FP8}, "pad q to 48 heads, and drop the last 8 of o"),
        ({"arch": "sm_90a", "kv_dtype": torch.float8_e4m3fnuz}, "kv_dtype must be bf16 or fp16 or e4m3fn"),
        ({"num_heads": 200}, "heads is 200; allowed: 1 to 128"),
    ):
        given = {"num_heads": 16, "max_seqlen_q": 1, "q_dtype": BF16, "kv_dtype": BF16, "arch": "gfx950"} | changes
        found = queries.get_mla_decode_shape_support(**given)
        assert not found.supported and said in found.reasons[0]


def test_splits_of_a_call_without_plan() -> None:
    with envs.override(AITERLITE_TARGET="mi300x"):
        splits, indptr = queries.get_meta_param(None, 1, 8192, 16, 1, BF16)
        assert splits == 16 and indptr.tolist() == [0, 16] and indptr.dtype == torch.int32
        assert queries.get_meta_param(None, 304, 304 * 100, 16, 1, BF16)[0] == 1
        assert queries.get_meta_param(None, 1, 500, 16, 1, FP8)[0] == 4  # 128 tokens a part
        assert queries.get_meta_param(7, 2, 100000, 16, 1, BF16)[1].tolist() == [0, 7, 14]
        # 80 rows have no entry upstream: those of 64.
        assert queries.get_meta_param(16, 1, 640, 80, 1, FP8)[0] == 10
        assert queries.get_meta_param(4, 1, 0, 16, 1, FP8)[0] == 1
        for given, name in (((0, 1), "num_kv_splits"), ((None, 0), "bs")):
            with pytest.raises(ArgumentError, match=name):
                queries.get_meta_param(*given, 100, 16, 1, BF16)


def test_public_names_are_in_one_place() -> None:
    from aiterlite import mla as ops

    assert all(callable(getattr(ops, name)) for name in ops.__all__)
    assert ops.get_mla_metadata_v1 is get_mla_metadata_v1 and ops.get_meta_param is queries.get_meta_param


if __name__ == "__main__":
    GOLDEN.write_text(golden_text())
