"""Every call that a server of a model can make, found by making them on tensors without memory.

A server runs decode steps of 1 to `max_batch` requests of any length, and chunks of prompts of 1 to `chunk` tokens. The
model itself is run for each of these, of each kind of layer one; no list of its operators is kept here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from aiterlite import envs
from aiterlite.errors import ArgumentError
from aiterlite.models.deepseek.cache import Chunk, Step
from aiterlite.models.deepseek.config import BLOCK, Config
from aiterlite.models.deepseek.model import DeepSeek, load
from aiterlite.models.deepseek.parallel import Parallel
from aiterlite.models.deepseek.quark import MX_PACK
from aiterlite.models.deepseek.random import shapes
from aiterlite.ops.planning import Planned, Planner
from aiterlite.tables.mla_context import CONTEXTS
from aiterlite.tables.mx_types import BLOCK as MX_BLOCK

_NAME = "aiterlite.models.deepseek"
# Of ranks, requests and tokens: planning goes through each number of them.
_MOST = 2**16
_NOT_LINEAR = ("embed_tokens", "lm_head", "gate")
_UNSCALED = (*_NOT_LINEAR, "eh_proj")


@dataclass(frozen=True)
class Server:
    """How a model is served: ranks that share heads and features (`tensor_parallel`), whether experts are whole on one
    of them each (`expert_parallel` is then as many), requests of a decode step, tokens of a chunk of a prompt, and what
    `load` takes of the same names."""

    config: Config
    tensor_parallel: int = 1
    expert_parallel: int = 1
    max_batch: int = 256
    chunk: int = 512
    page_size: int = 16
    drafts: bool = False
    batch_invariant: bool = False
    kv_cache: str = "auto"
    persistent: bool = False

    def __post_init__(self) -> None:
        ranks = self.tensor_parallel
        if self.expert_parallel not in (1, ranks):
            allowed = "1, or as many as tensor_parallel: experts are shared by the ranks that share heads"
            raise ArgumentError(_NAME, "expert_parallel", self.expert_parallel, allowed)
        for name in ("tensor_parallel", "max_batch", "chunk", "page_size"):
            if not 1 <= getattr(self, name) <= _MOST:
                raise ArgumentError(_NAME, name, getattr(self, name), f"1 to {_MOST}")

    @property
    def steps(self) -> int:
        """What `everything` goes through."""
        return self.max_batch + min(self.chunk, self.config.max_position_embeddings)

    def check(self) -> None:
        """Raises `ArgumentError` for ranks that cannot share the model, and for drafts of one without a head of them,
        before any target is planned for."""
        with envs.override(AITERLITE_TARGET=None):
            self.model()

    def model(self, pages: int = 1) -> DeepSeek:
        """A rank of it without memory, of one layer of each kind, for the target that AITERLITE_TARGET names."""
        config = self.config
        dense = min(config.first_k_dense_replace, 1)
        sparse = min(config.num_hidden_layers - config.first_k_dense_replace, 1)
        config = dataclasses.replace(
            config,
            first_k_dense_replace=dense,
            num_hidden_layers=dense + max(0, sparse),
            num_nextn_predict_layers=min(config.num_nextn_predict_layers, 1),
        )
        return load(
            "",
            config=config,
            weights=_weights(config),
            device="meta",
            parallel=_Lone(0, self.tensor_parallel, experts_whole=self.expert_parallel > 1),
            pages=pages,
            page_size=self.page_size,
            chunk=self.chunk,
            batch_invariant=self.batch_invariant,
            drafts=self.drafts,
            kv_cache=self.kv_cache,
            persistent=self.persistent,
        )


class _Lone(Parallel):
    """A rank whose others are not there: shapes are those that it would have with them."""

    def sum(self, x: Tensor) -> Tensor:
        return x

    def beside(self, x: Tensor) -> Tensor:
        return torch.cat([x] * self.world, -1)


def everything(server: Server, target: str, tell: Callable[[str], None] = lambda _: None) -> Planner:
    """Every call of a server on a target. `tell` hears of each of `server.steps`."""
    rows, longest = 2 if server.drafts else 1, server.config.max_position_embeddings
    with envs.override(AITERLITE_TARGET=target), Planner() as planner, torch.inference_mode():
        model = server.model()
        for batch in range(1, server.max_batch + 1):
            since = len(planner.calls)
            place = _step(model, batch, longest, rows)
            step(model, place)
            for context in _contexts(longest):
                planner.again(since, place.pages, _step(model, batch, context, rows).pages)
            tell(target)
        for tokens in range(1, min(server.chunk, longest) + 1):
            prompt(model, tokens, tokens)
            tell(target)
        prompt(model, tokens, longest)
    return planner


def one_step(server: Server, target: str, batch: int, context: int) -> Planner:
    """The calls of a decode step of so many requests, each of `context` tokens."""
    with envs.override(AITERLITE_TARGET=target), Planner() as planner, torch.inference_mode():
        model = server.model(batch * -(-context // server.page_size))
        step(model, _step(model, batch, context, 2 if server.drafts else 1))
    return planner


def one_chunk(server: Server, target: str, tokens: int, history: int) -> Planner:
    """The calls of a part of a prompt, the last of `history` tokens."""
    with envs.override(AITERLITE_TARGET=target), Planner() as planner, torch.inference_mode():
        prompt(server.model(), tokens, history)
    return planner


def step(model: DeepSeek, place: Step) -> None:
    """A decode step, with its draft where the model has one."""
    tokens = _longs(place.positions.shape[0])
    hidden = model.run(tokens, place)
    model.logits(hidden)
    if model.draft is not None:
        model.logits(model.draft(hidden, model.embed(tokens), model.attend(place)))


def prompt(model: DeepSeek, tokens: int, history: int) -> None:
    """A part of a prompt, the last `tokens` of `history`: logits follow the last token alone."""
    slots = _longs(history)
    place = Chunk(_longs(tokens), slots[history - tokens :], slots)
    ids = _longs(tokens)
    hidden = model.run(ids, place)
    model.logits(hidden[-1:])
    if model.draft is not None:
        model.logits(model.draft(hidden, model.embed(ids), model.attend(place))[-1:])


def bytes_of(server: Server, call: Planned, batch: int, context: int) -> int:
    """What a call of a decode step must read and write: its operands and results, each once; of those that only a part
    is read of (a cache, tables of positions, experts that no token has) that part, and of experts what it is on average
    where all are as likely."""
    rows = batch * (2 if server.drafts else 1)
    routed = server.config.n_routed_experts
    chosen = 1 - (1 - server.config.num_experts_per_tok / routed) ** rows

    def hit(t: Tensor) -> float:
        # A shared expert among the others is each token's.
        shared = max(0, t.shape[0] - routed)
        return (chosen * (t.shape[0] - shared) + shared) / t.shape[0]

    read: dict[tuple[str, str], Callable[[Tensor], float]] = {
        ("embedding", "weight"): lambda t: rows / t.shape[0],
        ("mla_decode_fwd", "kv_buffer"): lambda t: batch * context / (t.shape[0] * t.shape[1]),
        ("fused_qk_rope_concat_and_cache_mla", "kv_cache"): lambda t: rows / (t.shape[0] * t.shape[1]),
        ("fused_qk_rope_concat_and_cache_mla", "cos_cache"): lambda t: rows / t.shape[0],
        ("fused_qk_rope_concat_and_cache_mla", "sin_cache"): lambda t: rows / t.shape[0],
        **{("fused_moe", name): hit for name in ("w1", "w2", "w1_scale", "w2_scale")},
    }
    moved = 0.0
    for name, tensor in call.tensors.items():
        part = read.get((call.op, name))
        moved += tensor.nbytes * (part(tensor) if part else 1)
    return round(moved)


def _contexts(most: int) -> list[int]:
    """Tokens of requests below the most, as many as are told apart where attention is decided."""
    return [context for context in CONTEXTS if context < most]


def _step(model: DeepSeek, batch: int, context: int, rows: int) -> Step:
    """A step of `batch` requests of `context` tokens, `rows` of them new. Its operands have shapes only."""
    pages = batch * -(-context // model.cache.page_size)
    return Step(
        positions=_longs(batch * rows),
        slots=_longs(batch * rows),
        rows=_ints(batch + 1),
        page_rows=_ints(batch + 1),
        pages=_ints(pages),
        last_lengths=_ints(batch),
        most_rows=rows,
    )


def _longs(count: int) -> Tensor:
    return torch.empty(count, dtype=torch.int64, device="meta")


def _ints(count: int) -> Tensor:
    return torch.empty(count, dtype=torch.int32, device="meta")


def _weights(config: Config) -> Mapping[str, Tensor]:
    """A checkpoint of the model without memory, as Hugging Face's are."""
    found = {}
    for name, shape in shapes(config).items():
        kind = name.split(".")[-2]
        scaled = config.block_scaled and len(shape) == 2 and kind not in _UNSCALED
        layer = name.removesuffix(".weight")
        if config.quark is not None and len(shape) == 2 and kind not in _NOT_LINEAR and config.quark.has(layer):
            for suffix, each in (("", MX_PACK), ("_scale", MX_BLOCK)):
                part = shape[0], shape[1] // each
                found[name + suffix] = torch.empty(part, dtype=torch.uint8, device="meta")
            continue
        dtype = torch.float8_e4m3fn if scaled else torch.bfloat16
        found[name] = torch.empty(shape, dtype=dtype, device="meta")
        if scaled:
            blocks = [-(-size // BLOCK) for size in shape]
            found[f"{name}_scale_inv"] = torch.empty(blocks, dtype=torch.float32, device="meta")
    return found
