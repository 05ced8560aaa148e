"""Small random DeepSeek-V3 models with the head dimensions of the real one, as checkpoints by Hugging Face's names."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aiterlite.models import deepseek
from aiterlite.reference import mxfp4
from aiterlite.tables.mx_types import MxScaleRoundMode

BLOCK = 128
YARN = {
    "type": "yarn",
    "factor": 40,
    "original_max_position_embeddings": 32,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}


def fields(**changed: Any) -> dict[str, Any]:
    """What config.json says: a dense layer, then one of experts."""
    return {
        "model_type": "deepseek_v3",
        "architectures": ["DeepseekV3ForCausalLM"],
        "vocab_size": 512,
        "hidden_size": 256,
        "intermediate_size": 512,
        "moe_intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "n_group": 4,
        "topk_group": 2,
        "n_shared_experts": 1,
        "first_k_dense_replace": 1,
        "q_lora_rank": 128,
        "kv_lora_rank": 512,
        "qk_rope_head_dim": 64,
        "qk_nope_head_dim": 128,
        "v_head_dim": 128,
        "norm_topk_prob": True,
        "routed_scaling_factor": 2.5,
        "max_position_embeddings": 1280,
        "rope_theta": 10000,
        "rope_scaling": YARN,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "num_nextn_predict_layers": 0,
        "bos_token_id": 0,
        "eos_token_id": 1,
        **changed,
    }


def weights(given: dict[str, Any], seed: int = 0) -> dict[str, Tensor]:
    return deepseek.random_weights(deepseek.Config.read(given), seed)


_SCALED = (
    "q_proj",
    "q_a_proj",
    "q_b_proj",
    "kv_a_proj_with_mqa",
    "kv_b_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
)


def quantised(given: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(a checkpoint of e4m3fn codes with scales for blocks of 128 x 128, what these are as bfloat16)."""
    codes, plain = {}, {}
    for name, tensor in given.items():
        if name.split(".")[-2] not in _SCALED:
            codes[name] = plain[name] = tensor
            continue
        rows, columns = tensor.shape
        padded = torch.zeros(-(-rows // BLOCK) * BLOCK, -(-columns // BLOCK) * BLOCK)
        padded[:rows, :columns] = tensor
        blocks = padded.view(padded.shape[0] // BLOCK, BLOCK, -1, BLOCK)
        scale = blocks.abs().amax((1, 3)).clamp(min=1e-10) / 448
        rounded = (blocks / scale[:, None, :, None]).to(torch.float8_e4m3fn)
        codes[name] = rounded.view(padded.shape)[:rows, :columns].contiguous()
        codes[f"{name}_scale_inv"] = scale
        exact = (rounded.float() * scale[:, None, :, None]).view(padded.shape)[:rows, :columns]
        plain[name] = exact.to(torch.bfloat16).contiguous()
    return codes, plain


def mxfp4_of(given: dict[str, Tensor], attention: bool = True) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(a checkpoint of MXFP4 as quark writes it, what its weights are as bfloat16); `attention`: of that too."""
    codes, plain = {}, {}
    for name, tensor in given.items():
        if name.split(".")[-2] not in _SCALED or ("self_attn" in name and not attention):
            codes[name] = plain[name] = tensor
            continue
        codes[name], codes[f"{name}_scale"] = mxfp4.quantise(tensor, MxScaleRoundMode.Even)
        plain[name] = mxfp4.dequantise(codes[name], codes[f"{name}_scale"]).to(torch.bfloat16)
    return codes, plain


def quark(*exclude: str) -> dict[str, Any]:
    """The quantization_config of such checkpoints."""
    described = {"dtype": "fp4", "qscheme": "per_group", "group_size": 32, "scale_format": "e8m0"}
    inputs = {**described, "is_dynamic": True}
    return {
        "quant_method": "quark",
        "global_quant_config": {"weight": {**described, "is_dynamic": False}, "input_tensors": inputs},
        "layer_quant_config": {},
        "exclude": ["lm_head", *exclude],
        "export": {"kv_cache_group": [], "pack_method": "reorder"},
    }


FP8 = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [BLOCK, BLOCK]}


def prompts(*lengths: int, vocabulary: int = 512, seed: int = 1) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(vocabulary, (length,), generator=generator).tolist() for length in lengths]


def distance(logits: Tensor, expected: Tensor) -> tuple[float, float]:
    """(the share of rows whose first is the same, the mean difference of log-probabilities)."""
    given, wanted = (x.float().log_softmax(-1) for x in (logits, expected))
    agreement = (given.argmax(-1) == wanted.argmax(-1)).float().mean().item()
    return agreement, (given - wanted).abs().mean().item()
