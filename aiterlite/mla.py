"""Multi-head latent attention under the names of `aiter.mla`."""

from __future__ import annotations

from aiterlite.ops.mla import mla_decode_fwd, mla_prefill_fwd, mla_reduce_v1

__all__ = ["mla_decode_fwd", "mla_prefill_fwd", "mla_reduce_v1"]
