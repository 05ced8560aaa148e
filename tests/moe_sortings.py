"""Random calls of the sorting by experts: operands and buffers in the middle of poison, and what they must hold."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from aiterlite.ops import moe_sorting as ops
from aiterlite.reference import moe_sorting as reference
from aiterlite.reference.moe_sorting import Sorted
from aiterlite.tables import moe_sorting as tables

# No entry, weight or expert that a sorting writes. (Of int32 operands the ring is an id and a mask that count.)
POISON, RING = 0x5A5A5A5A, 24
_POISONS = {torch.int32: POISON, torch.float32: 12345.0, torch.bfloat16: 99.0, torch.float16: 99.0}
_BLOCKS = (1, 2, 3, 4, 7, 16, 32, 32, 48, 64, 100, 128, 255, 256)


@dataclass(frozen=True)
class Layout:
    """What of a call is prepared once: shapes, strides, types, what is absent. `spare` entries more than needed."""

    tokens: int
    topk: int
    experts: int
    block_size: int
    policy: int = 0
    masked: bool = False
    counted: bool = False
    local: bool = False
    wide: bool = False
    strides: tuple[int, int] = (0, 0)
    spare: int = 0
    buffer: tuple[int, torch.dtype] = (0, torch.bfloat16)
    valid_words: int = 2


@dataclass(frozen=True)
class Case:
    layout: Layout
    ids: list[list[int]]
    weights: list[list[float]]
    mask: list[int] | None
    live: int | None

    def expected(self) -> Sorted:
        given = self.layout
        return reference.moe_sorting(self.ids, self.weights, given.experts, given.block_size, self.mask, self.live)


def layout_of(source: random.Random, most_pairs: int = 400, most_experts: int = 1024) -> Layout:
    topk = source.choice([1, 2, 5, 8, 9, source.randint(1, 16)])
    tokens = source.choice([0, 1, 2, source.randint(1, 16), source.randint(0, max(1, most_pairs // topk))])
    some = source.choice([1, 2, 8, 16, 60, 64, 128, 256, 257, 300, 512, 513, 1000, 1024])
    experts = min(most_experts, some)
    return Layout(
        tokens=tokens,
        topk=topk,
        experts=experts,
        block_size=source.choice(_BLOCKS),
        policy=source.choice([0, 1, 2]),
        masked=source.random() < 0.5,
        counted=source.random() < 0.3,
        local=source.random() < 0.5,
        wide=source.random() < 0.2,
        strides=(source.choice([0, 0, 1, 10]), source.choice([0, 0, 3])),
        spare=source.choice([0, 0, 5, 1000]),
        buffer=source.choice([(0, torch.bfloat16), (1, torch.bfloat16), (7, torch.float32), (501, torch.float16)]),
        valid_words=source.choice([2, 2, 2, 1]),
    )


def case_of(source: random.Random, layout: Layout) -> Case:
    """Distinct experts, or one for all, or any numbers: -1, the first beyond, and far beyond either end."""
    experts, kind = layout.experts, source.choice(["distinct", "distinct", "one", "few", "any"])
    strange = [-1, experts, -(2**31), 2**31 - 1, experts + 7]
    if layout.wide:
        strange += [1 << 32, (1 << 32) + experts - 1, -(1 << 32)]
    one = source.randrange(experts)

    def row() -> list[int]:
        if kind == "distinct" and layout.topk <= experts:
            return source.sample(range(experts), layout.topk)
        if kind == "any":
            return [source.choice([source.randrange(experts), source.choice(strange)]) for _ in range(layout.topk)]
        return [(one + source.choice([0, 1, 2]) * (kind == "few")) % experts for _ in range(layout.topk)]

    ids = [row() for _ in range(layout.tokens)]
    if kind != "any" and source.random() < 0.5:
        for given in ids:
            given[source.randrange(layout.topk)] = source.choice(strange)
    kept = source.choice([0.0, 0.1, 0.5, 0.9, 1.0])
    return Case(
        layout,
        ids,
        [[round(source.uniform(-2, 2), 3) for _ in given] for given in ids],
        [int(source.random() < kept) * source.choice([1, 1, 5, -1]) for _ in range(experts)] if layout.masked else None,
        source.choice([0, 1, layout.tokens, source.randint(-1, layout.tokens + 3)]) if layout.counted else None,
    )


# Memory ---------------------------------------------------------------------------------------------------------------


@dataclass
class Ringed:
    """Tensors, each in the middle of poison."""

    device: torch.device | str = "cpu"
    whole: dict[str, Tensor] = field(default_factory=dict)
    inner: dict[str, Tensor] = field(default_factory=dict)

    def out(self, name: str, entries: int, dtype: torch.dtype = torch.int32, offset: int = 0) -> Tensor:
        """A buffer of poison, `offset` elements off the place of others."""
        whole = torch.full((entries + 2 * RING + offset,), _POISONS[dtype], dtype=dtype, device=self.device)
        self.whole[name] = whole
        self.inner[name] = whole[RING + offset : RING + offset + entries]
        return self.inner[name]

    def check_rings(self) -> None:
        for name, whole in self.whole.items():
            count = self.inner[name].numel()
            begin = self.inner[name].storage_offset()
            around = torch.cat([whole[:begin], whole[begin + count :]])
            assert bool((around == _POISONS[whole.dtype]).all()), f"{name}: a write outside"


def rows(values: Sequence[Sequence[Any]], shape: tuple[int, int], spare: int, dtype: torch.dtype, fill: Any) -> Tensor:
    """Rows, `spare` elements further apart than they are long, among elements that would count if they were read."""
    tokens, width = shape
    step = width + spare
    whole = torch.full((RING + tokens * step + RING,), fill, dtype=dtype)
    inner = whole.as_strided((tokens, width), (step, 1), RING)
    if tokens:
        inner.copy_(torch.tensor(values, dtype=dtype))
    return inner


def moved(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The same view of the same memory elsewhere."""
    memory = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage()).to(device)
    return memory.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def run(case: Case, device: torch.device | str = "cpu") -> Ringed:
    """One call on fresh memory."""
    layout, made = case.layout, Ringed(device)
    shape = (layout.tokens, layout.topk)
    ids = rows(case.ids, shape, layout.strides[0], torch.int64 if layout.wide else torch.int32, 0)
    weights = rows(case.weights, shape, layout.strides[1], torch.float32, 7.0)
    mask = None if case.mask is None else rows([case.mask], (1, layout.experts), 0, torch.int32, 1)[0]
    live = None if case.live is None else torch.tensor([case.live], dtype=torch.int32)
    given = [tensor if tensor is None else moved(tensor, device) for tensor in (ids, weights, mask, live)]
    entries = tables.least_capacity(layout.tokens * layout.topk, layout.experts, layout.block_size) + layout.spare
    blocks = -(-entries // layout.block_size)
    width, dtype = layout.buffer
    ops.SORT(
        given[0],
        given[1],
        made.out("sorted_ids", entries),
        made.out("sorted_weights", entries, torch.float32),
        made.out("sorted_expert_ids", blocks),
        made.out("num_valid_ids", layout.valid_words),
        # Not at a multiple of 16 bytes, half of the times.
        made.out("moe_buf", layout.tokens * width, dtype, layout.tokens % 2).view(layout.tokens, width),
        made.out("local_topk_ids", layout.tokens * layout.topk if layout.local else 0),
        given[2],
        given[3],
        layout.experts,
        layout.block_size,
        layout.policy,
    )
    return made


def check_prefix(name: str, held: Tensor, prefix: Sequence[Any]) -> None:
    """A buffer begins so, and goes on as poison."""
    wanted = torch.tensor(prefix, dtype=held.dtype, device=held.device)
    assert torch.equal(held[: len(prefix)], wanted), name
    assert bool((held[len(prefix) :] == _POISONS[held.dtype]).all()), f"{name}: a write behind what is valid"


def check(case: Case, made: Ringed, expected: Sorted | None = None) -> None:
    """The valid prefixes are the reference's, and nothing else was written."""
    expected = expected or case.expected()
    assert made.inner["num_valid_ids"].tolist() == list(expected.num_valid_ids)[: case.layout.valid_words]
    for name in ("sorted_ids", "sorted_weights", "sorted_expert_ids"):
        check_prefix(name, made.inner[name], getattr(expected, name))
    if case.layout.local:
        numbers = [number for row in expected.local_topk_ids for number in row]
        check_prefix("local_topk_ids", made.inner["local_topk_ids"], numbers)
    assert not made.inner["moe_buf"].any()
    made.check_rings()


def large(tokens: int, experts: int, topk: int, policy: int, seed: int = 0, **changes: Any) -> Case:
    """A call of many distinct ids, quickly made, every other expert masked, every tenth id none."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.rand(tokens, experts, generator=generator).topk(topk, dim=1).indices.int()
    ids[torch.rand(tokens, topk, generator=generator) < 0.1] = -1
    layout = Layout(tokens, topk, experts, 32, policy, masked=True, local=True, buffer=(24, torch.bfloat16))
    mask = [expert % 2 for expert in range(experts)]
    weights = torch.rand(tokens, topk, generator=generator).tolist()
    return Case(replace(layout, **changes), ids.tolist(), weights, mask, None)


def extremes(policy: int) -> list[Case]:
    """The largest blocks and the most slots that a call may have, and one expert for all."""
    return [
        large(20, 16, 4, policy, block_size=1024),
        large(9, 100, 64, policy, block_size=1000),
        large(6, 1024, 64, policy, block_size=1),
        Case(Layout(300, 2, 1, 37, policy), [[0, 0]] * 300, [[0.5, 0.25]] * 300, None, None),
    ]
