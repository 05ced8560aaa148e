"""Tables of rotary embeddings, as Hugging Face's models compute them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from aiterlite.models.deepseek.config import Config, Yarn, yarn_magnitude


def tables(config: Config, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """(cos, sin), each [positions, R / 2]: a number a pair. Rounded to the model's type, as there."""
    width = config.qk_rope_head_dim
    steps = config.rope_theta ** (torch.arange(0, width, 2, dtype=torch.float32) / width)
    frequencies, magnitude = 1.0 / steps, 1.0
    if config.yarn is not None:
        kept = 1 - _ramp(config.yarn, config.rope_theta, width)
        frequencies = 1.0 / (config.yarn.factor * steps) * (1 - kept) + frequencies * kept
        magnitude = _magnitude(config.yarn)
    angles = torch.arange(config.max_position_embeddings, dtype=torch.float32)[:, None] * frequencies
    return tuple((f(angles) * magnitude).to(device, dtype) for f in (torch.cos, torch.sin))  # type: ignore[return-value]


def _magnitude(yarn: Yarn) -> float:
    if yarn.attention_factor is not None:
        return yarn.attention_factor
    if yarn.mscale and yarn.mscale_all_dim:
        return yarn_magnitude(yarn.factor, yarn.mscale) / yarn_magnitude(yarn.factor, yarn.mscale_all_dim)
    return yarn_magnitude(yarn.factor)


def _ramp(yarn: Yarn, base: float, width: int) -> Tensor:
    """0 for pairs that turn often enough in the pretraining's context to be kept, 1 for those that are stretched."""

    def pair(turns: float) -> float:
        context = yarn.original_max_position_embeddings
        return width * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(base))

    low, high = max(math.floor(pair(yarn.beta_fast)), 0), min(math.ceil(pair(yarn.beta_slow)), width - 1)
    span = high - low if high != low else 0.001
    return torch.clamp((torch.arange(width // 2, dtype=torch.float32) - low) / span, 0, 1)
