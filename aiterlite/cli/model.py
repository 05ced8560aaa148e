"""--model of `build` and `explain`: a Hugging Face configuration, how it is served, and what a server of it calls."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aiterlite.cli import output, plan, targets
from aiterlite.cli.command import Report, UsageError, path
from aiterlite.dispatch import Decision
from aiterlite.errors import ArgumentError
from aiterlite.jit import progress
from aiterlite.jit.record import Manifest
from aiterlite.jit.spec import HOST, Unit
from aiterlite.target import Persona, host_persona, launch_target, requested

if TYPE_CHECKING:
    from aiterlite.models.deepseek.plan import Server
    from aiterlite.ops.planning import Planned

_OPTIONS = ("tp", "ep", "max_batch", "chunk", "page_size", "drafts", "batch_invariant", "kv_cache", "persistent")
_HEADERS = ("operator", "shape", "kernel", "why", "bytes", "floor")


# What a usage line says of a step.
STEP = "[--tp N] [--ep N] [--batch N] [--context N]"


def add_options(parser: argparse.ArgumentParser, step: bool = False) -> None:
    """The model, and how it is served; defaults are those of `Server`. With `step` also which step is meant."""
    group = parser.add_argument_group("a model")
    group.add_argument("--model", type=path, metavar="FILE", help="its config.json, or the folder of that")
    group.add_argument("--tp", type=_count, metavar="N", help="ranks that share heads and features (default: 1)")
    group.add_argument("--ep", type=_count, metavar="N", help="ranks that have some experts whole: as --tp, or 1")
    group.add_argument("--max-batch", type=_count, metavar="N", help="requests of a decode step (default: 256)")
    group.add_argument("--chunk", type=_count, metavar="N", help="tokens of a chunk of a prompt (default: 512)")
    group.add_argument("--page-size", type=_count, metavar="N", help="tokens of a page of the cache (default: 16)")
    group.add_argument("--drafts", action="store_true", default=None, help="guess a token ahead with its own head")
    group.add_argument("--batch-invariant", action="store_true", default=None, help="a request's bits are its own")
    group.add_argument("--persistent", action="store_true", default=None, help="plan the attention of each step")
    group.add_argument("--kv-cache", choices=("auto", "fp8"), help="what the cache holds (default: auto, bf16)")
    if step:
        group.add_argument("--batch", type=_count, default=1, metavar="N", help="requests of the step (default: 1)")
        group.add_argument(
            "--context", type=_count, default=4096, metavar="N", help="tokens of each request (default: 4096)"
        )


def _count(text: str) -> int:
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def given(args: argparse.Namespace) -> list[str]:
    """The options that were given and mean nothing without --model."""
    return [f"--{name.replace('_', '-')}" for name in _OPTIONS if getattr(args, name) is not None]


def server_of(args: argparse.Namespace) -> Server:
    """Raises `UsageError` for a configuration that is none of a model that is here, and for what does not fit it."""
    try:
        from aiterlite.models.deepseek.config import Config
        from aiterlite.models.deepseek.plan import Server
    except ImportError as error:
        raise UsageError(f"--model runs the model on tensors without memory, which needs torch: {error}") from None

    names = {"tp": "tensor_parallel", "ep": "expert_parallel"}
    chosen = {names.get(name, name): getattr(args, name) for name in _OPTIONS if getattr(args, name) is not None}
    try:
        server = Server(Config.read(args.model), **chosen)
        server.check()
    except (ArgumentError, ValueError, OSError) as error:
        raise UsageError(f"--model {args.model}: {error}") from None
    return server


def names_of(lists: Sequence[str]) -> dict[str, Persona]:
    """Personas by the names that --target gives, else that of AITERLITE_TARGET, else this CPU."""
    from aiterlite import envs

    return targets.named_personas(lists) or {envs.TARGET.get() or "cpu": requested() or host_persona()}


# build ----------------------------------------------------------------------------------------------------------------


def planned(server: Server, names: Sequence[str]) -> plan.Plan:
    """The units that a server can reach on targets, and no others."""
    from aiterlite.models.deepseek import plan as models

    todo = plan.Plan()
    with progress.bar("planning", len(names) * server.steps) as tell:
        for name in names:
            found = models.everything(server, name, tell)
            asked: dict[Unit, dict[str, int]] = {}
            for decision in found.decisions:
                for unit in decision.units:
                    counts = asked.setdefault(unit, {})
                    counts[decision.op] = counts.get(decision.op, 0) + 1
            for unit, counts in asked.items():
                todo.add(unit, f"{name}: " + ", ".join(f"{op} x {count}" for op, count in counts.items()))
            todo.unserved += [f"{_call(decision)} on {name}: no row applies" for decision in found.unserved]
    return todo


def _call(decision: Decision) -> str:
    return str(decision).partition(" on ")[0]


def compared(todo: plan.Plan, manifest: Manifest, personas: Mapping[str, Persona]) -> dict[str, Any]:
    """What a recorded run used of the targets, held against what is planned for them: `unplanned` is what it used and
    the plan lacks. For a target that it did not run on, what dispatch would choose there for its calls."""
    own = {unit.target for unit in manifest.units.values()}
    ids = {persona.target for persona in personas.values() if persona.target in own}
    if not ids:
        raise UsageError(f"the run used {', '.join(sorted(own)) or 'no unit'}; name one of these as --target")
    launching = {launch_target()} if any(persona.family != "cpu" for persona in personas.values()) else set()
    used = [
        unit
        for unit in manifest.units.values()
        if unit.target in ids or (unit.kind == HOST and unit.target in launching and unit.name == "launch")
    ]
    return {
        "targets": sorted(ids),
        "used": len(used),
        "unplanned": [unit.label for unit in used if unit not in todo.units],
        "unused": [unit.label for unit in todo.units if unit not in used],
    }


def render_comparison(data: Mapping[str, Any]) -> str:
    lines = [f"used and not planned: {label}" for label in data["unplanned"]]
    reached = f"{output.plural(data['used'], 'unit')} of the run on {', '.join(data['targets'])}"
    said = f"{len(data['unplanned'])} are not planned" if data["unplanned"] else "all planned"
    return "\n".join([*lines, f"{reached}: {said}; {len(data['unused'])} planned that it did not reach"])


# explain --------------------------------------------------------------------------------------------------------------


def explain(args: argparse.Namespace) -> Report:
    server = server_of(args)
    most = server.config.max_position_embeddings
    if args.context > most:
        raise UsageError(f"--context {args.context}; allowed: 1 to max_position_embeddings, {most}")
    found = explained(server, names_of(args.target), args.batch, args.context)
    return Report({"models": found}, render(found))


def explained(server: Server, names: Mapping[str, Persona], batch: int, context: int) -> list[dict[str, Any]]:
    """The calls of a decode step of a layer of each kind, in order."""
    from aiterlite.models.deepseek import plan as models

    found = []
    for name, persona in names.items():
        planner = models.one_step(server, name, batch, context)
        rows = [_row(server, call, persona, batch, context) for call in planner.calls.values()]
        found.append({"target": name, "persona": str(persona), "batch": batch, "context": context, "calls": rows})
    return found


def _row(server: Server, call: Planned, persona: Persona, batch: int, context: int) -> dict[str, Any]:
    from aiterlite.models.deepseek.plan import bytes_of

    moved = bytes_of(server, call, batch, context)
    rate = persona.memory_gb_per_s * 1e3
    chosen = [decision for decision in call.decisions if decision.row is not None]
    return {
        "operator": call.op,
        "shape": {name: list(tensor.shape) for name, tensor in call.tensors.items() if tensor.numel()},
        "kernel": "; ".join(_kernel(decision) for decision in chosen) or "torch",
        "why": "; ".join(filter(None, map(_why, call.decisions))) or ("no row applies" if call.decisions else ""),
        "bytes": moved,
        "floor_us": moved / rate if rate else None,
    }


def _kernel(decision: Decision) -> str:
    assert decision.row is not None
    symbols = " + ".join(kernel.symbol.removeprefix("aiterlite_") for kernel in decision.kernels)
    return f"{decision.row.name}: {symbols}" if symbols else decision.row.name


def _why(decision: Decision) -> str:
    """Why not the other rows that the target has."""
    told = []
    for rejected in decision.rejected:
        first = rejected.refusals[0]
        if not first.reason.startswith("runs on "):
            told.append(f"not {rejected.row}: {first.reason}")
    return "; ".join(told) or f"the only row of {decision.persona.target}"


def render(found: Sequence[Mapping[str, Any]]) -> str:
    texts = []
    for item in found:
        rows = [
            (
                call["operator"],
                " ".join(f"{name}[{','.join(map(str, shape))}]" for name, shape in call["shape"].items()),
                call["kernel"],
                call["why"],
                output.size(call["bytes"]),
                "-" if call["floor_us"] is None else f"{call['floor_us']:.2f} us",
            )
            for call in item["calls"]
        ]
        moved = sum(call["bytes"] for call in item["calls"])
        floors = [call["floor_us"] for call in item["calls"]]
        floor = "" if None in floors else f", {sum(floors):.1f} us at the published peak of its memory"
        texts.append(
            f"{item['persona']}: a decode step of {output.plural(item['batch'], 'request')} of {item['context']} "
            f"tokens, a layer of each kind, calls of the same shapes once\n"
            f"{output.table(_HEADERS, rows, right=('bytes', 'floor'))}\n"
            f"{output.size(moved)} in all{floor}"
        )
    return "\n\n".join(texts)
