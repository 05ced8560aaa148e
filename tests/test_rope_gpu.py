"""Rotary embeddings and caches of latents on an NVIDIA GPU: a model's sizes, captured graphs whose slots and positions
change, rows that the kernel before writes, and the same bits for a token in any batch. `test_rope.py` and
`test_cache_mla.py` have every form."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from quant_cases import same  # noqa: E402
from rope_cases import CacheCase, Case, check_concat, check_fused, run  # noqa: E402

import aiterlite  # noqa: E402
from aiterlite import cache, rope  # noqa: E402
from aiterlite.reference import cache as reference  # noqa: E402
from aiterlite.reference import rope as rotation  # noqa: E402

pytestmark = pytest.mark.gpu
FN, B = torch.float8_e4m3fn, torch.bfloat16
LORA, WIDTH, HEADS, POSITIONS = 512, 64, 16, 8192


@pytest.mark.parametrize("heads", [(16, 1), (128, 8)])
@pytest.mark.parametrize("n", [1, 16, 255, 2048])
def test_a_model_s_rows(n: int, heads: tuple[int, int]) -> None:
    run(Case((n,), heads, pad=128), "cuda", n)
    run(Case((n,), heads, 128, 128, style=0, table="fp32"), "cuda", n)
    run(Case((n, 2), heads, 192, 64, style=0, nope_first=True, half=False, with_offsets=True), "cuda", n)


@pytest.mark.parametrize("code", [B, FN, torch.float8_e4m3fnuz])
@pytest.mark.parametrize("n", [1, 16, 255, 2048])
def test_a_model_s_latents(n: int, code: torch.dtype) -> None:
    check_concat(CacheCase(n, block=64, cache=code), "cuda", seed=n)
    check_fused(CacheCase(n, heads=HEADS, block=64, cache=code, q=code), "cuda", n)
    check_fused(CacheCase(n, heads=5, block=16, gap=1, cache=code, neox=True, nope_first=False, pad=8), "cuda", n)


class Call:
    """Operands of a fused call of `tokens`, on the GPU."""

    def __init__(self, tokens: int, seed: int = 0, slots: int = 1 << 14) -> None:
        generator = torch.Generator(device="cuda").manual_seed(seed)

        def rows(*shape: int) -> Any:
            return (torch.randn(*shape, device="cuda", generator=generator) * 3).to(B)

        self.q, self.kv_c, self.k_pe = rows(tokens, HEADS, LORA + WIDTH), rows(tokens, LORA), rows(tokens, WIDTH)
        angle = torch.rand(POSITIONS, WIDTH // 2, device="cuda", generator=generator) * 6.28
        self.cos, self.sin = angle.cos().to(B), angle.sin().to(B)
        self.cache = torch.zeros(slots // 64, 64, LORA + WIDTH, dtype=B, device="cuda")
        self.slots = torch.randperm(slots, device="cuda", generator=generator)[:tokens]
        self.positions = torch.randint(0, POSITIONS, (tokens,), device="cuda", generator=generator)
        self.out, self.scale = torch.zeros_like(self.q), torch.ones(1, device="cuda")

    def run(self, n: int | None = None) -> None:
        """Of the first n tokens: slots tell how many there are."""
        rest = self.scale, self.scale, self.positions, self.cos, self.sin, False, True
        of_q = self.q[..., :LORA], self.q[..., LORA:]
        cache.fused_qk_rope_concat_and_cache_mla(
            *of_q, self.kv_c, self.k_pe, self.cache, self.out, self.slots[:n], *rest
        )

    def wanted(self) -> tuple[Any, Any]:
        """What q_out and the cache must be, of zeros."""
        q, k_pe, cos, sin, at = (t.cpu() for t in (self.q, self.k_pe, self.cos, self.sin, self.positions))
        there = (self.slots >= 0).cpu()
        out = torch.where(there[:, None, None], rotation.rope(q, cos, sin, at, False, nope_first=True), 0.0)
        turned = rotation.rope(k_pe[:, None], cos, sin, at, False)
        own = torch.zeros(self.cache.shape, dtype=B)
        reference.write(own[:, :, None], self.slots.cpu(), self.kv_c.cpu()[:, None], turned, None)
        return out.to(B), own


def test_a_token_s_bits_do_not_depend_on_others() -> None:
    call, found = Call(4096), []
    for n in (4096, 255, 16, 1):
        call.out.zero_(), call.cache.zero_()
        call.run(n)
        assert not bool(call.out[n:].any())
        found.append((call.out.clone(), call.cache.view(-1, LORA + WIDTH)[call.slots].clone()))
    for (out, own), n in zip(found[1:], (255, 16, 1), strict=True):
        assert same(out[:n], found[0][0][:n]) and same(own[:n], found[0][1][:n])


@pytest.mark.parametrize("n", [1, 16, 256])
def test_a_graph_follows_slots_and_positions(n: int) -> None:
    """A graph of n tokens serves fewer: the slots of the others become -1, and their positions absurd."""
    call = Call(n)
    call.run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call.run()
    for live in (n, max(1, n // 3), 0):
        call.slots.copy_(torch.randperm(1 << 14, device="cuda")[:n])
        call.positions.copy_(torch.randint(0, POSITIONS, (n,), device="cuda"))
        call.slots[live:], call.positions[live:] = -1, 1 << 62
        call.out.zero_(), call.cache.zero_()
        graph.replay()
        torch.cuda.synchronize()
        out, own = call.wanted()
        assert same(call.out, out) and same(call.cache, own)


@pytest.mark.parametrize("n", [1, 16])
def test_rows_that_the_kernel_before_writes_are_read_after_it(n: int) -> None:
    """A kernel of this package, which lets its successor start early, writes what is rotated; so do rope and the cache,
    one after the other, in one graph many times over. No result is of the rows that were there before."""
    weights = [(torch.randn(HEADS * WIDTH, 256, device="cuda") / 16).to(B) for _ in range(6)]
    inputs = [torch.randn(n, 256, device="cuda").to(B) for _ in weights]
    calls = [Call(n, seed) for seed in range(len(weights))]

    def chain() -> list[Any]:
        found = []
        for weight, given, call in zip(weights, inputs, calls, strict=True):
            y = aiterlite.linear(given, weight).view(n, HEADS, WIDTH)
            at = call.positions
            once = rope.rope_cached_positions_fwd(y[None], call.cos, call.sin, at[None], 1, True, False)[0]
            call.q[..., LORA:] = once
            call.run()
            found.append((y, once))
        return found

    chain()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = chain()
    for turn in range(20):
        for given, call in zip(inputs, calls, strict=True):
            given.copy_(torch.roll(given, turn + 1, -1))
            call.positions.copy_((call.positions + 7) % POSITIONS)
            call.out.zero_(), call.cache.zero_()
        graph.replay()
    torch.cuda.synchronize()
    for (y, once), call in zip(found, calls, strict=True):
        turned = rotation.rope(y.cpu(), call.cos.cpu(), call.sin.cpu(), call.positions.cpu(), False)
        assert same(once, turned)
        out, own = call.wanted()
        assert same(call.out, out) and same(call.cache, own)


def test_a_cache_of_more_than_two_gigabytes() -> None:
    """The last slot of a cache whose elements no 32-bit number counts."""
    slots = (1 << 31) // (LORA + WIDTH) + 1024
    own = torch.zeros(slots, 1, LORA + WIDTH, dtype=torch.uint8, device="cuda").view(FN)
    kv_c, k_pe = torch.ones(2, LORA, dtype=B, device="cuda"), torch.full((2, WIDTH), 2.0, dtype=B, device="cuda")
    at = torch.tensor([slots - 1, slots], device="cuda")
    cache.concat_and_cache_mla(kv_c, k_pe, own, at, "fp8", torch.ones(1, device="cuda"))
    last = own[-1, 0].float().cpu()
    assert bool((last[:LORA] == 1).all()) and bool((last[LORA:] == 2).all())
    assert not bool(own[:-1].view(torch.uint8).any())
