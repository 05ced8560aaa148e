"""Caches of latents under the names of `aiter`, `aiter.ops.cache` and `aiter.ops.triton.fusions.fused_kv_cache`."""

from __future__ import annotations

from aiterlite.ops.cache import (
    concat_and_cache_mla,
    fused_qk_rope_cat_and_cache_mla,
    fused_qk_rope_concat_and_cache_mla,
)

__all__ = [
    "concat_and_cache_mla",
    "fused_qk_rope_cat_and_cache_mla",
    "fused_qk_rope_concat_and_cache_mla",
]
