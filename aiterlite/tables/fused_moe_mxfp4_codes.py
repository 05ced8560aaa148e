"""The fused mixture of experts with weights and hidden states of MXFP4 on gfx950, whose matrix unit multiplies codes:
which problems these kernels serve, how they are cut (csrc/fused_moe/mxfp4_codes_*.hip)."""

from __future__ import annotations

from collections.abc import Mapping

from aiterlite.jit.spec import Unit
from aiterlite.kernel import Kernel, Value, along_x
from aiterlite.tables.fused_moe_parts import sum_kernel
from aiterlite.tables.fused_moe_problem import A4W4, ACTIVATIONS, ARGS, MoeProblem
from aiterlite.tables.mx_types import BLOCK as MX_BLOCK
from aiterlite.target import Persona

STAGE1, STAGE2, SUMS = (f"aiterlite_fused_moe_mxfp4_codes_{name}" for name in ("stage1", "stage2", "sums"))
ENTRIES = 32
_TARGET = "gfx950"
_SPLIT = 4  # waves of a workgroup of stage 1, which split K
# Inner width of such a workgroup. Twice as much asks for tokens half as often and issues less, by half as many
# workgroups: where those are enough for all compute units, or where experts have so many entries each that tokens are
# more than a tenth of what is read, and are asked for by workgroups of this many (docs/perf/moe-amd.md).
_INNER, _MANY_ENTRIES, _MANY_GROUPS = 64, 16, 8
_FEATURES, _WAVES = 128, 4  # of a wave of stage 2, and waves of a workgroup
# Of a workgroup that adds slots: 64 features or twice as many, by waves; twice for few experts, where estimates do not
# tell both apart (docs/perf/moe-amd.md) and half the workgroups issue less. At the most so many tokens, so much LDS.
_UNIT, _UNIT_WAVES, _TWO_EXPERTS, _SUM_TOKENS, _SUM_BYTES = 64, {1: 8, 2: 4}, 16, 64, 150 << 10
_LANES, _GROUP_PAIRS = 64, 16  # of a wave, which hold its blocks
# Scales of a row of x and h lie at multiples of so many bytes.
_SCALES_APART = 8

Defines = Mapping[str, int | str]


def serve(problem: MoeProblem, persona: Persona) -> bool:
    """Both operands are codes, and all are at 31-bit offsets. Of hidden states that come as codes that is not known:
    their rows are as far apart as the caller has them."""
    x, h = problem.tokens * problem.width, problem.pairs * problem.inter
    small = max(x, h, 2 * problem.inter * problem.width) < 2**31
    return persona.target == _TARGET and problem.precision == A4W4 and not problem.quantised and small


def scales_apart(k: int) -> int:
    """Bytes from row to row of scales."""
    return -(-k // (MX_BLOCK * _SCALES_APART)) * _SCALES_APART


def few_blocks(problem: MoeProblem) -> int:
    """Groups of pairs that are not sorted: an expert's first one, and at most one more for each 16 pairs
    (csrc/include/aiterlite/fused_moe/few_pairs.h). No more than pairs, each of which may begin one."""
    return min(problem.pairs, problem.experts + problem.pairs // _GROUP_PAIRS)


def inner_of(problem: MoeProblem, persona: Persona) -> int:
    """Of a workgroup of stage 1."""
    groups = -(-problem.inter // _INNER)
    if not problem.shuffled or groups % 2 != 0:
        return _INNER
    blocks = max(min(problem.experts, problem.pairs), problem.pairs // ENTRIES)
    fills = blocks * groups // 2 >= persona.cu_count
    many = problem.pairs >= _MANY_ENTRIES * problem.experts and groups >= _MANY_GROUPS
    return 2 * _INNER if fills or many else _INNER


def _rows(tokens: int) -> int:
    """Of a slot in LDS, so that few kernels serve all numbers of tokens."""
    return max(8, 1 << (tokens - 1).bit_length())


def _units(problem: MoeProblem) -> int:
    """Of 64 features that a workgroup has which adds slots."""
    return 2 if min(problem.experts, problem.pairs) <= _TWO_EXPERTS else 1


def adds_slots(problem: MoeProblem, persona: Persona, blocks: int) -> bool:
    """Whether the second stage adds slots itself."""
    if not serve(problem, persona) or problem.by_slots or problem.tokens > _SUM_TOKENS:
        return False
    units = _units(problem)
    row, weights = 2 * _UNIT * units + 16, -(-problem.topk // 2) * 16
    held = _rows(problem.tokens) * (problem.topk * row + weights)
    return held <= _SUM_BYTES and blocks <= _UNIT_WAVES[units] * _LANES


def _kernel(
    name: str, symbol: str, persona: Persona, defines: Defines, workgroups: int, waves: int, args: Mapping[str, Value]
) -> Kernel:
    spelled = tuple((f"AITERLITE_{key}", str(value)) for key, value in sorted(defines.items()))
    sources = (f"csrc/fused_moe/mxfp4_codes_{name}.hip",)
    unit = Unit(f"fused_moe/mxfp4_codes_{name}", sources, persona.target, spelled, symbols=(symbol,))
    return Kernel(unit, symbol, ARGS, along_x(workgroups), along_x(64 * waves), args=args)


def kernels(
    problem: MoeProblem,
    persona: Persona,
    blocks: int,
    few: bool,
    first: Mapping[str, Value],
    second: Mapping[str, Value],
) -> tuple[Kernel, ...]:
    """Of at most `blocks` blocks; `few`: stage 1 finds them. `first` and `second` are the stages' arguments."""
    layer: dict[str, int | str] = {"INTER": problem.inter, "TOPK": problem.topk, "WIDTH": problem.width}
    common = {**layer, "SHUFFLED": int(problem.shuffled)}
    inner = inner_of(problem, persona)
    groups = -(-problem.inter // inner)
    in_order = blocks < problem.pairs
    gate_up: dict[str, int | str] = {
        **common,
        "ACTIVATION": ACTIVATIONS.index(problem.activation),
        "BIASED": int(problem.bias1),
        "FEW": (2 if in_order else 1) if few else 0,
        "INTERLEAVED": int(problem.interleaved),
        "UNITS": inner // 32,
        "WEIGHTED": int(problem.weighted_input),
    }
    stage1 = _kernel("stage1", STAGE1, persona, gate_up, blocks * groups, _SPLIT, first)
    down = {**common, "BIASED": int(problem.bias2), "RESULT": problem.dtype}
    if adds_slots(problem, persona, blocks):
        units = _units(problem)
        waves = _UNIT_WAVES[units]
        down |= {
            "BLOCKS": blocks,
            "TOKENS": _rows(problem.tokens),
            "UNITS": units,
            "WAVES": waves,
            "WEIGHTED": int(problem.weighted_input),
        }
        return stage1, _kernel("sums", SUMS, persona, down, -(-problem.width // (_UNIT * units)), waves, second)
    groups = -(-problem.width // (_FEATURES * _WAVES))
    down |= {"WEIGHS": int(problem.by_slots and not problem.weighted_input)}
    stage2 = _kernel("stage2", STAGE2, persona, down, blocks * groups, _WAVES, second)
    return stage1, stage2, sum_kernel(problem, persona, second, weighs=not problem.weighted_input)
