"""What the fused mixture of experts launches on an H200, over random calls: a device takes each launch, and what
kernels leave for each other fits. Nothing runs."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from typing import Any

from aiterlite import dispatch
from aiterlite.dispatch import Decision, Wishes
from aiterlite.kernel import WORKSPACE, Kernel, Operand, TensorMap
from aiterlite.tables import fused_moe as tables
from aiterlite.tables import fused_moe_sm90_kernels as sm90
from aiterlite.tables import fused_moe_sm90_plan as plans
from aiterlite.tables import moe_sorting, problems
from aiterlite.tables.fused_moe_parts import CLEAR
from aiterlite.tables.fused_moe_problem import ACTIVATIONS, FmoeProblem, MoeProblem
from aiterlite.target import Persona, resolve

H200 = resolve("h200")
# Of a workgroup and of a tensor map, on sm_90.
MOST_SHARED, MOST_THREADS, MOST_BOX, MOST_STRIDE = 227 << 10, 1024, 256, 1 << 40
BYTES = {"bf16": 2, "fp16": 2, "e4m3fn": 1}


def random_sizes(source: random.Random) -> dict[str, Any]:
    tokens = source.choice([source.randint(1, 17), source.randint(17, 1100), source.choice([2048, 30000, 1 << 17])])
    return {
        "tokens": tokens,
        "experts": source.choice([1, 2, 8, 9, 64, 256, 257, 384, 1023, 1024]),
        "topk": source.choice([1, 2, 3, 8, 9, 10, 20, 21, 31, 32]),
        "width": 128 * source.choice([1, 2, 3, 7, 56, 57, source.randint(1, 200)]),
        "inter": 64 * source.choice([1, 2, 3, 4, 5, 32, source.randint(1, 64)]),
        "dtype": source.choice(["bf16", "fp16"]),
        "deterministic": source.random() < 0.5,
    }


def random_problem(source: random.Random) -> MoeProblem:
    fields = random_sizes(source)
    flags = ("shuffled", "interleaved", "quantised", "weighted_input", "masked")
    fields |= {name: source.random() < 0.4 for name in flags}
    fields |= {"quant": source.choice(["none", "token", "tensor", "block"]), "activation": source.choice(ACTIVATIONS)}
    if fields["masked"]:
        fields["global_experts"] = min(1024, fields["experts"] + source.choice([0, 1, 300]))
    if fields["quant"] == "none":
        fields["quantised"] = False
    made = problems.problem(tables.TABLE, fields)
    assert isinstance(made, MoeProblem)
    return made


def random_sorted(source: random.Random) -> FmoeProblem:
    fields = {"block_size": 8 * source.choice([1, 2, 3, 4, 5, 6, 7, 8, 16, 128]), **random_sizes(source)}
    return FmoeProblem(activation=source.choice(ACTIVATIONS[:2]), **fields)


def decisions(count: int, persona: Persona = H200) -> list[Decision]:
    source, made = random.Random(7), []
    for number in range(count):
        table, problem = (tables.FMOE_TABLE, random_sorted) if number % 4 == 0 else (tables.TABLE, random_problem)
        made.append(dispatch.decide(table, problem(source), persona, Wishes()))
    served = [decision for decision in made if decision.row is not None]
    # An inner width that is an odd number of 64 elements is refused, and half are.
    assert len(served) > 0.4 * count
    return served


# Launches -------------------------------------------------------------------------------------------------------------


def map_faults(made: TensorMap) -> list[str]:
    element = BYTES[made.dtype]
    sizes, strides = [int(size) for size in made.sizes], [int(stride) * element for stride in made.strides]
    inner = made.box[0] * element
    return [
        name
        for name, wrong in {
            "box": not all(1 <= box <= MOST_BOX for box in made.box),
            "strides": not all(0 < stride < MOST_STRIDE and stride % 16 == 0 for stride in strides),
            "sizes": not all(1 <= size <= 1 << 32 for size in sizes),
            "inner box": inner % 16 != 0 or (made.swizzle_bytes > 0 and inner > made.swizzle_bytes),
            "rank": not len(sizes) == len(made.box) == len(strides) + 1 <= 5,
            # Coordinates are signed words; a box may begin up to its own length before the end.
            "coordinates": max(sizes) >= 1 << 31,
        }.items()
        if wrong
    ]


def kernel_faults(kernel: Kernel) -> list[str]:
    found = [f"{made.field}: {fault}" for made in kernel.maps for fault in map_faults(made)]
    if not 0 <= kernel.lds <= MOST_SHARED:
        found.append(f"{kernel.lds} bytes of shared memory")
    if len(kernel.grid) != 3 or not all(1 <= size < 1 << 31 for size in kernel.grid):
        found.append(f"grid {kernel.grid}")
    if not 1 <= kernel.block[0] <= MOST_THREADS:
        found.append(f"block {kernel.block}")
    return [f"{kernel.symbol}: {fault}" for fault in found]


def test_a_device_takes_every_launch() -> None:
    for persona in (H200, resolve("h200:1"), resolve("h200:64")):
        for decision in decisions(250, persona):
            assert decision.kernels
            faults = [fault for kernel in decision.kernels for fault in kernel_faults(kernel)]
            assert not faults, (decision.problem, decision.plan, faults)


def test_shared_memory_is_what_kernels_are_compiled_for() -> None:
    """A ring has a stage at least, and rings of stages that groups take in turn one of each."""
    for decision in decisions(300):
        plan = decision.plan
        assert plan.stages >= 2 and plan.down_stages >= 1
        assert plan.columns in plans.COLUMNS
        if isinstance(plan, plans.SumsPlan):
            assert plan.down_stages % plan.down_gather_warps == 0
            assert plan.down_rows % 8 == 0 and plan.down_rows <= 64
            steps = decision.problem.inter * plans.element_bytes(decision.problem) // 128
            assert plan.down_groups == 1 or plan.down_groups * steps <= plan.down_stages
            assert decision.problem.tokens <= plans.MOST_SUMS


# What kernels leave for each other ------------------------------------------------------------------------------------


def needed(decision: Decision) -> dict[str, int]:
    """Bytes that kernels reach behind an address of the workspace, by field."""
    problem, plan = decision.problem, decision.plan
    given = isinstance(problem, FmoeProblem)
    size = problem.block_size if given else plan.columns
    experts = problem.experts if given else max(problem.experts, problem.global_experts)
    pairs, width, inter = problem.pairs, problem.width, problem.inter
    # Each expert that has a pair may leave all of a block empty but for one entry.
    entries = (pairs + min(pairs, experts) * (size - 1)) // size * size
    element = plans.element_bytes(problem)
    tiles = max((kernel.args["tiles"] for kernel in decision.kernels if "tiles" in kernel.args), default=0)
    return {
        "local_topk_ids": 4 * pairs,
        "codes": problem.tokens * width,
        "code_scale": 4 * problem.tokens * width // 128,
        "sorted_ids": 4 * entries,
        "sorted_weights": 4 * entries,
        "sorted_expert_ids": 4 * (entries // plan.columns),
        "num_valid_ids": 8,
        "h": entries * inter * element,
        "h_scale": 4 * entries * (inter // 128),
        # Two tiles of each workgroup, of 128 gate and 128 up rows.
        "partial": 2 * 4 * plan.workgroups * plan.columns * 256,
        # Of `join` by 256 elements, which are written whole, and over those of some time before.
        "slots": 2 * pairs * (256 * plan.parts if isinstance(plan, plans.JoinPlan) else width),
        # A line each: tiles and sums that are taken; of 256 elements what is stored, and fetched. Of `kept` how many
        # entries a block has.
        "arrived": 4 * entries // size if isinstance(plan, plans.KeptPlan) else 128 * (2 + 2 * -(-width // 256)),
        # Of the sorting.
        "counts": 2 * 1024 * int(tiles),
        "ranks": 4 * pairs,
        # Of the quantisation.
        "out": problem.tokens * width,
        "scales": 4 * problem.tokens * width // 128,
    }


def test_the_workspace_holds_what_kernels_leave_and_nothing_twice() -> None:
    for decision in decisions(400):
        workspace, sizes = decision.workspace, needed(decision)
        assert workspace is not None
        alike = {"out": "codes", "scales": "code_scale"}
        places: dict[str, int] = {}
        for kernel in decision.kernels:
            for name, value in kernel.args.items():
                if isinstance(value, Operand) and value.name == WORKSPACE:
                    place = places.setdefault(alike.get(name, name), value.offset)
                    assert place == value.offset, (name, decision.problem)
        assert {"h", "partial"} <= set(places)
        assert all(place % 16 == 0 for place in places.values())
        spans = sorted((place, place + sizes[name], name) for name, place in places.items() if name != "counts")
        for (_, end, name), (begin, _, other) in itertools.pairwise(spans):
            assert end <= begin, (name, other, decision.problem)
        assert spans[-1][1] <= workspace.total, (spans[-1], decision.problem)
        assert workspace.zeroed == 0
        if isinstance(decision.problem, FmoeProblem):
            assert decision.kernels[0].symbol == CLEAR
        if "counts" in places:
            assert places["counts"] + 512 <= places["ranks"]


def test_counters_begin_as_zeros_and_rows_of_h_lie_as_they_are_multiplied() -> None:
    """Of `join`: the kernel that prepares has a thread for each word, and stage 1 knows where stage 2 wants h."""
    seen = 0
    for decision in decisions(400):
        tiled = {dict(kernel.unit.defines).get("AITERLITE_TILED") for kernel in decision.kernels} - {None}
        is_join = isinstance(decision.plan, plans.JoinPlan)
        assert tiled == {str(int(isinstance(decision.plan, plans.JoinPlan | plans.KeptPlan)))}, decision.problem
        first = decision.kernels[0]
        assert is_join == (first.args.get("arrivals", 0) != 0)
        if is_join:
            seen += 1
            assert first.symbol in (sm90.PREPARE, sm90.PREPARE_MANY)
            assert 4 * first.args["arrivals"] == needed(decision)["arrived"]
            assert first.args["arrivals"] <= first.grid[0] * first.block[0]
            place = first.args["arrived"]
            assert all(kernel.args.get("arrived", place) == place for kernel in decision.kernels)
            assert 1 <= decision.plan.parts <= -(-decision.problem.width // 256)
    assert seen > 5


def test_sums_that_are_kept_fit_shared_memory_and_blocks_are_counted() -> None:
    """Of calls that it may serve, whoever does: a ring that lasts for groups in turn, whole clusters, and a kernel that
    prepares which says how many entries each block has."""
    table = replace(tables.TABLE, rows=tuple(row for row in tables.TABLE.rows if row.name == "kept"))
    source, seen = random.Random(3), set()
    for _ in range(1500):
        problem = replace(random_problem(source), tokens=source.randint(100, 1100), quant="block", shuffled=False)
        decision = dispatch.decide(table, problem, H200, Wishes())
        if decision.row is None:
            continue
        plan, (first, *_, last) = decision.plan, decision.kernels
        assert isinstance(plan, plans.KeptPlan)
        assert not [fault for kernel in decision.kernels for fault in kernel_faults(kernel)]
        assert plan.down_stages >= 2
        assert plan.down_groups <= plan.down_stages
        assert last.grid[0] % last.cluster == 0 and last.grid[0] * plan.down_rows >= problem.width
        assert last.lds >= plans.kept_ring(plan, problem.inter // 128) + problem.tokens * plan.down_rows * 2.5
        assert (first.symbol, dict(first.unit.defines)["AITERLITE_COUNTS"]) == (sm90.PREPARE_MANY, "1")
        assert first.args["arrivals"] == 0 and first.args["arrived"] == last.args["arrived"]
        seen.add((plan.columns, plan.down_groups, plan.down_rows))
    assert len(seen) > 5


def test_a_cluster_sorts_what_its_workgroups_have_room_for() -> None:
    seen = 0
    for decision in decisions(400):
        for kernel in decision.kernels:
            if kernel.symbol != sm90.PREPARE_MANY:
                continue
            seen += 1
            problem, pairs = decision.problem, int(dict(kernel.unit.defines)["AITERLITE_PAIRS"])
            each = -(-problem.tokens // kernel.cluster)
            assert problem.tokens <= 1024 and plans.global_experts(problem) <= 1024
            assert each * problem.topk <= pairs * kernel.block[0] and each <= 128
            groups = problem.tokens * problem.width // 128 if plans.quantises(problem) else 0
            assert (kernel.grid[0] - kernel.cluster) * kernel.block[0] >= 8 * groups
            assert kernel.grid[0] % kernel.cluster == 0
    assert seen > 5


def test_tiles_are_whole_where_few_multiprocessors_idle_at_the_end() -> None:
    for tokens, experts, inter, whole in (
        (1024, 256, 256, True),
        (256, 256, 256, True),
        (255, 256, 256, False),
        (1024, 200, 256, False),
        (64, 8, 2048, True),
        (64, 7, 2048, False),
    ):
        problem = problems.problem(tables.TABLE, {"tokens": tokens, "experts": experts, "inter": inter})
        decision = dispatch.decide(tables.TABLE, problem, H200, Wishes())
        stage1 = next(kernel for kernel in decision.kernels if kernel.symbol == sm90.GATE_UP)
        assert dict(stage1.unit.defines)["AITERLITE_WHOLE"] == str(int(whole)), problem
        assert whole != any(kernel.symbol == sm90.FINISH for kernel in decision.kernels)


def test_rows_of_h_are_tiles_of_128() -> None:
    """Of an inner width of 64 more, which weights of 16 bits may have elsewhere, stage 1 would leave out the rest."""
    for inter in (64, 192, 320):
        fields = {"tokens": 4, "experts": 8, "width": 256, "quant": "none"}
        for shuffled in (False, True):
            problem = problems.problem(tables.TABLE, {**fields, "inter": inter, "shuffled": shuffled})
            decision = dispatch.decide(tables.TABLE, problem, H200, Wishes())
            assert decision.row is None
            reasons = [str(refusal) for rejected in decision.rejected for refusal in rejected.refusals]
            assert any(f"inter is {inter}, no multiple of 128 (pad the weights" in reason for reason in reasons), (
                reasons
            )
    assert all(decision.problem.inter % 128 == 0 for decision in decisions(300))


def test_sums_are_of_lists_that_have_a_token_once_in_a_block() -> None:
    """Threads that add to the sums of one token in the same block would lose one of both: of a token that names an
    expert twice, the kernels that make lists for `sums` make one entry, and the general sorting two."""
    seen = set()
    for tokens, experts, topk in ((512, 256, 8), (512, 256, 20), (512, 256, 21), (321, 64, 32), (512, 1024, 20)):
        problem = problems.problem(tables.TABLE, {"tokens": tokens, "experts": experts, "topk": topk})
        decision = dispatch.decide(tables.TABLE, problem, H200, Wishes())
        sorted_by = {kernel.symbol for kernel in decision.kernels} & {moe_sorting.ONCE, moe_sorting.COUNT}
        assert decision.row is not None and not (decision.row.name == "sums" and sorted_by), problem
        seen.add(decision.row.name)
    assert seen == {"sums", "join", "slots"}
    for decision in decisions(300):
        symbols = {kernel.symbol for kernel in decision.kernels}
        assert not (sm90.DOWN in symbols and symbols & {moe_sorting.ONCE, moe_sorting.COUNT}), decision.problem


def test_sorting_leaves_out_experts_behind_those_that_are_here() -> None:
    """A mask may name more than w1 has: products take each block's expert as it is."""
    problem = problems.problem(
        tables.TABLE, {"tokens": 4096, "experts": 16, "masked": True, "global_experts": 256, "width": 512}
    )
    kernels = dispatch.decide(tables.TABLE, problem, H200, Wishes()).kernels
    sorting = [kernel for kernel in kernels if kernel.arguments is moe_sorting.SORT_ARGS]
    assert sorting and all((kernel.args["experts"], kernel.args["local_experts"]) == (256, 16) for kernel in sorting)
