"""The functions of `aiterlite.moe` as strangers call them: what is no tensor or no number, what is elsewhere, compiled,
in inference mode, in threads, for several targets in one process; and the sequences of clients."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from aiterlite import envs, moe  # noqa: E402
from aiterlite.errors import ArgumentError  # noqa: E402
from aiterlite.ops.operator import OPERATORS  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.compile]
FP32, INT32, BF16 = torch.float32, torch.int32, torch.bfloat16
GATING, BIAS = torch.linspace(-3, 3, 32).view(2, 16).sin(), torch.linspace(-1, 1, 16).cos()
IDS, WEIGHTS = torch.tensor([[0, 1], [2, 3]], dtype=INT32), torch.tensor([[0.5, 0.25], [1.0, 2.0]])


def ints(*shape: int) -> Tensor:
    return torch.full(shape, -7, dtype=INT32)


def floats(*shape: int) -> Tensor:
    return torch.full(shape, -7.0)


def calls() -> dict[str, dict[str, Any]]:
    """A right call of each function, all arguments by name."""
    grouped = {"num_expert_group": 4, "topk_group": 2}
    results = {"topk_weights": floats(2, 4), "topk_ids": ints(2, 4)}
    named = {"topk_weights": floats(2, 4), "topk_indices": ints(2, 4)}
    scaled = {"routed_scaling_factor": 2.5}
    lists = {"topk_ids": IDS, "topk_weights": WEIGHTS}
    made = {
        "biased_grouped_topk": {"gating_output": GATING, "correction_bias": BIAS, **results, **grouped}
        | {"need_renorm": True, **scaled},
        "grouped_topk": {"gating_output": GATING, **results, **grouped}
        | {"need_renorm": True, "is_softmax": True, **scaled},
        "moe_fused_gate": {"input": GATING, "bias": BIAS, **results, **grouped}
        | {"topk": 4, "n_share_experts_fusion": 1, **scaled},
        "topk_softmax": {**named, "token_expert_indices": ints(2, 4), "gating_output": GATING}
        | {"need_renorm": True, "num_shared_experts": 0, "shared_expert_scoring_func": ""},
        "topk_sigmoid": {**named, "gating_output": GATING},
        "fused_topk": {"hidden_states": GATING, "gating_output": GATING, "topk": 4, "renormalize": True, **results},
        "moe_sorting": {**lists, "num_experts": 4, "model_dim": 8, "moebuf_dtype": BF16, "block_size": 8}
        | {"expert_mask": torch.ones(4, dtype=INT32), "num_local_tokens": torch.tensor([2], dtype=INT32)},
        "moe_sorting_fwd": {**lists, "sorted_token_ids": ints(32), "sorted_weights": floats(32)}
        | {"sorted_expert_ids": ints(4), "num_valid_ids": ints(2), "moe_buf": floats(2, 8), "num_experts": 4}
        | {"unit_size": 8, "local_expert_mask": torch.ones(4, dtype=INT32)}
        | {"num_local_tokens": torch.tensor([2], dtype=INT32)},
        "moe_align_block_size": {"topk_ids": IDS, "num_experts": 4, "block_size": 8, "sorted_token_ids": ints(32)}
        | {"experts_ids": ints(4), "token_nums": ints(4), "num_tokens_post_pad": ints(1)},
        "moe_sum": {"input": torch.arange(48.0).view(2, 3, 8), "output": floats(2, 8)},
    }
    # As many tensors as names, so that a call that writes disturbs no other.
    return {name: {key: _own(value) for key, value in given.items()} for name, given in made.items()}


def _own(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


FUNCTIONS = list(calls())
each_function = pytest.mark.parametrize("name", FUNCTIONS)
OPTIONAL = {"expert_mask", "local_expert_mask", "num_local_tokens", ("fused_topk", "topk_ids")}
OPTIONAL |= {("fused_topk", "topk_weights")}
# Of `fused_topk` only the rows of hidden_states are looked at.
UNREAD = ("fused_topk", "hidden_states")
# Of any shape.
ALIGNED = ("moe_align_block_size", "topk_ids")


def call(name: str, given: dict[str, Any]) -> list[Tensor]:
    """What a call leaves in its arguments and returns, as far as it is defined."""
    results = getattr(moe, name)(**given)
    left = [value for value in given.values() if isinstance(value, Tensor)]
    if name == "moe_sorting":
        used = int(results[3][0])
        left += [results[0][:used], results[1][:used], results[2][: used // given["block_size"]], *results[3:]]
    return left


def assert_same(left: list[Tensor], expected: list[Tensor]) -> None:
    assert len(left) == len(expected)
    for one, other in zip(left, expected, strict=True):
        torch.testing.assert_close(one, other)


# What does not fit ----------------------------------------------------------------------------------------------------


@each_function
def test_what_is_no_tensor_is_refused_by_its_name(name: str) -> None:
    function = getattr(moe, name)
    for argument, value in calls()[name].items():
        if not isinstance(value, Tensor):
            continue
        strangers: list[Any] = [3, [[1, 2]], value.numpy()]
        if argument not in OPTIONAL and (name, argument) not in OPTIONAL:
            strangers.append(None)
        for stranger in strangers:
            with pytest.raises((ArgumentError, RuntimeError), match=rf"'?`?{argument}'?`?") as refused:
                function(**{**calls()[name], argument: stranger})
            assert name in str(refused.value) or name == "moe_sorting_fwd"
            assert stranger is not None or "is None; allowed: a tensor" in str(refused.value)


@each_function
def test_what_is_no_number_is_refused_by_its_name(name: str) -> None:
    """A bool takes whatever has a truth value, as torch has it."""
    function = getattr(moe, name)
    numbers = [key for key, value in calls()[name].items() if type(value) in (int, float)]
    for argument in numbers:
        for stranger in (None, "x", [1]):
            with pytest.raises((ArgumentError, RuntimeError), match=argument):
                function(**{**calls()[name], argument: stranger})
        if type(calls()[name][argument]) is int:
            with pytest.raises((ArgumentError, RuntimeError), match=argument):
                function(**{**calls()[name], argument: 2.5})


@pytest.mark.parametrize(
    ("name", "argument", "values"),
    [
        ("biased_grouped_topk", "routed_scaling_factor", (1.0, 3.0)),
        ("grouped_topk", "is_softmax", (True, False)),
        ("grouped_topk", "topk_group", (4, 1)),
        ("moe_fused_gate", "topk", (4, 3)),
        ("fused_topk", "renormalize", (True, False)),
    ],
)
def test_a_number_in_a_tensor_is_read_at_each_call(name: str, argument: str, values: tuple[Any, Any]) -> None:
    """Tensors of one layout and other values are other calls."""
    for value in values:
        in_tensor = call(name, {**calls()[name], argument: torch.tensor(value)})
        plain = call(name, {**calls()[name], argument: value})
        assert_same([one for one in in_tensor if one.dim()], plain)


@each_function
def test_a_tensor_of_no_dimension_is_refused(name: str) -> None:
    for argument, value in calls()[name].items():
        # Of some only the number of entries is looked at.
        shapeless = argument in ("num_valid_ids", "num_local_tokens", "num_tokens_post_pad", "moe_buf")
        if not isinstance(value, Tensor) or shapeless or (name, argument) in (UNREAD, ALIGNED):
            continue
        with pytest.raises(ArgumentError) as refused:
            getattr(moe, name)(**{**calls()[name], argument: value.new_zeros(())})
        assert refused.value.argument == argument, str(refused.value)


@each_function
def test_a_tensor_elsewhere_is_refused(name: str) -> None:
    """Also where it is on the meta device, whose calls do nothing."""
    for argument, value in calls()[name].items():
        if isinstance(value, Tensor) and (name, argument) != UNREAD:
            with pytest.raises(ArgumentError, match="the device of"):
                getattr(moe, name)(**{**calls()[name], argument: value.to("meta")})


@pytest.mark.parametrize("name", ["moe_sorting", "moe_sorting_fwd", "moe_align_block_size", "moe_sum"])
def test_what_does_not_fit_is_refused_while_tracing(name: str) -> None:
    """As it is when it is called, and not in a compiled program's first run."""
    for argument, value in calls()[name].items():
        if isinstance(value, Tensor):
            given = {**calls()[name], argument: value.to(torch.float64)}
            on_meta = {key: one.to("meta") if isinstance(one, Tensor) else one for key, one in given.items()}
            with pytest.raises(ArgumentError) as refused:
                getattr(moe, name)(**on_meta)
            assert refused.value.argument == argument, str(refused.value)


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    (
        "moe_sorting",
        {"expert_mask": torch.ones(3, dtype=INT32)},
        "moe_sorting: argument `expert_mask` is of 3 entries; ",
    ),
    (
        "moe_sorting",
        {"expert_mask": torch.ones(3, dtype=INT32)},
        "at least 4. It has one entry an expert, of all ranks",
    ),
    ("moe_sorting", {"num_local_tokens": ints(0)}, "`num_local_tokens` is of 0 entries; allowed: at least 1."),
    ("moe_sorting", {"dispatch_policy": 3}, "moe_sorting: argument `dispatch_policy` is 3; allowed: 0, 1, 2."),
    (
        "moe_sorting_fwd",
        {"dispatch_policy": -1},
        "moe_sorting_fwd: argument `dispatch_policy` is -1; allowed: 0, 1, 2.",
    ),
    (
        "moe_sorting_fwd",
        {"unit_size": 0},
        "moe_sorting_fwd: argument `unit_size` is 0; allowed: an integer, 1 to 1024.",
    ),
    (
        "moe_sorting_fwd",
        {"num_experts": 1025},
        "moe_sorting_fwd: argument `num_experts` is 1025; allowed: an integer, 1 to 1024.",
    ),
    (
        "moe_sorting_fwd",
        {"local_expert_mask": ints(3)},
        "moe_sorting_fwd: argument `local_expert_mask` is of 3 entries",
    ),
    ("moe_align_block_size", {"block_size": 0}, "argument `block_size` is 0; allowed: an integer, 1 to 1024."),
    ("moe_align_block_size", {"num_experts": 0}, "argument `num_experts` is 0; allowed: an integer, 1 to 1024."),
    (
        "moe_sum",
        {"output": floats(1, 8).expand(2, 8)},
        "`output` is of strides [0, 1]; allowed: elements that do not overlap",
    ),
    ("topk_softmax", {"topk_indices": ints(2, 0)}, "`topk_indices` is of 0 columns; allowed: 1 to 32"),
    ("topk_softmax", {"shared_expert_scoring_func": "x"}, "is 'x'; allowed: '', 'sigmoid'."),
    ("moe_fused_gate", {"topk": 34}, "`topk` is 34; allowed: 2 to 33, with the 1 shared"),
    ("grouped_topk", {"routed_scaling_factor": 1e39}, "`routed_scaling_factor` is 1e+39; allowed: a finite float32"),
    ("moe_fused_gate", {"routed_scaling_factor": float("nan")}, "`routed_scaling_factor` is nan; allowed: a finite"),
]


@pytest.mark.parametrize(("name", "changes", "said"), REFUSED)
def test_what_is_refused_says_so_in_the_function_s_own_words(name: str, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentError) as refused:
        getattr(moe, name)(**{**calls()[name], **changes})
    assert said in str(refused.value)


def test_places_that_no_int32_holds_are_refused() -> None:
    """Slot k of token t is k * tokens + t."""
    tokens = 2**27 + 1
    on_meta: Callable[..., Tensor] = lambda dtype: torch.empty(tokens, 16, dtype=dtype, device="meta")  # noqa: E731
    with pytest.raises(ArgumentError, match=r"`token_expert_indices` is .*2\^31"):
        moe.topk_softmax(on_meta(FP32), on_meta(INT32), on_meta(INT32), on_meta(FP32), True)


# How it is called -----------------------------------------------------------------------------------------------------


@each_function
def test_all_ways_of_calling_give_the_same(name: str) -> None:
    """In inference mode, from threads, and in a compiled graph without a break."""
    expected = call(name, calls()[name])
    with torch.inference_mode():
        assert_same(call(name, calls()[name]), expected)
    left: list[list[Tensor]] = []
    threads = [threading.Thread(target=lambda: left.append(call(name, calls()[name]))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(left) == 4
    for one in left:
        assert_same(one, expected)
    torch._dynamo.reset()
    given = calls()[name]
    compiled = torch.compile(getattr(moe, name), fullgraph=True, backend="aot_eager")
    results = compiled(**given)
    written = [value for value in given.values() if isinstance(value, Tensor)]
    assert_same(written, expected[: len(written)])
    assert results is None or len(results) in (2, 5)


@pytest.mark.parametrize(
    "op", ["biased_grouped_topk", "topk_softmax", "moe_sorting", "moe_align_block_size", "moe_sum"]
)
def test_opcheck(op: str) -> None:
    """Schemas, fakes and autograd are what torch makes of them."""
    args: tuple[Any, ...] = tuple(calls()["moe_sorting_fwd" if op == "moe_sorting" else op].values())
    if op == "moe_sorting":
        args = (*args[:7], ints(0), *args[9:], *args[7:9], 0)
    elif op == "moe_align_block_size":
        args = (args[0], *args[3:], *args[1:3])
    torch.library.opcheck(OPERATORS[op].overload, args)


@pytest.mark.emulated
@each_function
def test_targets_take_turns_in_one_process(name: str) -> None:
    expected = call(name, calls()[name])
    for target in ("mi300x", "cpu", "mi355x", None, "mi300x"):
        with envs.override(AITERLITE_TARGET=target):
            assert_same(call(name, calls()[name]), expected)


# Clients --------------------------------------------------------------------------------------------------------------


def test_expert_parallel_clients() -> None:
    """SGLang with DeepEP: ids of -1 become a fake expert behind the global ones, whose mask is 0; num_experts is the
    mask's length. vLLM: the mask of a rank, ids global, the shared expert's id one of a rank's own."""
    topk_ids = torch.tensor([[0, 5, -1, 7], [6, -1, -1, 4], [-1, -1, -1, -1]])
    weights = torch.rand(3, 4)
    mask = torch.tensor([0] * 4 + [1] * 4 + [0], dtype=INT32)
    topk_ids[topk_ids == -1] = 8
    made = moe.moe_sorting(
        topk_ids.to(INT32), weights, mask.numel(), 64, BF16, 32, mask, None, 0, return_local_topk_ids=True
    )
    sorted_ids, sorted_weights, expert_ids, valid, moe_buf, local = made
    assert valid.tolist() == [128, 3] and expert_ids[:4].tolist() == [0, 1, 2, 3]
    assert local.tolist() == [[-1, 1, -1, 3], [2, -1, -1, 0], [-1] * 4]
    assert sorted_ids[:128:32].tolist() == [3 << 24 | 1, 1 << 24, 1, 3 << 24]
    assert torch.equal(
        sorted_weights[:128:32], torch.stack([weights[1, 3], weights[0, 1], weights[1, 0], weights[0, 3]])
    )
    assert moe_buf.shape == (3, 64) and not moe_buf.any()


def test_vllm_aligns_and_sums() -> None:
    """vLLM allocates for the worst case, fills with the number of ids, and sums what the GEMMs wrote slot by slot."""
    topk_ids = torch.tensor([[2, 0], [1, 2], [2, 2]], dtype=INT32)
    experts, block = 4, 4
    room = topk_ids.numel() + experts * (block - 1)
    sorted_ids = torch.full((room,), topk_ids.numel(), dtype=INT32)
    expert_ids, nums, post = torch.zeros(-(-room // block), dtype=INT32), ints(-(-room // block)), ints(1)
    moe.moe_align_block_size(topk_ids, experts, block, sorted_ids, expert_ids, nums, post)
    assert post.tolist() == [12] and expert_ids[:3].tolist() == [0, 1, 2] and nums[:3].tolist() == [1, 1, 4]
    assert sorted_ids[:12].tolist() == [1, 6, 6, 6, 2, 6, 6, 6, 0, 3, 4, 5]
    cache = torch.randn(3, 2, 16).bfloat16()
    output = torch.empty(3, 16, dtype=BF16)
    moe.moe_sum(cache.view(3, 2, 16), output)
    assert torch.equal(output, (cache[:, 0].float() + cache[:, 1].float()).bfloat16())
