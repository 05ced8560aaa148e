"""A head of 32,768 features decodes by each GEMM of this package: the tokens that a float64 model would take.

The rest of the model is a running mean of embeddings, in torch and row by row, so that any difference between two runs
comes from the head. Logits are made of two products (`wide`), which leaves them 16 bits: with the 8 of bfloat16 many of
the vocabulary would be equal. test_gemm_language_model.py has whole layers, and a small vocabulary. L2: cpu, emulated
gfx942 for one step, a GPU where there is one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

torch = pytest.importorskip("torch")

from gemm_operands import on  # noqa: E402
from torch import Tensor  # noqa: E402
from torch_threads import threads  # noqa: E402

import aiterlite  # noqa: E402
from aiterlite import emulator  # noqa: E402
from aiterlite.reference import gemm as reference  # noqa: E402
from aiterlite.tables.gemm_rc_plan import REDUCTIONS  # noqa: E402
from aiterlite.target import persona_for  # noqa: E402

VOCABULARY, STEPS, BEST, SEED = 32768, 4, 5, 7
WIDTH = {"cpu": 256, "gfx942": 64, "cuda": 4224}
# Logits spread over some nats; float32 sums and 16 bits of a logit leave this much to a log-probability.
LOGIT, NATS = 3.0, 0.001
STARTS = [11 + 1777 * row for row in range(16)]
# Log-probabilities are of the first sequences of a batch, alone, between two, and in a full one.
BATCHES = (1, 3, 16)
FP8 = {"e4m3fn": torch.float8_e4m3fn, "e4m3fnuz": torch.float8_e4m3fnuz}

# Logits, float32 or float64, of states [rows, width].
Head = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Model:
    embedding: Tensor
    head: Tensor
    # The head in 8 bits, with a scale a row.
    stored: Tensor
    scales: Tensor

    def decode(self, batch: int, head: Head, steps: int = STEPS) -> tuple[Tensor, Tensor]:
        """Greedily: the log-probabilities [steps, batch, VOCABULARY] on the CPU, and the tokens taken."""
        tokens = torch.tensor(STARTS[:batch], device=self.embedding.device)
        mean = torch.zeros(batch, self.embedding.shape[1], device=tokens.device)
        found, taken = [], []
        for _ in range(steps):
            mean = 0.5 * mean + self.embedding[tokens].float()
            state = (mean * torch.rsqrt(mean.square().mean(-1, keepdim=True))).bfloat16()
            logits = head(state)
            tokens = logits.argmax(-1)
            found.append(torch.log_softmax(logits, -1).cpu())
            taken.append(tokens.cpu())
        return torch.stack(found), torch.stack(taken)

    def quantised(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """A state in 8 bits, with a scale a token."""
        scale = state.float().abs().amax(-1, keepdim=True) / 200
        return (state.float() / scale).to(self.stored.dtype), scale

    def by(self, name: str) -> Head:
        """The head by an operator."""
        operator, _, reduction = name.partition(" ")
        if operator == "wvSplitKQ":

            def scaled(state: Tensor) -> Tensor:
                x, scale = self.quantised(state)
                return wide(lambda bias: aiterlite.wvSplitKQ(x, self.stored, torch.bfloat16, scale, self.scales, bias))

            return scaled
        keywords = {"reduction": reduction} if reduction else {}
        return lambda state: wide(lambda bias: getattr(aiterlite, operator)(state, self.head, bias, **keywords))

    def exactly(self, name: str) -> Head:
        """The same in float64."""
        if name != "wvSplitKQ":
            return lambda state: state.double() @ self.head.double().T

        def scaled(state: Tensor) -> Tensor:
            x, scale = self.quantised(state)
            return (x.double() @ self.stored.double().T) * reference.scales(x, scale, self.scales)

        return scaled


def wide(product: Callable[[Tensor | None], Tensor]) -> Tensor:
    """Logits of 16 bits: what rounding to bfloat16 leaves of them is a second product, by way of the bias."""
    coarse = product(None)
    return coarse.float() + product(-coarse).float()


NAMES = ["wvSplitK", *(f"wvSplitKrc {reduction}" for reduction in REDUCTIONS), "linear", "wvSplitKQ"]
TARGETS = ["cpu", pytest.param("gfx942", marks=pytest.mark.emulated), pytest.param("cuda", marks=pytest.mark.gpu)]
each_name = pytest.mark.parametrize("name", NAMES)
_models: dict[str, Model] = {}
_exact: dict[tuple[str, bool], tuple[Tensor, Tensor]] = {}


@contextlib.contextmanager
def model_on(target: str) -> Iterator[Model]:
    """The model, made once for each target."""
    with on(target) as device:
        if target not in _models:
            generator = torch.Generator().manual_seed(SEED)
            width = WIDTH[target]
            embedding = torch.randn(VOCABULARY, width, generator=generator)
            head = torch.randn(VOCABULARY, width, generator=generator) * LOGIT * width**-0.5
            scales = head.abs().amax(-1, keepdim=True) / 200
            stored = (head / scales).to(FP8[persona_for(device, None).fp8])
            made = (embedding.bfloat16(), head.bfloat16(), stored, scales)
            _models[target] = Model(*(tensor.to(device) for tensor in made))
        yield _models[target]


def exact(model: Model, target: str, name: str, batch: int, steps: int) -> tuple[Tensor, Tensor]:
    """What a float64 head decodes: of a full batch once, since its rows do not notice each other."""
    key = (target, name == "wvSplitKQ")
    if key not in _exact:
        _exact[key] = model.decode(max(BATCHES) if target != "gfx942" else 1, model.exactly(name), steps)
    logprobs, tokens = _exact[key]
    return logprobs[:, :batch], tokens[:, :batch]


def assert_same_tokens(found: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor]) -> None:
    """The token taken, the five best in their order, and every log-probability."""
    assert torch.equal(found[1], wanted[1])
    assert torch.equal(found[0].topk(BEST, -1).indices, wanted[0].topk(BEST, -1).indices)
    assert float((found[0].double() - wanted[0].double()).abs().max()) <= NATS


@each_name
@pytest.mark.parametrize("target", [TARGETS[0], TARGETS[2]])
def test_every_run_and_batch_takes_the_tokens_of_float64(name: str, target: str) -> None:
    """The same bits from one number of threads to another, where the reduction promises them, and on a CPU from one
    batch to another as well; the tokens always."""
    with model_on(target) as model:
        runs = {}
        for batch in BATCHES:
            counts = (1, 2, 3) if target == "cpu" else (1, 1, 1)
            found = []
            for count in counts:
                with threads(count):
                    found.append(model.decode(batch, model.by(name)))
            for run in found:
                assert_same_tokens(run, exact(model, target, name, batch, STEPS))
                if target == "cpu" or not name.endswith("fast"):
                    assert torch.equal(run[0].view(torch.int32), found[0][0].view(torch.int32))
            runs[batch] = found[0]
        if target == "cpu" or name.endswith("batch_invariant"):
            for batch in BATCHES[1:]:
                assert torch.equal(runs[batch][0][:, :1].view(torch.int32), runs[1][0].view(torch.int32))
        taken = runs[max(BATCHES)][1]
        assert len(taken.unique()) > STEPS * len(STARTS) // 2, "a model that says something"


@pytest.mark.emulated
@pytest.mark.parametrize("name", [NAMES[0], NAMES[1], NAMES[-1]])
def test_the_emulated_chip_takes_the_token_of_float64(name: str) -> None:
    with model_on("gfx942") as model, emulator.watching(sanitize=False):
        assert_same_tokens(model.decode(1, model.by(name), 1), exact(model, "gfx942", name, 1, 1))


def test_what_would_show() -> None:
    """The negative controls: one step of 32 k that is lost, a weight row that is its neighbour, 8 bits of a logit."""
    with model_on("cpu") as model, threads(1):
        wanted = exact(model, "cpu", "wvSplitK", 3, STEPS)
        broken: list[Head] = [
            lambda state: wide(lambda bias: aiterlite.wvSplitK(state[:, 32:], model.head[:, 32:], bias)),
            lambda state: model.by("wvSplitK")(state).roll(1, -1),
            lambda state: aiterlite.wvSplitK(state, model.head).float(),
        ]
        for head in broken:
            with pytest.raises(AssertionError):
                assert_same_tokens(model.decode(3, head), wanted)
