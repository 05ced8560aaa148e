"""The mixture of experts of a layer: routing by groups, experts, and the shared one.

A rank has a part of each expert's features, or some experts whole; the sum over ranks is the layer either way. A shared
expert that is one more like the others is the last of them, and each token has it: no launch of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from aiterlite.models.deepseek.config import BLOCK, Config
from aiterlite.models.deepseek.parallel import Parallel
from aiterlite.models.deepseek.projections import ALL, FeedForward, Projection, Reader, Rows
from aiterlite.moe import biased_grouped_topk, fused_moe, moe_fused_gate, router_gemm, shuffle_weight
from aiterlite.mxfp4 import shuffle_scale
from aiterlite.quant import QuantType
from aiterlite.tables.gemm import MAX_TOKENS
from aiterlite.tables.mx_types import BLOCK as MX_BLOCK
from aiterlite.target import persona_for


@dataclass(frozen=True)
class Experts:
    """w1 [experts, 2 inter, hidden] and w2 [experts, hidden, inter] of this rank, with scales or not. `joined`: the
    shared expert is the last of them; else it is `shared`, if there is one."""

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
    joined: bool
    one_by_one: bool = False

    @classmethod
    def read(cls, reader: Reader, name: str) -> Experts:
        config, parallel = reader.config, reader.parallel
        mx, one = reader.is_mx(f"{name}.experts.0.gate_proj"), f"{name}.experts.0.gate_proj"
        # Shuffled weights of MXFP4 come in two blocks of scales.
        multiple = BLOCK if reader.scaled(one) else 2 * MX_BLOCK if mx else 1
        here, features, mask = range(config.n_routed_experts), ALL, None
        if parallel.experts_whole:
            own = parallel.share("n_routed_experts", config.n_routed_experts)
            here = range(own.start, own.stop)
            mask = torch.zeros(config.n_routed_experts, dtype=torch.int32, device=reader.device)
            mask[own] = 1
        else:
            features = parallel.share("moe_intermediate_size", config.moe_intermediate_size, multiple)
        names, shared, extra = [f"{name}.experts.{e}" for e in here], None, f"{name}.shared_experts"
        alike = config.n_shared_experts == 1 and (
            (reader.scaled(f"{extra}.gate_proj"), reader.is_mx(f"{extra}.gate_proj")) == (multiple == BLOCK, mx)
        )
        # Routing by `moe_fused_gate` divides weights by their sum.
        joined = alike and config.norm_topk_prob and not parallel.experts_whole
        names += [extra] * joined
        up = [reader.projection(*(f"{e}.{part}_proj" for part in ("gate", "up")), rows=features) for e in names]
        down = [reader.projection(f"{e}.down_proj", columns=features) for e in names]
        if config.n_shared_experts and not joined:
            inter = config.moe_intermediate_size * config.n_shared_experts
            shared = reader.feed_forward(extra, inter)
        # CPUs read rows as they lie; matrix units of GPUs take them in an order of their own.
        reorder = not persona_for(reader.device.type, reader.device.index).target.startswith("cpu")
        # On gfx targets torch multiplies float32, for any number of rows.
        wide = not reader.is_amd
        w1, w2 = (_all([p.weight for p in each]) for each in (up, down))
        w1_scale, w2_scale = _scales(up), _scales(down)
        if reorder:
            w1, w2 = shuffle_weight(w1), shuffle_weight(w2)
            if mx and w1_scale is not None and w2_scale is not None:
                w1_scale, w2_scale = (shuffle_scale(scale.flatten(0, 1)) for scale in (w1_scale, w2_scale))
        return cls(
            config,
            parallel,
            router=reader.tensor(f"{name}.gate.weight", dtype=None if wide else torch.float32),
            bias=reader.tensor(f"{name}.gate.e_score_correction_bias", dtype=torch.float32),
            w1=w1,
            w2=w2,
            w1_scale=w1_scale,
            w2_scale=w2_scale,
            mask=mask,
            shared=shared,
            joined=joined,
            one_by_one=reader.reduction == "batch_invariant",
        )

    @property
    def code(self) -> None:
        """Routing reads the layer's input too, so `fused_moe` quantises it."""

    def __call__(self, x: Rows) -> Tensor:
        assert isinstance(x, Tensor)
        if self.one_by_one and x.shape[0] > 1:
            routed = torch.cat([self._routed(row) for row in x.unsqueeze(1)])
        else:
            routed = self._routed(x)
        if self.shared is not None:
            routed = routed + self.shared(x)
        return self.parallel.sum(routed)

    def _routed(self, x: Tensor) -> Tensor:
        config = self.config
        logits = self._logits(x)
        topk = config.num_experts_per_tok + self.joined
        weights = torch.empty(x.shape[0], topk, dtype=torch.float32, device=x.device)
        ids = torch.empty(weights.shape, dtype=torch.int32, device=x.device)
        chosen = logits, self.bias, weights, ids, config.n_group, config.topk_group
        if self.joined:
            moe_fused_gate(*chosen, topk, 1, config.routed_scaling_factor)
        else:
            biased_grouped_topk(*chosen, config.norm_topk_prob, config.routed_scaling_factor)
        kind = QuantType.No if self.w1_scale is None else QuantType.per_128x128
        if self.w1_scale is not None and self.w1_scale.dtype == torch.uint8:
            kind = QuantType.per_1x32
        return fused_moe(
            *(x, self.w1, self.w2, weights, ids, self.mask),
            quant_type=kind,
            w1_scale=self.w1_scale,
            w2_scale=self.w2_scale,
        )

    def _logits(self, x: Tensor) -> Tensor:
        """Routing is decided at float32: logits of 16 bits would tie, and choose other experts than the model does."""
        if self.router.dtype == torch.float32:
            return functional.linear(x.float(), self.router)
        if x.shape[0] <= MAX_TOKENS:
            return router_gemm(x, self.router)
        if x.is_cuda:
            return torch.mm(x, self.router.mT, out_dtype=torch.float32)
        return functional.linear(x.float(), self.router.float())


def _scales(parts: list[Projection]) -> Tensor | None:
    scales = [part.scale for part in parts if part.scale is not None]
    return torch.stack(scales) if scales else None


def _all(parts: list[Tensor]) -> Tensor:
    if parts[0].element_size() > 1:
        return torch.stack(parts)
    return torch.stack([part.view(torch.uint8) for part in parts]).view(parts[0].dtype)
