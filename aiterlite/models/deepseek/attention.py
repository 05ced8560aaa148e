"""Multi-head latent attention.

Decode is absorbed: q meets the latents themselves, W_UK having gone into q, and W_UV follows the sum.

    q_nope [T, heads, 128] · W_UK -> [T, heads, 512], beside q_pe; with latents of the cache -> o [T, heads, 512] · W_UV

Prefill is not: a latent that n tokens attend to is projected to its keys and values once, and attention is torch's, of
keys of 192 and values of 128.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from aiterlite.cache import concat_and_cache_mla, fused_qk_rope_concat_and_cache_mla
from aiterlite.gemm import batched_gemm_bf16
from aiterlite.mla import flash_attn_varlen_func, mla_decode_fwd
from aiterlite.models.deepseek import persistent
from aiterlite.models.deepseek.cache import Chunk, Step
from aiterlite.models.deepseek.config import Config
from aiterlite.models.deepseek.parallel import Parallel
from aiterlite.models.deepseek.projections import Norm, Projection, Reader, Rows
from aiterlite.rope import rope_cached_positions_2c_fwd_inplace

_NEOX, _NEIGHBOURS = 0, 1


def _is_coded(latents: Tensor) -> bool:
    """Whether a cache has codes of 8 bits. Their scale is 1: latents are normalised, and keys are as large."""
    return latents.element_size() == 1


def _rows(latents: Tensor, slots: Tensor) -> Tensor:
    flat = latents.view(-1, latents.shape[-1])
    # torch picks no rows of 8-bit floats, but of their bytes.
    return flat.view(torch.uint8)[slots].view(latents.dtype) if _is_coded(latents) else flat[slots]


@dataclass(frozen=True)
class Rope:
    """The tables of all layers, and the scale of caches of 8 bits, which others do not use."""

    cos: Tensor
    sin: Tensor
    one: Tensor


@dataclass(frozen=True)
class Attention:
    """A rank's heads of one layer: w_uk [heads, 512, 128], w_uv [heads, 128, 512]. Both lie as decode multiplies by
    them, what is summed over last."""

    config: Config
    parallel: Parallel
    down: Projection
    q_norm: Norm | None
    q_up: Projection
    kv_norm: Norm
    w_uk: Tensor
    w_uv: Tensor
    out: Projection
    rope: Rope
    splits: int | None = None
    persistent: bool = False

    @classmethod
    def read(cls, reader: Reader, name: str, rope: Rope) -> Attention:
        config, parallel = reader.config, reader.parallel
        heads = parallel.share("num_attention_heads", config.num_attention_heads)

        def rows(width: int) -> slice:
            return slice(heads.start * width, heads.stop * width)

        latent, q_rows, v_rows = f"{name}.kv_a_proj_with_mqa", rows(config.qk_head_dim), rows(config.v_head_dim)
        whole = config.q_lora_rank is None
        queries = f"{name}.q_proj" if whole else f"{name}.q_b_proj"
        if reader.scaled(queries):
            # A rank begins where a block does.
            parallel.share("the rows of q", config.num_attention_heads * config.qk_head_dim, 128)
        kv_b = reader.plain(f"{name}.kv_b_proj", rows(config.qk_nope_head_dim + config.v_head_dim))
        by_heads = kv_b.view(heads.stop - heads.start, -1, config.kv_lora_rank)
        return cls(
            config,
            parallel,
            reader.projection(latent) if whole else reader.projection(f"{name}.q_a_proj", latent),
            None if whole else reader.norm(f"{name}.q_a_layernorm"),
            reader.projection(queries, rows=q_rows),
            reader.norm(f"{name}.kv_a_layernorm"),
            by_heads[:, : config.qk_nope_head_dim].mT.contiguous(),
            by_heads[:, config.qk_nope_head_dim :].contiguous(),
            reader.projection(f"{name}.o_proj", columns=v_rows),
            rope,
            # A number of splits that goes by batch and context would let bits depend on them.
            1 if reader.reduction == "batch_invariant" else None,
            reader.persistent,
        )

    @property
    def code(self) -> torch.dtype | None:
        """What the layer's input is quantised to, if it is."""
        return self.down.code

    def decode(self, x: Rows, step: Step, latents: Tensor) -> Tensor:
        q, kv_c, k_pe = self._project(x)
        nope, latent = self.config.qk_nope_head_dim, self.config.kv_lora_rank
        heads = q.shape[1]
        absorbed = self._by_heads(q[..., :nope], self.w_uk)
        query = q.new_empty(q.shape[0], heads, latent + self.config.qk_rope_head_dim)
        fused_qk_rope_concat_and_cache_mla(
            *(absorbed, q[..., nope:], kv_c, k_pe, latents, query, step.slots, self.rope.one, self.rope.one),
            *(step.positions, self.rope.cos, self.rope.sin, not self.config.rope_interleave, True),
        )
        out = q.new_empty(q.shape[0], heads, latent)
        if self.persistent and not step.plan:
            requests = step.rows, step.page_rows, step.last_lengths, step.most_rows
            step.plan.update(persistent.plan(heads, query.dtype, latents, *requests))
        mla_decode_fwd(
            *(query, latents.unsqueeze(2), out, step.rows, step.page_rows, step.pages, step.last_lengths),
            *(step.most_rows, latents.shape[1]),
            sm_scale=self.config.softmax_scale,
            num_kv_splits=self.splits,
            kv_scale=self.rope.one if _is_coded(latents) else None,
            **step.plan,
        )
        values = self._by_heads(out, self.w_uv)
        return self.parallel.sum(self.out(values.reshape(q.shape[0], -1)))

    def prefill(self, x: Rows, chunk: Chunk, latents: Tensor) -> Tensor:
        q, kv_c, k_pe = self._project(x)
        nope, latent = self.config.qk_nope_head_dim, self.config.kv_lora_rank
        style = _NEIGHBOURS if self.config.rope_interleave else _NEOX
        # Of a batch of one: [tokens, 1, heads, R].
        q_pe, rotated = q[..., nope:].unsqueeze(1), k_pe[:, None, None]
        positions = chunk.positions.unsqueeze(1)
        rope_cached_positions_2c_fwd_inplace(q_pe, rotated, self.rope.cos, self.rope.sin, positions, style, True, False)
        kind = "fp8" if _is_coded(latents) else "auto"
        concat_and_cache_mla(kv_c, k_pe, latents, chunk.slots, kind, self.rope.one)
        seen = _rows(latents, chunk.history).to(q.dtype)
        heads = q.shape[1]
        # [heads, tokens, ...] from here on.
        shared = seen[:, latent:].expand(heads, -1, -1)
        keys = torch.cat([torch.matmul(seen[:, :latent], self.w_uk), shared], -1)
        values = torch.matmul(seen[:, :latent], self.w_uv.mT)
        # Where the one request begins and ends is known on the host.
        rows, tokens = (torch.tensor([0, count], dtype=torch.int32) for count in (q.shape[0], seen.shape[0]))
        out = q.new_empty(*q.shape[:2], self.config.v_head_dim)
        flash_attn_varlen_func(
            *(q, keys.transpose(0, 1), values.transpose(0, 1), rows, tokens, q.shape[0], seen.shape[0]),
            softmax_scale=self.config.softmax_scale,
            causal=True,
            out=out,
        )
        return self.parallel.sum(self.out(out.reshape(q.shape[0], -1)))

    def _project(self, x: Rows) -> tuple[Tensor, Tensor, Tensor]:
        """q [T, heads, 192], the normalised latents, and the keys that are to be rotated."""
        down, rank = self.down(x), self.config.q_lora_rank or 0
        end = rank + self.config.kv_lora_rank
        latents = down[:, rank:end]
        queries: Rows = x
        if self.q_norm is None:
            latents = self.kv_norm(latents)
        else:
            queries, latents = self.q_norm.pair(down[:, :rank], self.kv_norm, latents, self.q_up.code)
        q = self.q_up(queries).view(down.shape[0], -1, self.config.qk_head_dim)
        return q, latents, down[:, end:]

    def _by_heads(self, x: Tensor, weights: Tensor) -> Tensor:
        """x [T, heads, a] · weights [heads, b, a], as [T, heads, b]."""
        out = x.new_empty(*x.shape[:2], weights.shape[1])
        # How a sum is cut may go by the number of rows; of one row it is always the same.
        together = max(1, x.shape[0]) if self.splits is None else 1
        for first in range(0, x.shape[0], together):
            rows, result = (of[first : first + together].transpose(0, 1) for of in (x, out))
            batched_gemm_bf16(rows, weights, dtype=x.dtype, YQ=result)
        return out
