"""Checkpoints of random numbers, for tests, benchmarks and examples: they show what a model costs, not what it says."""

from __future__ import annotations

import torch
from torch import Tensor

from aiterlite.models.deepseek.config import Config


def random_weights(config: Config, seed: int = 0) -> dict[str, Tensor]:
    """Random bfloat16 tensors, scaled so that each layer adds somewhat less than there is, and that attention and
    routing distinguish what they see."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, shape in shapes(config).items():
        noise = torch.randn(shape, generator=generator)
        if name.endswith("norm.weight"):
            tensor = 1 + 0.1 * noise
        elif name.endswith("correction_bias"):
            made[name] = 0.1 * noise
            continue
        elif name.endswith("embed_tokens.weight"):
            tensor = noise
        elif name.endswith("mlp.gate.weight"):
            tensor = noise * 2 * shape[1] ** -0.5
        elif name.endswith("lm_head.weight"):
            # As in a trained model, one token is mostly likelier than all others, here one for each token that is read:
            # of nearly equal ones the rounding of logits decides who is first.
            partner = torch.randperm(shape[0], generator=generator)
            tensor = noise * 0.4 * shape[1] ** -0.5 + made["model.embed_tokens.weight"][partner] * 4 / shape[1]
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            # An expert that is chosen by a hair in one of two models should not decide what a layer says.
            tensor = noise * (0.3 if ".experts." in name else 0.6) * shape[1] ** -0.5
        elif name.endswith("eh_proj.weight"):
            # A draft that goes mostly by the token that follows, as the logits do.
            tensor = torch.eye(*shape) + 0.3 * noise * shape[1] ** -0.5
        else:
            tensor = noise * shape[1] ** -0.5
        made[name] = tensor.to(torch.bfloat16)
    return made


def shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """The tensors of a checkpoint but for scales."""
    hidden, heads, rank = config.hidden_size, config.num_attention_heads, config.q_lora_rank
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config.vocab_size, hidden),
        "model.norm.weight": (hidden,),
        "lm_head.weight": (config.vocab_size, hidden),
    }

    def feed_forward(name: str, inter: int) -> None:
        found.update({f"{name}.{part}_proj.weight": (inter, hidden) for part in ("gate", "up")})
        found[f"{name}.down_proj.weight"] = (hidden, inter)

    for index in range(config.num_hidden_layers + config.num_nextn_predict_layers):
        layer = f"model.layers.{index}"
        found |= {f"{layer}.{norm}_layernorm.weight": (hidden,) for norm in ("input", "post_attention")}
        attention = f"{layer}.self_attn"
        found |= {
            f"{attention}.kv_a_proj_with_mqa.weight": (config.kv_lora_rank + config.qk_rope_head_dim, hidden),
            f"{attention}.kv_a_layernorm.weight": (config.kv_lora_rank,),
            f"{attention}.kv_b_proj.weight": (
                heads * (config.qk_nope_head_dim + config.v_head_dim),
                config.kv_lora_rank,
            ),
            f"{attention}.o_proj.weight": (hidden, heads * config.v_head_dim),
        }
        if rank is None:
            found[f"{attention}.q_proj.weight"] = (heads * config.qk_head_dim, hidden)
        else:
            found |= {
                f"{attention}.q_a_proj.weight": (rank, hidden),
                f"{attention}.q_a_layernorm.weight": (rank,),
                f"{attention}.q_b_proj.weight": (heads * config.qk_head_dim, rank),
            }
        if index >= config.num_hidden_layers:
            found |= {f"{layer}.{norm}.weight": (hidden,) for norm in ("enorm", "hnorm", "shared_head.norm")}
            found[f"{layer}.eh_proj.weight"] = (hidden, 2 * hidden)
        if index < config.first_k_dense_replace:
            feed_forward(f"{layer}.mlp", config.intermediate_size)
            continue
        found[f"{layer}.mlp.gate.weight"] = (config.n_routed_experts, hidden)
        found[f"{layer}.mlp.gate.e_score_correction_bias"] = (config.n_routed_experts,)
        for expert in range(config.n_routed_experts):
            feed_forward(f"{layer}.mlp.experts.{expert}", config.moe_intermediate_size)
        feed_forward(f"{layer}.mlp.shared_experts", config.moe_intermediate_size * config.n_shared_experts)
    return found
