"""The same decoder in plain torch, as Hugging Face writes it: what a model of operators is compared with.

Keys and values of all heads are kept whole, experts are gone through one by one, and prompts are of one length. Weights
are bfloat16; norms, routing and softmax are float32 within.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from aiterlite.models.deepseek import rope
from aiterlite.models.deepseek.config import Config

# Keys and values of a layer, of the tokens so far.
Cache = dict[int, tuple[Tensor, Tensor]]


class Plain:
    """A checkpoint of bfloat16 weights by Hugging Face's names."""

    def __init__(self, config: Config, weights: Mapping[str, Tensor], device: str | torch.device = "cpu") -> None:
        self.config = config
        self.weights = {name: tensor.to(device) for name, tensor in weights.items()}
        self.cos, self.sin = rope.tables(config, torch.bfloat16, torch.device(device))

    @torch.inference_mode()
    def step(self, tokens: Sequence[Sequence[int]], cache: Cache) -> Tensor:
        """Runs as many tokens of each request behind those of the cache; float32 logits of the last of each."""
        w = self.weights
        x = functional.embedding(
            torch.tensor(tokens, device=w["model.norm.weight"].device), w["model.embed_tokens.weight"]
        )
        for index in range(self.config.num_hidden_layers):
            name = f"model.layers.{index}"
            x = x + self._attention(f"{name}.self_attn", index, self._norm(f"{name}.input_layernorm", x), cache)
            normed = self._norm(f"{name}.post_attention_layernorm", x)
            dense = self.config.is_dense(index)
            x = x + (self._gated(f"{name}.mlp", normed) if dense else self._experts(f"{name}.mlp", normed))
        last = self._norm("model.norm", x[:, -1])
        head = "model.embed_tokens" if self.config.tie_word_embeddings else "lm_head"
        return self._linear(head, last).float()

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return functional.linear(x, self.weights[f"{name}.weight"])

    def _norm(self, name: str, x: Tensor) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.config.rms_norm_eps)
        return self.weights[f"{name}.weight"] * wide.to(x.dtype)

    def _gated(self, name: str, x: Tensor) -> Tensor:
        gate = functional.silu(self._linear(f"{name}.gate_proj", x))
        return self._linear(f"{name}.down_proj", gate * self._linear(f"{name}.up_proj", x))

    def _attention(self, name: str, index: int, x: Tensor, cache: Cache) -> Tensor:
        config = self.config
        batch, rows = x.shape[:2]
        if config.q_lora_rank is None:
            q = self._linear(f"{name}.q_proj", x)
        else:
            q = self._linear(
                f"{name}.q_b_proj", self._norm(f"{name}.q_a_layernorm", self._linear(f"{name}.q_a_proj", x))
            )
        q = q.view(batch, rows, -1, config.qk_head_dim).transpose(1, 2)
        down = self._linear(f"{name}.kv_a_proj_with_mqa", x)
        latents = self._norm(f"{name}.kv_a_layernorm", down[..., : config.kv_lora_rank])
        kv = self._linear(f"{name}.kv_b_proj", latents).view(batch, rows, q.shape[1], -1).transpose(1, 2)
        nope = config.qk_nope_head_dim
        begin = cache[index][0].shape[2] if index in cache else 0
        shared = self._rotated(down[:, None, :, config.kv_lora_rank :], begin).expand(-1, q.shape[1], -1, -1)
        q = torch.cat([q[..., :nope], self._rotated(q[..., nope:], begin)], -1)
        keys, values = torch.cat([kv[..., :nope], shared], -1), kv[..., nope:]
        if begin:
            keys, values = (torch.cat([old, new], 2) for old, new in zip(cache[index], (keys, values), strict=True))
        cache[index] = keys, values
        # Rows behind others in the cache would need a mask.
        out = functional.scaled_dot_product_attention(
            q, keys, values, is_causal=rows > 1 and not begin, scale=config.softmax_scale
        )
        return self._linear(f"{name}.o_proj", out.transpose(1, 2).reshape(batch, rows, -1))

    def _rotated(self, x: Tensor, begin: int) -> Tensor:
        cos, sin = (table[begin : begin + x.shape[-2]] for table in (self.cos, self.sin))
        first, second = (x[..., 0::2], x[..., 1::2]) if self.config.rope_interleave else x.chunk(2, -1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)

    def _experts(self, name: str, x: Tensor) -> Tensor:
        config = self.config
        rows = x.reshape(-1, x.shape[-1])
        weights, ids = self._routed(name, rows)
        out = torch.zeros_like(rows)
        for expert in sorted(set(ids.flatten().tolist())):
            token, slot = torch.where(ids == expert)
            made = self._gated(f"{name}.experts.{expert}", rows[token])
            out.index_add_(0, token, made * weights[token, slot, None].to(made.dtype))
        if config.n_shared_experts:
            out = out + self._gated(f"{name}.shared_experts", rows)
        return out.view(x.shape)

    def _routed(self, name: str, x: Tensor) -> tuple[Tensor, Tensor]:
        config = self.config
        scores = functional.linear(x.float(), self.weights[f"{name}.gate.weight"].float()).sigmoid()
        biased = scores + self.weights[f"{name}.gate.e_score_correction_bias"]
        groups = biased.view(x.shape[0], config.n_group, -1)
        best = groups.topk(2, -1).values.sum(-1).topk(config.topk_group, -1).indices
        allowed = torch.zeros_like(groups[..., 0]).scatter_(1, best, 1).bool()
        ids = groups.masked_fill(~allowed[..., None], 0.0).flatten(1).topk(config.num_experts_per_tok, -1).indices
        weights = scores.gather(1, ids)
        if config.norm_topk_prob:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return weights * config.routed_scaling_factor, ids
