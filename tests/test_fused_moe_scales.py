"""Scales that an expert's matrices have as a whole, and those of hidden states beside them and beside scales of rows,
on the CPU: against the float64 layer, and what calls mean."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from fused_moe_cases import HOWS, call, case_of, check, problem_of, run  # noqa: E402
from torch import Tensor  # noqa: E402

from aiterlite import QuantType  # noqa: E402
from aiterlite.errors import ArgumentError  # noqa: E402

pytestmark = [pytest.mark.compile, pytest.mark.usefixtures("one_thread")]
BF16 = torch.bfloat16
# A sample of an even seed has one scale an expert's w1, of an odd seed one of gate and one of up.
WHOLE, HALVES = 2, 3


@pytest.mark.parametrize("how", HOWS, ids=lambda how: "-".join(how) or "plain")
@pytest.mark.parametrize("seed", [WHOLE, HALVES], ids=["whole", "halves"])
def test_each_layout(seed: int, how: dict[str, Any]) -> None:
    for tokens, code, dtype, spare in ((1, "e4m3fn", "bf16", 0), (33, "e4m3fnuz", "fp16", 3)):
        case = case_of(problem_of(tokens=tokens, quant="tensor", code=code, dtype=dtype, **how), seed, spare=spare)
        scale = case.made.weights.w1_scale
        assert scale is not None and list(scale.shape) == ([8] if seed == WHOLE else [8, 2])
        check(case, run(case))


@pytest.mark.parametrize("interleaved", [False, True])
def test_sizes_that_are_no_blocks(interleaved: bool) -> None:
    """Rows of gate and of up in one panel of 16."""
    for seed in (WHOLE, HALVES):
        for width, inter in ((100, 36), (17, 5), (130, 130)):
            fields = {"width": width, "inter": inter, "aligned": False, "interleaved": interleaved}
            case = case_of(problem_of(quant="tensor", **fields), seed)
            check(case, run(case))


@pytest.mark.parametrize("quant", ["tensor", "token"])
def test_quantised_hidden_states(quant: str) -> None:
    """One scale of all of them, or one a token."""
    for seed, how in ((WHOLE, {}), (HALVES, {"interleaved": True, "shuffled": True, "code": "e4m3fnuz"})):
        case = case_of(problem_of(quant=quant, quantised=True, tokens=9, **how), seed, spare=2)
        scale = case.made.x_scale
        assert scale is not None and list(scale.shape) == ([9, 1] if quant == "token" else [1])
        check(case, run(case))
    case = case_of(problem_of(quant=quant, quantised=True, width=100, inter=36, aligned=False), WHOLE)
    check(case, run(case))


def test_a_scale_of_a_tensor_is_that_of_each_row() -> None:
    for interleaved in (False, True):
        case = case_of(problem_of(quant="tensor", interleaved=interleaved), HALVES)
        scale, down = case.made.weights.w1_scale, case.made.weights.w2_scale
        assert scale is not None and down is not None
        rows = scale.repeat(1, 128) if interleaved else scale.repeat_interleave(128, 1)
        by_rows = {"w1_scale": rows, "w2_scale": down.unsqueeze(1).expand(8, 256).contiguous()}
        assert torch.equal(call(case), call(case, quant_type=QuantType.per_Token, **by_rows))


def test_scales_of_tensors_in_other_shapes() -> None:
    case = case_of(problem_of(quant="tensor"), WHOLE)
    first, second = case.made.weights.w1_scale, case.made.weights.w2_scale
    assert first is not None and second is not None
    expected = call(case)
    for shape in ((8, 1), (8, 1, 1)):
        assert torch.equal(call(case, w1_scale=first.view(shape), w2_scale=second.view(shape)), expected)
    assert torch.equal(call(case, w1_scale=torch.stack((first, first), 1)), expected)
    assert not torch.equal(call(case, w1_scale=torch.stack((first, 2 * first), 1)), expected)
    one = case_of(problem_of(experts=1, topk=1, quant="tensor"), HALVES)
    assert one.made.weights.w1_scale is not None and one.made.weights.w1_scale.numel() == 2
    check(one, call(one))


def test_static_scales_of_a_checkpoint_are_not_read() -> None:
    """As vLLM hands them on, of hidden states and of what is between the stages: neither clips anything."""
    case = case_of(problem_of(quant="tensor", shuffled=True), WHOLE)
    expected = call(case)
    check(case, expected)
    for scale in (torch.tensor(float("nan")), torch.tensor([1e-6]), torch.ones(1, 1)):
        for given in ({"a1_scale": scale, "a2_scale": scale}, {"a1_scale": scale}, {"a2_scale": scale}):
            assert torch.equal(call(case, **given), expected)


def test_forms_of_scales_of_codes() -> None:
    for quant in ("token", "tensor"):
        case = case_of(problem_of(quant="token", quantised=True, tokens=6), WHOLE)
        scale, made = case.made.x_scale, case.made
        assert scale is not None
        kinds: dict[str, Any] = {}
        if quant == "tensor":
            ones = torch.rand(8, generator=torch.Generator().manual_seed(1))
            kinds = {"quant_type": QuantType.per_Tensor, "w1_scale": ones, "w2_scale": ones}
        expected = call(case, **kinds)
        wide = torch.full((6, 3), float("nan"))
        wide[:, 1] = scale[:, 0]
        for form in (scale[:, 0].contiguous(), wide[:, 1:2], wide[:, 1]):
            assert torch.equal(call(case, a1_scale=form, **kinds), expected), quant
        alone = [call(case, a1_scale=form, **kinds) for form in one_number(made.x.device)]
        assert torch.equal(alone[0], call(case, a1_scale=torch.full((6, 1), 0.02), **kinds))
        assert all(torch.equal(alone[0], other) for other in alone) and not torch.equal(alone[0], expected)


def one_number(device: torch.device) -> list[Tensor]:
    return [torch.full(shape, 0.02, device=device) for shape in ((), (1,), (1, 1))]


T: Any = torch
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"w1_scale": None}, "w1_scale", "float32 [8], a number for each expert's matrix of w1"),
    ({"w1_scale": T.ones(8, 3)}, "w1_scale", "[8], or [8, 2], gate's and up's"),
    ({"w1_scale": T.ones(2, 8)}, "w1_scale", "[8], or [8, 2]"),
    ({"w1_scale": T.ones(16)}, "w1_scale", "[8], or [8, 2]"),
    ({"w1_scale": T.ones(8, 4)[:, ::2]}, "w1_scale", ".contiguous()"),
    ({"w2_scale": T.ones(8, 2)}, "w2_scale", "[8], or [8, 1]"),
    ({"w2_scale": T.ones(1)}, "w2_scale", "[8], or [8, 1]"),
    ({"a1_scale": T.ones(8)}, "a1_scale", "the largest of those"),
    ({"a1_scale": 0.5}, "a1_scale", "a tensor"),
    ({"a2_scale": T.ones(1, dtype=BF16)}, "a2_scale", "torch.float32"),
    ({"a2_scale": T.ones(8, 1)}, "a2_scale", "one number"),
    ({"hidden_states": T.zeros(5, 256).to(T.float8_e4m3fn), "dtype": BF16}, "a1_scale", "float32 [5, 1]"),
    (
        {"hidden_states": T.zeros(5, 256).to(T.float8_e4m3fn), "dtype": BF16, "a1_scale": T.ones(5, 2)},
        "a1_scale",
        "[5, 1] or [5], a scale a token, or one number",
    ),
    ({"quant_type": QuantType.per_Token, "a2_scale": T.ones(1)}, "a2_scale", "unless quant_type is per_Tensor"),
]


@pytest.mark.parametrize(("changes", "argument", "words"), REFUSED, ids=lambda value: str(value)[:40])
def test_refusals_name_the_argument(changes: dict[str, Any], argument: str, words: str) -> None:
    case = case_of(problem_of(quant="tensor"), WHOLE)
    with pytest.raises(ArgumentError) as caught:
        call(case, **changes)
    assert caught.value.argument == argument and words in str(caught.value)
