"""The mixture of experts of a layer: routing by groups, experts, and the shared one.

A rank has a part of each expert's features, or some experts whole; the sum over ranks is the layer either way.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from aiterlite.models.deepseek.config import BLOCK, Config
from aiterlite.models.deepseek.parallel import Parallel
from aiterlite.models.deepseek.projections import ALL, FeedForward, Projection, Reader
from aiterlite.moe import biased_grouped_topk, fused_moe, shuffle_weight
from aiterlite.quant import QuantType
from aiterlite.target import persona_for


@dataclass(frozen=True)
class Experts:
    """w1 [experts, 2 inter, hidden] and w2 [experts, hidden, inter] of this rank, with scales or not."""

    config: Config
    parallel: Parallel
    router: Tensor
    bias: Tensor
    w1: Tensor
    w2: Tensor
    w1_scale: Tensor | None
    w2_scale: Tensor | None
    mask: Tensor | None
    shared: FeedForward | None
    one_by_one: bool = False

    @classmethod
    def read(cls, reader: Reader, name: str) -> Experts:
        config, parallel = reader.config, reader.parallel
        multiple = BLOCK if reader.scaled(f"{name}.experts.0.gate_proj") else 1
        here, features, mask = range(config.n_routed_experts), ALL, None
        if parallel.experts_whole:
            own = parallel.share("n_routed_experts", config.n_routed_experts)
            here = range(own.start, own.stop)
            mask = torch.zeros(config.n_routed_experts, dtype=torch.int32, device=reader.device)
            mask[own] = 1
        else:
            features = parallel.share("moe_intermediate_size", config.moe_intermediate_size, multiple)
        up = [
            reader.projection(*(f"{name}.experts.{e}.{part}_proj" for part in ("gate", "up")), rows=features)
            for e in here
        ]
        down = [reader.projection(f"{name}.experts.{e}.down_proj", columns=features) for e in here]
        shared = None
        if config.n_shared_experts:
            inter = config.moe_intermediate_size * config.n_shared_experts
            shared = reader.feed_forward(f"{name}.shared_experts", inter)
        # CPUs read rows as they lie; matrix units of GPUs take them in an order of their own.
        reorder = not persona_for(reader.device.type, reader.device.index).target.startswith("cpu")
        w1, w2 = (_all([p.weight for p in each]) for each in (up, down))
        if reorder:
            w1, w2 = shuffle_weight(w1), shuffle_weight(w2)
        return cls(
            config,
            parallel,
            router=reader.tensor(f"{name}.gate.weight", dtype=torch.float32),
            bias=reader.tensor(f"{name}.gate.e_score_correction_bias", dtype=torch.float32),
            w1=w1,
            w2=w2,
            w1_scale=_scales(up),
            w2_scale=_scales(down),
            mask=mask,
            shared=shared,
            one_by_one=reader.reduction == "batch_invariant",
        )

    def __call__(self, x: Tensor) -> Tensor:
        if self.one_by_one and x.shape[0] > 1:
            routed = torch.cat([self._routed(row) for row in x.unsqueeze(1)])
        else:
            routed = self._routed(x)
        if self.shared is not None:
            routed = routed + self.shared(x)
        return self.parallel.sum(routed)

    def _routed(self, x: Tensor) -> Tensor:
        config = self.config
        # Routing is decided at float32: logits of 16 bits would tie, and choose other experts than the model does.
        logits = functional.linear(x.float(), self.router)
        weights = torch.empty(x.shape[0], config.num_experts_per_tok, dtype=torch.float32, device=x.device)
        ids = torch.empty(weights.shape, dtype=torch.int32, device=x.device)
        biased_grouped_topk(
            *(logits, self.bias, weights, ids, config.n_group, config.topk_group, config.norm_topk_prob),
            config.routed_scaling_factor,
        )
        kind = QuantType.No if self.w1_scale is None else QuantType.per_128x128
        return fused_moe(
            *(x, self.w1, self.w2, weights, ids, self.mask),
            quant_type=kind,
            w1_scale=self.w1_scale,
            w2_scale=self.w2_scale,
        )


def _scales(parts: list[Projection]) -> Tensor | None:
    scales = [part.scale for part in parts if part.scale is not None]
    return torch.stack(scales) if scales else None


def _all(parts: list[Tensor]) -> Tensor:
    if parts[0].element_size() > 1:
        return torch.stack(parts)
    return torch.stack([part.view(torch.uint8) for part in parts]).view(parts[0].dtype)
