"""The demonstration: a small DeepSeek model of random weights generates tokens on this machine, beside plain torch.

Both have the same weights and read the same tokens. What the operators chose and built for that is listed, and for
targets of AMD one decode step more is executed from their machine code in the emulator, and compared.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from aiterlite import envs, target
from aiterlite.dispatch import Decision
from aiterlite.emulator import library
from aiterlite.errors import AiterliteError, BuildError
from aiterlite.jit import engine, jobs, process, progress
from aiterlite.jit.spec import Unit

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from aiterlite.models import deepseek

# Prompts as long as those that are served: what a token leaves in the cache is a tenth of plain torch's.
REQUESTS, PROMPT, STEPS = 4, 512, 24
# A DeepSeek-V3 model with the head dimensions of the real one, and everything else small.
MODEL: Mapping[str, Any] = {
    "model_type": "deepseek_v3",
    "vocab_size": 4096,
    "hidden_size": 1024,
    "intermediate_size": 2048,
    "moe_intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 16,
    "n_routed_experts": 32,
    "num_experts_per_tok": 8,
    "n_group": 4,
    "topk_group": 2,
    "q_lora_rank": 512,
    "first_k_dense_replace": 1,
    "max_position_embeddings": 1024,
}
# Rounding takes the log-probabilities of two implementations 0.003 apart; random weights say one token clearly.
DIFFERENCE, AGREEMENT = 0.02, 0.98


@dataclass
class Built:
    """A unit: seconds of its build, None where the cache had it, and which rows of which operators it serves."""

    unit: Unit
    serves: dict[str, None] = field(default_factory=dict)
    seconds: float | None = None


def run(targets: Sequence[str] = (), tell: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Build, generate, compare. `targets` are those of AMD whose machine code makes a step; `tell` hears what is done.

    `ok` is false where a build failed, or where two differ by more than rounding explains.
    """
    # Settings of a server are none of a demonstration's.
    with envs.override(AITERLITE_TARGET=None, AITERLITE_JIT=None, AITERLITE_STRICT=None, AITERLITE_RECORD=None):
        return _run(targets, tell)


def _run(targets: Sequence[str], tell: Callable[[str], None]) -> dict[str, Any]:
    import torch

    from aiterlite.models import deepseek

    config = deepseek.Config.read(MODEL)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    persona = target.persona_for(device.type, 0)
    errors: list[str] = []
    units = planned(config, persona, targets)
    tell(f"building {len(units)} units that the cache may lack, {jobs.count()} at once")
    started = time.perf_counter()
    build(units.values(), errors)
    seconds = time.perf_counter() - started
    data: dict[str, Any] = {
        "persona": str(persona),
        "threads": torch.get_num_threads(),
        "model": dict(MODEL),
        "requests": REQUESTS,
        "prompt": PROMPT,
        "build_s": seconds,
        "units": [_described(built) for built in units.values()],
        "emulated": [],
    }
    if not errors:
        tell("making random weights")
        weights = deepseek.random_weights(config)
        tell(f"generating {STEPS} tokens of each of {REQUESTS} requests, twice")
        data |= generate(config, weights, device)
        if targets:
            data["emulated"] = emulated(config, weights, targets, tell)
        errors += wrong(data)
    return {**data, "errors": errors, "ok": not errors}


def planned(config: deepseek.Config, persona: target.Persona, targets: Sequence[str]) -> dict[Unit, Built]:
    """What runs here and what the steps of `targets` need, as far as it is known before."""
    from aiterlite.models.deepseek import plan

    server = plan.Server(config, max_batch=REQUESTS, chunk=PROMPT)
    found: dict[Unit, Built] = {}

    def add(name: str, decisions: Iterable[Decision]) -> None:
        for decision in decisions:
            for unit in decision.units:
                served = f"{name}: {decision.op} by {decision.row.name}" if decision.row else name
                found.setdefault(unit, Built(unit)).serves[served] = None

    here = "cpu" if persona.family == "cpu" else persona.chip
    # A chip that has no name here plans by its own numbers: what it needs is built at its first call.
    if persona.family == "cpu" or here in target.names():
        add(here, plan.one_chunk(server, here, PROMPT, PROMPT).decisions)
        for context in (PROMPT + 1, PROMPT + STEPS):
            add(here, plan.one_step(server, here, REQUESTS, context).decisions)
    for name in targets:
        add(name, plan.one_step(server, name, REQUESTS, PROMPT + STEPS + 1).decisions)
    if targets:
        found[library.unit()] = Built(library.unit(), {"the emulator": None})
    return found


def build(units: Iterable[Built], errors: list[str]) -> None:
    """Obtain all, several at once, and note how long those took that were not there."""

    def obtain(built: Built) -> None:
        started = time.perf_counter()
        try:
            if engine.obtain(built.unit, build=True).built:
                built.seconds = time.perf_counter() - started
        except BuildError as error:
            said = "; ".join(filter(None, (error.diagnostic, error.hint)))
            errors.append(f"building {built.unit.label} failed: {said}")
        except AiterliteError as error:
            if str(error) not in errors:
                errors.append(str(error))
        step(built.unit.name)

    # The longest first, or it would run alone at the end.
    ordered = sorted(units, key=lambda built: -len(built.unit.sources))
    count = jobs.count()
    workers = max(1, min(count, len(ordered)))
    pool = ThreadPoolExecutor(workers)
    with jobs.shared(count, workers), progress.bar("building", len(ordered)) as step:
        try:
            list(pool.map(obtain, ordered))
        except BaseException:
            with process.stopping():
                pool.shutdown(cancel_futures=True)
            raise
    pool.shutdown()


def _described(built: Built) -> dict[str, Any]:
    unit = built.unit
    return {"unit": unit.name, "target": unit.target, "serves": list(built.serves), "seconds": built.seconds}


# Runs -----------------------------------------------------------------------------------------------------------------


def prompts() -> list[list[int]]:
    import torch

    words = int(MODEL["vocab_size"])
    return torch.randint(words, (REQUESTS, PROMPT), generator=torch.Generator().manual_seed(1)).tolist()


def generate(config: deepseek.Config, weights: Mapping[str, Tensor], device: torch.device) -> dict[str, Any]:
    """The tokens that the model of operators makes, the rates of both, and how far apart they are where both read
    the same tokens."""
    import torch

    from aiterlite.models import deepseek
    from aiterlite.models.deepseek.plain import Cache, Plain

    model = deepseek.load("", config=config, weights=weights, device=device, chunk=PROMPT)
    plain = Plain(config, weights, device)
    cache: Cache = {}
    requests = [deepseek.Request() for _ in range(REQUESTS)]

    def timed(times: list[float], call: Callable[[], Tensor]) -> Tensor:
        started = time.perf_counter()
        made = call().cpu()
        times.append(time.perf_counter() - started)
        return made

    # What a first call prepares, and what torch allocates then, is no part of a rate.
    warm = deepseek.Request()
    model.prefill(warm, prompts()[0])
    model.cache.release(warm)
    plain.step(prompts()[:1], {})
    read: dict[str, list[float]] = {"aiterlite": [], "torch": []}
    said: dict[str, list[float]] = {"aiterlite": [], "torch": []}
    ours = timed(
        read["aiterlite"], lambda: torch.stack([model.prefill(*each) for each in zip(requests, prompts(), strict=True)])
    )
    theirs = timed(read["torch"], lambda: plain.step(prompts(), cache))
    apart = [distance(ours, theirs)]
    tokens: list[list[int]] = [[] for _ in requests]
    for _ in range(STEPS):
        following = ours.argmax(-1).tolist()
        for made, token in zip(tokens, following, strict=True):
            made.append(token)
        ours = timed(said["aiterlite"], lambda: model.decode(requests, following))  # noqa: B023
        theirs = timed(said["torch"], lambda: plain.step([[token] for token in following], cache))  # noqa: B023
        apart.append(distance(ours, theirs))
    return {
        "tokens": tokens,
        "prompt_rates": {name: REQUESTS * PROMPT / statistics.median(times) for name, times in read.items()},
        "rates": {name: REQUESTS / statistics.median(times) for name, times in said.items()},
        "speedup": statistics.median(said["torch"]) / statistics.median(said["aiterlite"]),
        "distance": asdict(Distance.mean(apart)),
    }


def emulated(
    config: deepseek.Config, weights: Mapping[str, Tensor], targets: Sequence[str], tell: Callable[[str], None]
) -> list[dict[str, Any]]:
    """A decode step of the model on this CPU, and the same by the machine code of targets."""
    from aiterlite.models import deepseek

    here = deepseek.load("", config=config, weights=weights, chunk=PROMPT)
    requests = [deepseek.Request() for _ in range(REQUESTS)]
    first = [int(here.prefill(*each).argmax()) for each in zip(requests, prompts(), strict=True)]
    before = [deepseek.Request(list(request.pages), request.length) for request in requests]
    expected = here.decode(requests, first)
    cache = here.cache
    del here  # its weights
    found = []
    for name in targets:
        tell(f"one decode step as {name} machine code, every memory access checked")
        with envs.override(AITERLITE_TARGET=name):
            there = deepseek.load("", config=config, weights=weights, chunk=PROMPT)
            # The step writes to the same slots once more, and sees what it writes.
            there.cache = cache
            again = [deepseek.Request(list(request.pages), request.length) for request in before]
            started = time.perf_counter()
            made = there.decode(again, first)
            seconds = time.perf_counter() - started
        found.append({"target": name, "seconds": seconds, "distance": asdict(distance(made, expected))})
    return found


@dataclass(frozen=True)
class Distance:
    """Of two sets of logits: the share of rows with the same likeliest token, and of the differences of
    log-probabilities the mean and the largest."""

    agreement: float
    mean_difference: float
    largest_difference: float

    @classmethod
    def mean(cls, parts: Sequence[Distance]) -> Distance:
        return cls(
            statistics.mean(part.agreement for part in parts),
            statistics.mean(part.mean_difference for part in parts),
            max(part.largest_difference for part in parts),
        )


def distance(logits: Tensor, expected: Tensor) -> Distance:
    agreement = (logits.argmax(-1) == expected.argmax(-1)).float().mean()
    difference = (logits.log_softmax(-1) - expected.log_softmax(-1)).abs()
    return Distance(float(agreement), float(difference.mean()), float(difference.max()))


def wrong(data: Mapping[str, Any]) -> list[str]:
    """What differs by more than rounding explains."""
    compared = [("plain torch", data["distance"])]
    compared += [(f"the code of {item['target']}", item["distance"]) for item in data["emulated"]]
    return [
        f"against {name}: {found['agreement']:.1%} of the likeliest tokens are the same, log-probabilities are "
        f"{found['mean_difference']:.4f} apart; allowed: {AGREEMENT:.0%}, {DIFFERENCE}"
        for name, found in compared
        # Not a number is no agreement.
        if not (found["agreement"] >= AGREEMENT and found["mean_difference"] <= DIFFERENCE)
    ]
