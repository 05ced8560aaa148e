"""MLA decode on an NVIDIA GPU: refused by dispatch, as its kernel is in no row (tables/mla.py)."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from mla_cases import batch, run  # noqa: E402

from aiterlite.errors import DispatchError  # noqa: E402

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("splits", [1, 3])
def test_a_call_is_refused(splits: int) -> None:
    with pytest.raises(DispatchError, match="mla_decode_fwd"):
        run(batch([40, 7], [1, 2], 16).to("cuda"), num_kv_splits=splits)
