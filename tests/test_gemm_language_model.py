"""A tiny mixture-of-experts language model decodes by this package's GEMMs: what the reductions promise, end to end.

The model is made here, of seeded random weights in bfloat16: embedding; layers of RMSNorm, one head of causal
attention, and a router that sends each token to two of eight experts; a head. Its width is such that `wvSplitKrc` cuts
K into several shards in every reduction. The projections are all of the model's sums over K; the rest is torch, row by
row, so that any difference between two runs comes from the projections. L2: cpu, emulated gfx942, a GPU where there is
one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

torch = pytest.importorskip("torch")

from gemm_operands import on  # noqa: E402
from torch import Tensor  # noqa: E402

import aiterlite  # noqa: E402
from aiterlite import dispatch, emulator  # noqa: E402
from aiterlite.emulator import Schedule  # noqa: E402
from aiterlite.reference import gemm as reference  # noqa: E402
from aiterlite.tables import gemm_rc as tables  # noqa: E402
from aiterlite.tables.gemm_rc_plan import REDUCTIONS  # noqa: E402
from aiterlite.target import persona_for  # noqa: E402

# Threads are test_gemm_vocabulary.py's subject.
pytestmark = pytest.mark.usefixtures("one_thread")
WIDTH, HEAD, EXPERT, VOCABULARY = 4224, 32, 32, 64
LAYERS, EXPERTS, CHOSEN = 2, 8, 2
# A layer adds a tenth of its input, and logits spread over about a nat. One bit of a bfloat16 state, which any other
# order of a sum may flip, then moves a log-probability by less than NATS; one step of K that is lost, by far more.
SHARE, LOGIT, SEED = 0.1, 0.25, 3
TOKENS, RUNS = 20, 10
NATS = 0.001
TARGETS = [
    "cpu",
    pytest.param("gfx942", marks=pytest.mark.emulated),
    pytest.param("cuda", marks=pytest.mark.gpu),
]

Project = Callable[..., Tensor]


def by(reduction: str) -> Project:
    """Projections by this package: `linear` where it is asked for, `wvSplitKrc` elsewhere."""

    def project(x: Tensor, weight: Tensor, bias: Tensor | None = None, linear: bool = False) -> Tensor:
        operator = aiterlite.linear if linear else aiterlite.wvSplitKrc
        return operator(x, weight, bias, reduction=reduction)

    return project


def by_reference(x: Tensor, weight: Tensor, bias: Tensor | None = None, linear: bool = False) -> Tensor:
    return reference.linear(x, weight, bias)


def without_a_step(x: Tensor, weight: Tensor, bias: Tensor | None = None, linear: bool = False) -> Tensor:
    """A kernel that loses one step of 32 k."""
    return (
        reference.linear(x[:, 32:], weight[:, 32:], bias) if x.shape[1] == WIDTH else reference.linear(x, weight, bias)
    )


def rms_norm(hidden: Tensor) -> Tensor:
    wide = hidden.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)).bfloat16()


def wide(x: Tensor, weight: Tensor, project: Project, linear: bool = False) -> Tensor:
    """Logits of 16 bits: what rounding to bfloat16 leaves of them is a second product, by way of the bias."""
    coarse = project(x, weight, linear=linear)
    return coarse.float() + project(x, weight, -coarse, linear=linear).float()


@dataclass
class Sequence:
    """What a layer remembers of one sequence: keys and values, [length, HEAD] each."""

    keys: list[Tensor] = field(default_factory=lambda: [torch.empty(0, HEAD)] * LAYERS)
    values: list[Tensor] = field(default_factory=lambda: [torch.empty(0, HEAD)] * LAYERS)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        self.keys[layer] = torch.cat([self.keys[layer].to(key.device), key[None].float()])
        self.values[layer] = torch.cat([self.values[layer].to(value.device), value[None].float()])
        scores = (self.keys[layer] * query.float()).sum(-1) * HEAD**-0.5
        return (torch.softmax(scores, 0)[:, None] * self.values[layer]).sum(0).bfloat16()


class Model:
    def __init__(self, device: str) -> None:
        generator = torch.Generator().manual_seed(SEED)

        def weights(rows: int, columns: int, scale: float = 1.0) -> Tensor:
            made = torch.randn(rows, columns, generator=generator) * scale * columns**-0.5
            return made.bfloat16().to(device)

        self.embedding = torch.randn(VOCABULARY, WIDTH, generator=generator).bfloat16().to(device)
        self.attention = [(weights(3 * HEAD, WIDTH), weights(WIDTH, HEAD, SHARE)) for _ in range(LAYERS)]
        self.routers = [weights(EXPERTS, WIDTH) for _ in range(LAYERS)]
        self.experts = [
            [(weights(2 * EXPERT, WIDTH), weights(WIDTH, EXPERT, SHARE)) for _ in range(EXPERTS)] for _ in range(LAYERS)
        ]
        self.head = weights(VOCABULARY, WIDTH, LOGIT)

    def step(self, tokens: Tensor, sequences: list[Sequence], project: Project) -> Tensor:
        """Log-probabilities [rows, VOCABULARY], float32, of what follows one more token of each sequence."""
        hidden = self.embedding[tokens]
        for layer in range(LAYERS):
            into, out = self.attention[layer]
            parts = project(rms_norm(hidden), into).view(len(sequences), 3, HEAD)
            read = torch.stack([s.attend(layer, *row) for s, row in zip(sequences, parts, strict=True)])
            hidden = hidden + project(read, out, linear=True)
            hidden = hidden + self._mixture(rms_norm(hidden), layer, project)
        final = rms_norm(hidden)
        return torch.log_softmax(wide(final, self.head, project), -1)

    def _mixture(self, x: Tensor, layer: int, project: Project) -> Tensor:
        shares = torch.softmax(wide(x, self.routers[layer], project, linear=True), -1)
        best, chosen = shares.topk(CHOSEN, -1)
        best = best / best.sum(-1, keepdim=True)
        total = torch.zeros(x.shape, device=x.device)
        for expert in range(EXPERTS):
            rows, place = (chosen == expert).nonzero(as_tuple=True)
            if len(rows):
                into, out = self.experts[layer][expert]
                gate, value = project(x[rows], into).float().chunk(2, -1)
                given = project((torch.nn.functional.silu(gate) * value).bfloat16(), out)
                total[rows] += best[rows, place][:, None] * given.float()
        return total.bfloat16()

    def decode(self, starts: list[int], project: Project, forced: Tensor | None = None, steps: int = TOKENS) -> Decoded:
        """Greedily, or along `forced` tokens [steps, rows]."""
        device = self.embedding.device
        tokens, sequences = torch.tensor(starts, device=device), [Sequence() for _ in starts]
        found, taken = [], []
        for step in range(steps):
            found.append(self.step(tokens, sequences, project))
            tokens = found[-1].argmax(-1) if forced is None else forced[step]
            taken.append(tokens)
        return Decoded(torch.stack(found).cpu(), torch.stack(taken))


@dataclass(frozen=True)
class Decoded:
    logprobs: Tensor
    tokens: Tensor


STARTS = [3, 40]
SCHEDULES = [Schedule(quantum=(64, 333, 1024)[run % 3], seed=run) for run in range(RUNS)]


@pytest.mark.parametrize("target", TARGETS)
def test_log_probabilities_are_the_same_bits_in_every_run(target: str) -> None:
    """In the emulator each run has workgroups and waves take turns in another order."""
    with on(target) as device:
        model = Model(device)
        runs = []
        for schedule in SCHEDULES:
            with emulator.watching(sanitize=False, schedule=schedule):
                runs.append(model.decode(STARTS, by("deterministic")))
    first = runs[0]
    assert first.logprobs.shape == (TOKENS, 2, VOCABULARY) and bool(torch.isfinite(first.logprobs).all())
    # A model that says something: what NATS is held against, and another token now and then.
    spread = first.logprobs.amax(-1) - first.logprobs.amin(-1)
    assert float(spread.min()) > 500 * NATS and len(first.tokens.unique()) > 4
    for run in runs[1:]:
        assert torch.equal(run.logprobs.view(torch.int32), first.logprobs.view(torch.int32))
        assert torch.equal(run.tokens, first.tokens)


@pytest.mark.parametrize("target", TARGETS)
def test_modes_drift_by_less_than_a_thousandth_of_a_nat(target: str) -> None:
    """Along the same tokens: the three reductions, and the sums of the reference."""
    with on(target) as device:
        model = Model(device)
        greedy = model.decode(STARTS, by("deterministic"))
        with emulator.watching(sanitize=False, schedule=Schedule(quantum=64, seed=99)):
            others = {mode: model.decode(STARTS, by(mode), greedy.tokens) for mode in REDUCTIONS[1:]}
        others["reference"] = model.decode(STARTS, by_reference, greedy.tokens)
        drifts = {name: float((o.logprobs - greedy.logprobs).abs().max()) for name, o in others.items()}
        assert max(drifts.values()) <= NATS, drifts
        if target != "cpu":
            # On a CPU all are one; elsewhere the orders differ, or this compares nothing.
            assert drifts["batch_invariant"] > 0 and drifts["reference"] > 0
        broken = model.decode(STARTS, without_a_step, greedy.tokens, 4)
        assert float((broken.logprobs - greedy.logprobs[:4]).abs().max()) > NATS


@pytest.mark.parametrize("target", TARGETS)
def test_in_batch_invariant_a_sequence_does_not_notice_the_others(target: str) -> None:
    """Alone, with one more, and with 69 more, for which `deterministic` cuts K otherwise."""
    steps = 3
    with on(target) as device:
        model = Model(device)
        many = torch.randint(0, VOCABULARY, (steps, 70), generator=torch.Generator().manual_seed(2)).to(device)
        starts = [3, *torch.arange(69).remainder(VOCABULARY).tolist()]
        found = {
            mode: [model.decode(starts[:n], by(mode), many[:, :n], steps).logprobs[:, 0] for n in (1, 2, 70)]
            for mode in ("batch_invariant", "deterministic")
        }
        for other in found["batch_invariant"][1:]:
            assert torch.equal(other, found["batch_invariant"][0])
        if target != "cpu":
            assert not torch.equal(found["deterministic"][2], found["deterministic"][0])


@pytest.mark.emulated
@pytest.mark.parametrize("chip", ["gfx942", "gfx950"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_the_model_is_wide_enough_for_several_shards(reduction: str, chip: str) -> None:
    """What this file shows is worth something only if K is cut; atomics need three shards to show an order."""
    with on(chip):
        for n in (1, 2, 70):
            for m in (3 * HEAD, 2 * EXPERT, VOCABULARY):
                problem = tables.RcProblem(n, m, WIDTH, reduction=reduction)
                plan = dispatch.decide(tables.WV_SPLIT_K_RC, problem, persona_for("cpu", None)).plan
                assert plan.shards >= 3, (n, m)


@pytest.mark.emulated
def test_atomics_show_the_order_of_a_run() -> None:
    """The negative control of the runs that agree: the same schedules, and another reduction."""
    with on("gfx942"):
        model = Model("cpu")
        runs = []
        for schedule in SCHEDULES[:4]:
            with emulator.watching(sanitize=False, schedule=schedule):
                runs.append(model.decode(STARTS, by("fast"), steps=4).logprobs)
    assert any(not torch.equal(run, runs[0]) for run in runs[1:])
