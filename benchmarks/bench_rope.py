"""Rotary embeddings of DeepSeek-R1, and latents on their way to the cache, beside torch, torch.compile and vLLM.

In one run, graph-timed on a GPU, operands and outputs rotated through more than the L2 (through 4,096 copies at most,
which are less where one token is rotated or cached). `rope` rotates q_pe, a view of wider rows, and k_pe in place;
`concat` writes latents to the cache; `fused` does both and joins q; `_fp8` with a cache (and q) of 8 bits. `copy` is
torch's copy of as many bytes; `torch` the same in eager mode, `compiled` torch.compile's code for that (neither looks
for slots of -1); `vllm` its kernels, where it can be imported. `plain` is ours launched as usual, after the kernel
before it has ended (AITERLITE_OVERLAP=0), as theirs are. Prints microseconds, the share of the copy bandwidth that was
measured on an H200 (4.07 TB/s), and the share of bytes that equal torch's; `--json FILE` writes them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from side_by_side import contenders_of, imported, run, tried, with_plain
from torch import Tensor

from aiterlite import cache, rope
from aiterlite.benchmark.timing import Contender, copies_for
from aiterlite.reference import rope as rotation

FP8, COPY_BYTES_PER_SECOND = torch.float8_e4m3fn, 4.07e12
LORA, WIDTH, HEADS, BLOCK, POSITIONS = 512, 64, 16, 64, 8192
MOST_COPIES = 4096
TOKENS = (1, 16, 256, 4096)
KINDS = ("rope", "rope_neox", "concat", "concat_fp8", "fused", "fused_fp8")


@dataclass(frozen=True)
class Operands:
    q: Tensor
    kv_c: Tensor
    k_pe: Tensor
    cos: Tensor
    sin: Tensor
    both: Tensor
    positions: Tensor
    slots: Tensor
    cache: Tensor
    out: Tensor
    scale: Tensor
    source: Tensor

    @property
    def q_nope(self) -> Tensor:
        return self.q[..., :-WIDTH]

    @property
    def q_pe(self) -> Tensor:
        return self.q[..., -WIDTH:]


Call = Callable[[Operands], object]


def is_coded(kind: str) -> bool:
    return kind.endswith("fp8")


def moved_by(kind: str, n: int) -> int:
    """Bytes of rows that are read and written once; tables lie in the L2."""
    rows = n * (HEADS + 1 if not kind.startswith("concat") else 1)
    width = WIDTH if kind.startswith("rope") else LORA + WIDTH
    return rows * width * (3 if is_coded(kind) else 4)


def ours(kind: str) -> Call:
    if kind.startswith("rope"):
        how = int(kind == "rope"), True, False
        return lambda o: rope.rope_cached_positions_2c_fwd_inplace(
            o.q_pe[None], o.k_pe[None, :, None], o.cos, o.sin, o.positions[None], *how
        )
    if kind.startswith("concat"):
        dtype = "fp8" if is_coded(kind) else "auto"
        return lambda o: cache.concat_and_cache_mla(o.kv_c, o.k_pe, o.cache, o.slots, dtype, o.scale)
    return lambda o: cache.fused_qk_rope_concat_and_cache_mla(
        *(o.q_nope, o.q_pe, o.kv_c, o.k_pe, o.cache, o.out, o.slots, o.scale, o.scale, o.positions, o.cos, o.sin),
        is_neox=False,
        is_nope_first=True,
    )


def by_torch(kind: str, o: Operands) -> None:
    k_pe = o.k_pe
    if not kind.startswith("concat"):
        cos, sin, neox = o.cos[o.positions], o.sin[o.positions], kind == "rope_neox"
        q_pe = rotation.rotate(o.q_pe, cos[:, None], sin[:, None], neox)
        k_pe = rotation.rotate(o.k_pe, cos, sin, neox)
        if kind.startswith("rope"):
            o.q_pe.copy_(q_pe)
            o.k_pe.copy_(k_pe)
            return
        joined = torch.cat((o.q_nope, q_pe), -1)
        o.out.copy_(scaled(joined, o) if is_coded(kind) else joined)
    rows = torch.cat((o.kv_c, k_pe), -1)
    if is_coded(kind):
        o.cache.view(torch.uint8).view(-1, LORA + WIDTH)[o.slots] = scaled(rows, o).view(torch.uint8)
    else:
        o.cache.view(-1, LORA + WIDTH)[o.slots] = rows


def scaled(rows: Tensor, o: Operands) -> Tensor:
    return (rows.float() * (1.0 / o.scale)).to(FP8)


def of_torch(kind: str, compiled: bool) -> Call:
    if not compiled:
        return functools.partial(by_torch, kind)
    torch.compiler.reset()
    names = list(Operands.__dataclass_fields__)
    function = torch.compile(lambda *given: by_torch(kind, Operands(*given)), dynamic=False, fullgraph=True)
    return lambda o: function(*[getattr(o, name) for name in names])


def peers(kind: str) -> dict[str, Call]:
    """What vLLM has for a kind."""
    vllm = imported("vllm._custom_ops")
    if vllm is None:
        return {}
    if kind.startswith("rope") and hasattr(vllm, "rotary_embedding"):
        # It takes heads side by side, so all of a head is theirs to rotate: q_pe must be dense.
        neox = kind == "rope_neox"
        dense: dict[int, Tensor] = {}

        def rotary(o: Operands) -> None:
            q_pe = dense.setdefault(id(o), o.q_pe.contiguous())
            vllm.rotary_embedding(o.positions, q_pe.flatten(1), o.k_pe, WIDTH, o.both, neox)

        return {"vllm, dense": rotary}
    if kind.startswith("concat") and hasattr(vllm, "concat_and_cache_mla"):
        dtype = "fp8" if is_coded(kind) else "auto"

        def concat(o: Operands) -> None:
            own = o.cache.view(torch.uint8) if is_coded(kind) else o.cache
            vllm.concat_and_cache_mla(o.kv_c, o.k_pe, own, o.slots, dtype, o.scale)

        return {"vllm": concat}
    return {}


def operands_of(kind: str, n: int, device: torch.device) -> list[Operands]:
    stored = FP8 if is_coded(kind) else torch.bfloat16
    angle = torch.rand(POSITIONS, WIDTH // 2, device=device) * 6.28
    both = torch.cat((angle.cos(), angle.sin()), -1).to(torch.bfloat16)
    cos, sin = both.chunk(2, -1)
    blocks, moved = -(-2 * n // BLOCK), moved_by(kind, n)
    only_rope, joins = kind.startswith("rope"), kind.startswith("fused")

    def rows(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device).to(torch.bfloat16)

    def made() -> Operands:
        # Before q is absorbed it has 128 elements beside those that are rotated.
        q = rows(n, HEADS, (128 if only_rope else LORA) + WIDTH)
        return Operands(
            q,
            rows(n, LORA),
            rows(n, WIDTH),
            cos,
            sin,
            both,
            torch.randint(0, POSITIONS, (n,), device=device),
            torch.randperm(blocks * BLOCK, device=device)[:n],
            torch.zeros(0 if only_rope else blocks, BLOCK, LORA + WIDTH, device=device).to(stored),
            torch.zeros(n if joins else 0, HEADS, LORA + WIDTH, device=device).to(stored),
            torch.full((1,), 0.5, device=device),
            torch.zeros(moved // 2, dtype=torch.uint8, device=device),
        )

    return [made() for _ in range(min(MOST_COPIES, copies_for(device, moved)))]


def agreement(call: Call, kind: str, given: Operands) -> float:
    """The share of bytes that equal torch's in eager mode, of all that is written."""
    results = []
    for each in (call, of_torch(kind, False)):
        own = Operands(**{name: value.clone() for name, value in vars(given).items()})
        each(own)
        written = (own.q_pe, own.k_pe) if kind.startswith("rope") else (own.cache, own.out)
        results.append([tensor.contiguous().view(torch.uint8).flatten() for tensor in written])
    return float((torch.cat(results[0]) == torch.cat(results[1])).double().mean())


def measure(kind: str, n: int, device: torch.device, samples: int) -> dict[str, Any]:
    operands = operands_of(kind, n, device)
    targets = [torch.empty_like(o.source) for o in operands]
    offered = {"ours": ours(kind), "torch": of_torch(kind, False), "compiled": of_torch(kind, True), **peers(kind)}

    def trial(name: str, call: Call) -> float:
        # What vLLM rotates is a copy.
        agreed = 1.0 if name == "vllm, dense" else agreement(call, kind, operands[0])
        call(operands[0])
        return agreed

    calls, equal = tried(offered, trial)
    contenders: dict[str, Contender] = {
        "copy": lambda copy: targets[copy].copy_(operands[copy].source),
        **contenders_of(calls, operands),
    }
    times = with_plain(contenders, len(operands), device, samples)
    moved = moved_by(kind, n)
    share = moved / times["ours"] * 1e6 / COPY_BYTES_PER_SECOND
    print(f"{share:.1%} of the copy bandwidth; copy here {moved / times['copy'] * 1e-6:.2f} TB/s", flush=True)
    return {
        "kind": kind,
        "n": n,
        "heads": HEADS,
        "bytes": moved,
        "microseconds": times,
        "gigabytes_per_second": moved / times["ours"] * 1e-3,
        "share_of_copy_bandwidth": share,
        "equal": equal,
        "copies": len(operands),
    }


if __name__ == "__main__":
    run(__doc__, KINDS, TOKENS, measure)
