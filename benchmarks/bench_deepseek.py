"""A decode step of DeepSeek-R1's layers at the width of one of eight ranks, as a captured graph on a GPU.

Real dimensions: 7168 wide, 16 of 128 heads, 256 experts of 256 features (of 2048), of which a token has 8, a shared
expert likewise, fp8 in blocks, bf16 latents. `--layers` layers of experts stand one behind another, so that no layer
finds its weights in the L2; a layer's time is a step's, less that of a step of the head alone, over their number.
Weights are random, so a batch hits about as many experts as random choice would; those that were hit are counted, and
the floor reads them, all other weights and the latents once, at `--rate` TB/s. `--profile` prints a layer's time by
kernel: what each adds to the end of all before it.

    python benchmarks/bench_deepseek.py --batch 1,16,64 --context 4096 --json FILE
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aiterlite.models import deepseek
from aiterlite.models.deepseek import experts
from aiterlite.models.deepseek.random import shapes

BLOCK = 128
# Of a profile; microseconds between kernels that are no part of a step.
_REPLAYS, _IDLE = 5, 20.0
RANK = deepseek.Config(
    vocab_size=16160,
    hidden_size=7168,
    intermediate_size=2304,
    moe_intermediate_size=256,
    num_hidden_layers=4,
    num_attention_heads=16,
    n_routed_experts=256,
    num_experts_per_tok=8,
    n_group=8,
    topk_group=4,
    q_lora_rank=1536,
    first_k_dense_replace=0,
    max_position_embeddings=16384,
    block_scaled=True,
)


class RandomWeights(Mapping[str, Tensor]):
    """A checkpoint that is made up as it is read, on the GPU: codes of projections, bf16 of all else."""

    def __init__(self, config: deepseek.Config, device: torch.device) -> None:
        self._shapes, self._device = shapes(config), device
        self._scaled = {
            f"{name}_scale_inv": tuple(-(-size // BLOCK) for size in shape)
            for name, shape in self._shapes.items()
            if name.endswith("_proj.weight") or "kv_a_proj_with_mqa" in name
        }

    def __getitem__(self, name: str) -> Tensor:
        if name in self._scaled:
            columns = self._shapes[name.removesuffix("_scale_inv")][1]
            # Codes are of magnitude 1.
            return torch.full(self._scaled[name], columns**-0.5, device=self._device)
        noise = torch.randn(self._shapes[name], dtype=torch.bfloat16, device=self._device)
        if f"{name}_scale_inv" in self._scaled:
            return noise.to(torch.float8_e4m3fn)
        if name.endswith("norm.weight"):
            return 1 + noise / 10
        if name.endswith("correction_bias"):
            return noise.float() / 100
        return noise if "embed" in name else noise * self._shapes[name][-1] ** -0.5

    def __contains__(self, name: object) -> bool:
        return name in self._shapes or name in self._scaled

    def __iter__(self) -> Iterator[str]:
        return iter((*self._shapes, *self._scaled))

    def __len__(self) -> int:
        return len(self._shapes) + len(self._scaled)


def bytes_of(model: deepseek.DeepSeek, hit: list[Tensor], batch: int, context: int) -> dict[str, int]:
    """What a layer of the step must read: of the experts those that were hit, by the median layer."""
    layer = model.layers[0]
    block = layer.feed_forward
    assert isinstance(block, experts.Experts)
    kept = [field for part in (layer.attention, layer.input_norm, layer.output_norm) for field in tensors(part)]
    count = statistics.median(len(ids.unique()) for ids in hit)
    each = (block.w1.nbytes + block.w2.nbytes) // block.w1.shape[0]
    return {
        "attention and norms": sum(tensor.nbytes for tensor in kept),
        "router": block.router.nbytes,
        "experts": round(count * each),
        "latents": batch * context * model.cache.latents.shape[-1] * model.cache.latents.element_size(),
    }


def tensors(part: Any) -> list[Tensor]:
    """The weights that a part of the model holds; the tables of rope are read a row at a time."""
    found: list[Tensor] = []
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if isinstance(value, Tensor):
            found.append(value)
        elif dataclasses.is_dataclass(value) and field.name not in ("config", "parallel", "rope"):
            found += tensors(value)
    return found


def seconds(graph: torch.cuda.CUDAGraph, samples: int) -> float:
    make_event: Any = torch.cuda.Event
    begin, end = make_event(enable_timing=True), make_event(enable_timing=True)
    times = []
    for _ in range(samples):
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e-3)
    return statistics.median(times)


def hit_by(graph: deepseek.DecodeGraph, requests: list[deepseek.Request], tokens: list[int]) -> list[Tensor]:
    """The experts' ids of each layer, of a step that is launched and taken back."""
    found: list[Tensor] = []
    call = experts.fused_moe

    def noted(x: Tensor, w1: Tensor, w2: Tensor, weights: Tensor, ids: Tensor, *rest: Any, **more: Any) -> Tensor:
        found.append(ids.clone())
        made: Tensor = call(x, w1, w2, weights, ids, *rest, **more)
        return made

    experts.fused_moe = noted  # type: ignore[assignment]
    try:
        graph.model.decode(requests, tokens)
    finally:
        experts.fused_moe = call
    return found


def measure(model: deepseek.DeepSeek, batch: int, context: int, samples: int, profile: bool) -> dict[str, Any]:
    graph = deepseek.DecodeGraph(model, batch, context)
    requests = [deepseek.Request() for _ in range(batch)]
    # Latents of a prompt that was never run: any numbers take as long.
    model.cache.places(requests, context - 2)
    tokens = [(37 * i + 11) % model.config.vocab_size for i in range(batch)]
    hit = hit_by(graph, requests, tokens)
    graph.decode(requests, tokens)
    step = seconds(graph.graph, samples)
    head = head_seconds(model, batch, samples)
    parts = bytes_of(model, hit, batch, context)
    layer = (step - head) / len(model.layers)
    row = {
        "batch": batch,
        "context": context,
        "step_us": step * 1e6,
        "head_us": head * 1e6,
        "layer_us": layer * 1e6,
        "bytes": parts,
        "head_bytes": model.head.weight.nbytes,
    }
    if profile:
        row["kernels_us"] = by_kernel(graph.graph, len(model.layers))
    for request in requests:
        model.cache.release(request)
    return row


def head_seconds(model: deepseek.DeepSeek, batch: int, samples: int) -> float:
    """Embedding, last norm and head, as they stand in a step."""
    ids = torch.zeros(batch, dtype=torch.int64, device=model.embedding.device)
    graph = torch.cuda.CUDAGraph()
    with torch.inference_mode():

        def run() -> Tensor:
            x = model.embed(ids)
            return model.logits(model.norm.add(x, x)[0])

        run()
        with torch.cuda.graph(graph):
            run()
    return seconds(graph, samples)


def by_kernel(graph: torch.cuda.CUDAGraph, layers: int) -> dict[str, float]:
    """Microseconds a layer that each kernel adds: launches overlap, and one that waits for another takes no time."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        for _ in range(_REPLAYS):
            graph.replay()
            torch.cuda.synchronize()
    spans = [(e.time_range.start, e.time_range.end, e.name) for e in profiled.events() if e.device_type.name == "CUDA"]
    times: dict[str, float] = {}
    latest = 0.0
    for start, end, name in sorted(spans):
        # A replay's first kernel starts where the device was idle.
        added = end - (latest if start - latest < _IDLE else start)
        times[name[:80]] = times.get(name[:80], 0.0) + max(added, 0.0) / _REPLAYS / layers
        latest = max(latest, end)
    return dict(sorted(times.items(), key=lambda item: -item[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", default="1,16,64")
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--samples", type=int, default=31)
    parser.add_argument("--rate", type=float, default=4.07, help="TB/s that the floor goes by: a copy's, on an H200")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    batches = [int(batch) for batch in options.batch.split(",")]
    device = torch.device("cuda")
    config = dataclasses.replace(RANK, num_hidden_layers=options.layers)
    pages = max(batches) * -(-options.context // 64) + 1
    weights = RandomWeights(config, device)
    model = deepseek.load("", config=config, weights=weights, device=device, pages=pages, page_size=64)
    with torch.inference_mode():
        model.cache.latents.normal_()
    rows = []
    for batch in batches:
        row = measure(model, batch, options.context, options.samples, options.profile)
        floor = sum(row["bytes"].values()) / options.rate * 1e-6
        step = floor * options.layers + row["head_bytes"] / options.rate * 1e-6
        row |= {"layer_floor_us": floor, "layer_of_floor": floor / row["layer_us"], "step_floor_us": step}
        rows.append(row)
        print(
            f"batch {batch:>3}  layer {row['layer_us']:.1f} us, {row['layer_of_floor']:.0%} of its floor {floor:.1f}  "
            f"step of {options.layers} layers and the head {row['step_us']:.1f} us, {step / row['step_us']:.0%}  "
            + "  ".join(f"{name} {size / 1e6:.1f} MB" for name, size in row["bytes"].items()),
            flush=True,
        )
        for name, time in row.get("kernels_us", {}).items():
            print(f"    {time:8.2f}  {name}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
