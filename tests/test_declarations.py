"""Declarations of structs, launches and operators that no shipped family has, and some that are refused."""

from __future__ import annotations

import ctypes
import math
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import aiterlite  # noqa: E402
from aiterlite.errors import AiterliteError, SourceError  # noqa: E402
from aiterlite.jit import arguments  # noqa: E402
from aiterlite.jit.arguments import ArgumentStruct  # noqa: E402
from aiterlite.jit.spec import Unit  # noqa: E402
from aiterlite.kernel import Kernel, Operand, TensorMap  # noqa: E402
from aiterlite.launch import program  # noqa: E402
from aiterlite.ops.operator import OPERATORS, register  # noqa: E402

UNIT = Unit("launch", ("csrc/launch/launch.cpp",), "cpu-x86-64")


class Tree:
    def __init__(self, text: str) -> None:
        self._text = text

    def read(self, path: str) -> bytes:
        return self._text.encode()


def layout(text: str) -> arguments.Layout:
    tree: Any = Tree(text)
    return ArgumentStruct("A", "h.h").layout(tree)


def test_a_field_behind_a_nested_struct_with_a_padded_end_is_packed_where_it_lies() -> None:
    made = layout("struct In { int64_t a; int32_t b; };\nstruct A { struct In in; int32_t c; };")
    assert [field.offset for field in made.packed] == [0, 8, 16] and made.size == 24
    assert made.packer.size == 24
    assert struct.unpack_from("<i", made.packer.pack(1, 2, 3), 16) == (3,)


@pytest.mark.parametrize(
    "text",
    [
        "struct A { int32_t a; // the compiler goes on \\\n int32_t gone;\n int32_t b; };",
        "#if 0\nstruct A { int32_t a; };\n#endif\nstruct A { int64_t a; int64_t b; };",
        "#pragma pack(push, 1)\nstruct A { int64_t a; int32_t b; };\n#pragma pack(pop)",
        "#define int32_t int64_t\nstruct A { int32_t a; int32_t b; };",
        "namespace x { struct A { int32_t a; }; }\nnamespace y { struct A { int64_t a; }; }\nusing y::A;",
    ],
)
def test_what_the_preprocessor_may_change_is_refused(text: str) -> None:
    with pytest.raises(SourceError):
        layout(text)


@pytest.mark.parametrize("grid", [(1 << 32 | 1, 1, 1), (4,), (), (-1, 1, 1)])
def test_a_grid_that_the_launch_unit_would_read_otherwise_is_refused(grid: tuple[int, ...]) -> None:
    """2**32 + 1 workgroups became one; a grid of one dimension moves every word behind it."""
    made: Any = grid
    kernel = Kernel(UNIT, "k", ArgumentStruct("aiterlite_gemm_args", "aiterlite/gemm_args.h"), made, (64, 1, 1))
    with pytest.raises((ValueError, AiterliteError)):
        program.words([kernel], [5], (1, 2, 3), False, (0,), {})


@pytest.mark.parametrize(("rank", "box"), [(6, 6), (2, 1)])
def test_a_tensor_map_that_the_launch_unit_has_no_room_for_is_refused(
    rank: int, box: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rank 6 writes beyond the arrays of csrc/launch/launch.cpp; a short box takes the next kernel's words."""
    tree: Any = Tree("struct A { aiterlite_tensor_map m; const float* p; };")
    monkeypatch.setattr(arguments, "package_tree", lambda: tree)
    described = TensorMap("m", "p", "bf16", (8,) * rank, (8,) * (rank - 1), (8,) * box)
    kernel = Kernel(UNIT, "k", ArgumentStruct("A", "h.h"), (1, 1, 1), (64, 1, 1), maps=(described,))
    with pytest.raises((ValueError, AiterliteError)):
        program.words([kernel], [5], (1, 2, 3), False, (0,), {})


def test_an_absent_operand_that_a_kernel_names_is_null(monkeypatch: pytest.MonkeyPatch) -> None:
    """`launch.prepare` turns absent operands into sizes of 0; `args={"p": Operand("bias")}` does not find them."""
    tree: Any = Tree("struct A { const float* p; };")
    monkeypatch.setattr(arguments, "package_tree", lambda: tree)
    kernel = Kernel(UNIT, "k", ArgumentStruct("A", "h.h"), args={"p": Operand("bias")})
    assert program.packing([kernel], [], {"bias": 0}).pack(())[:8] == bytes(8)


# Operators ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def no_trace_in_the_registry() -> Iterator[None]:
    known = dict(OPERATORS)
    yield
    OPERATORS.clear()
    OPERATORS.update(known)


@pytest.fixture(scope="module")
def copy_into() -> Any:
    """An operator that writes as kernels do, behind autograd's back."""

    def run(x: torch.Tensor, out: torch.Tensor) -> None:
        ctypes.memmove(out.data_ptr(), x.data_ptr(), x.nbytes)

    def prepare(x: torch.Tensor, out: torch.Tensor) -> Callable[..., None]:
        return run

    return register("_test_copy_into(Tensor x, Tensor(a!) out) -> ()", prepare, lambda x, out: None)


def test_a_write_is_counted_so_that_a_stale_saved_tensor_is_an_error(copy_into: Any) -> None:
    """The gradient was that of the overwritten tensor, without a word; torch raises for its own in-place operations."""
    saved, a = torch.ones(4), torch.ones(4, requires_grad=True)
    y = (a * saved).sum()
    copy_into(torch.full((4,), 7.0), saved)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


def test_writing_what_needs_a_gradient_into_a_plain_tensor_loses_no_part(copy_into: Any) -> None:
    """x.grad was 1 where 2 is right. torch's `out=` refuses this."""
    x, out = torch.ones(4, requires_grad=True), torch.zeros(4)
    with pytest.raises((NotImplementedError, RuntimeError)):
        copy_into(x, out)
        (out.sum() + x.sum()).backward()


def test_arguments_may_be_lists() -> None:
    def prepare(xs: list[torch.Tensor], dims: list[int]) -> Callable[..., torch.Tensor]:
        return lambda xs, dims: sum(xs).sum(dims)

    operator = register("_test_lists(Tensor[] xs, int[] dims) -> Tensor", prepare, prepare)
    assert operator([torch.ones(2, 3), torch.ones(2, 3)], [0]).tolist() == [4.0, 4.0, 4.0]


def test_zero_and_minus_zero_are_two_values() -> None:
    def prepare(x: torch.Tensor, s: float) -> Callable[..., torch.Tensor]:
        sign = math.copysign(1.0, s)
        return lambda x, s: torch.full_like(x, sign)

    operator = register("_test_sign(Tensor x, float s) -> Tensor", prepare, lambda x, s: torch.empty_like(x))
    assert operator(torch.ones(1), 0.0).item() == 1.0
    assert operator(torch.ones(1), -0.0).item() == -1.0


@pytest.mark.compile
def test_wv_split_k_rc_compiles_with_torchs_default_backend() -> None:
    """`getitem is not an OpOverload`: the schema writes to a workspace that is not given."""
    x, weight = torch.randn(4, 64).bfloat16(), torch.randn(24, 64).bfloat16()
    compiled = torch.compile(lambda x, w: aiterlite.wvSplitKrc(x, w), fullgraph=True, dynamic=True)
    assert torch.equal(compiled(x, weight), aiterlite.wvSplitKrc(x, weight))
