"""Rotary embeddings under the names of `aiter`, `aiter.ops.rope` and `aiter.ops.triton.rope.rope`."""

from __future__ import annotations

from aiterlite.ops.rope import (
    batched_rotary_embedding,
    rope_cached_2c_fwd,
    rope_cached_2c_fwd_inplace,
    rope_cached_fwd,
    rope_cached_fwd_inplace,
    rope_cached_positions_2c_fwd,
    rope_cached_positions_2c_fwd_inplace,
    rope_cached_positions_fwd,
    rope_cached_positions_fwd_inplace,
    rope_cached_positions_offsets_2c_fwd,
    rope_cached_positions_offsets_2c_fwd_inplace,
    rope_cached_positions_offsets_fwd,
    rope_cached_positions_offsets_fwd_inplace,
    rope_cached_thd_positions_2c_fwd,
    rope_cached_thd_positions_2c_fwd_inplace,
    rope_cached_thd_positions_offsets_2c_fwd,
    rope_cached_thd_positions_offsets_2c_fwd_inplace,
    rotary_embedding_fwd,
)

__all__ = [
    "batched_rotary_embedding",
    "rope_cached_2c_fwd",
    "rope_cached_2c_fwd_inplace",
    "rope_cached_fwd",
    "rope_cached_fwd_inplace",
    "rope_cached_positions_2c_fwd",
    "rope_cached_positions_2c_fwd_inplace",
    "rope_cached_positions_fwd",
    "rope_cached_positions_fwd_inplace",
    "rope_cached_positions_offsets_2c_fwd",
    "rope_cached_positions_offsets_2c_fwd_inplace",
    "rope_cached_positions_offsets_fwd",
    "rope_cached_positions_offsets_fwd_inplace",
    "rope_cached_thd_positions_2c_fwd",
    "rope_cached_thd_positions_2c_fwd_inplace",
    "rope_cached_thd_positions_offsets_2c_fwd",
    "rope_cached_thd_positions_offsets_2c_fwd_inplace",
    "rotary_embedding_fwd",
]
