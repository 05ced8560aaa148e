"""What every operator asks of its operands, and says of them where they do not fit.

Each check raises `ArgumentError` with the operator, the argument, what came, what is allowed, and what to do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from aiterlite.errors import ArgumentError

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
FP8_DTYPES = {"e4m3fn": torch.float8_e4m3fn, "e4m3fnuz": torch.float8_e4m3fnuz}
# Two e2m1 codes a byte, and their e8m0 scales, which callers also bring as plain bytes.
MX_CODES, MX_SCALES = (torch.uint8, torch.float4_e2m1fn_x2), (torch.uint8, torch.float8_e8m0fnu)
_NAMES = {dtype: name for names in (DTYPES, FP8_DTYPES) for name, dtype in names.items()}


def dtype_name(dtype: torch.dtype) -> str:
    """The name that problems have for a dtype; torch's own for others."""
    return _NAMES.get(dtype, str(dtype).removeprefix("torch."))


def check_dtype(function: str, name: str, tensor: Tensor, allowed: Sequence[torch.dtype], why: str = "") -> None:
    if tensor.dtype not in allowed:
        words = ", ".join(map(str, allowed)) + (f", {why}" if why else "")
        raise ArgumentError(function, name, f"of dtype {tensor.dtype}", words)


def check_device(function: str, name: str, tensor: Tensor, like: Tensor, of: str = "x") -> None:
    if tensor.device != like.device:
        raise ArgumentError(function, name, f"on {tensor.device}", f"{like.device}, the device of {of}")


def check_like(function: str, name: str, tensor: Tensor, like: Tensor, of: str = "x") -> None:
    """The dtype and the device of another operand."""
    check_dtype(function, name, tensor, (like.dtype,), f"the dtype of {of}")
    check_device(function, name, tensor, like, of)


def check_dims(function: str, name: str, tensor: Tensor, dims: int, allowed: str) -> None:
    if tensor.dim() != dims:
        plural = "dimension" if dims == 1 else "dimensions"
        raise ArgumentError(function, name, f"of shape {list(tensor.shape)}", f"{allowed}, {dims} {plural}")


def check_shape(function: str, name: str, tensor: Tensor, allowed: Sequence[Sequence[int]], words: str = "") -> None:
    if not any(list(tensor.shape) == list(shape) for shape in allowed):
        *most, last = [str(list(shape)) for shape in allowed] or [""]
        listed = f"{', '.join(most)} or {last}" if most else last
        raise ArgumentError(function, name, f"of shape {list(tensor.shape)}", words or listed)


def check_dense(function: str, **tensors: Tensor | None) -> None:
    """The last dimension of each operand has stride 1."""
    for name, tensor in tensors.items():
        if tensor is not None and not is_dense(tensor):
            got = f"of strides {list(tensor.stride())}"
            raise ArgumentError(function, name, got, "a last dimension of stride 1", "Call .contiguous() on it.")


def check_choice(function: str, name: str, value: Any, allowed: Sequence[Any]) -> None:
    if value not in allowed:
        raise ArgumentError(function, name, repr(value), ", ".join(map(str, allowed)))


def is_dense(tensor: Tensor) -> bool:
    return tensor.dim() == 0 or tensor.shape[-1] <= 1 or tensor.stride(-1) == 1


def is_aligned(tensor: Tensor, elements: int) -> bool:
    """Whether all rows begin at 16-byte addresses: strides are multiples of `elements`, which 16 bytes hold."""
    outer = zip(tensor.shape[:-1], tensor.stride()[:-1], strict=True)
    return tensor.data_ptr() % 16 == 0 and all(stride % elements == 0 for size, stride in outer if size != 1)


def check_row_count(function: str, input: Tensor, num_rows: Tensor | None, num_rows_factor: int) -> None:
    """A tensor that says how many rows of `input` there are, times a factor; or None."""
    if num_rows_factor < 1:
        raise ArgumentError(function, "num_rows_factor", num_rows_factor, "at least 1")
    if num_rows is None:
        return
    check_dtype(function, "num_rows", num_rows, (torch.int32,))
    check_device(function, "num_rows", num_rows, input, "input")
    if num_rows.numel() != 1:
        raise ArgumentError(function, "num_rows", f"of shape {list(num_rows.shape)}", "one element")


def rows_of(x: Tensor) -> int:
    """The number of rows of [..., K]."""
    return math.prod(x.shape[:-1])


def flatten(x: Tensor) -> Tensor:
    """x as [N, K]; a view wherever strides allow one."""
    return x if x.dim() == 2 else x.reshape(rows_of(x), x.shape[-1])


def layout(tensor: Tensor) -> tuple[Any, ...]:
    """Shape, strides, dtype, device (a GPU's number, -1 for a CPU: no other device reaches an implementation) and
    alignment of an operand."""
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.get_device(), tensor.data_ptr() & 15


_PLAIN = (Tensor, torch.nn.Parameter)
_is_compiling: Any = torch.compiler.is_compiling
_dispatch_modes: Any = torch._C._len_torch_dispatch_stack
_function_modes: Any = torch._C._is_torch_function_mode_enabled
_transforms: Any = torch._C._functorch.peek_interpreter_stack
_profiled: Any = torch._C._autograd._profiler_enabled


def plain_layouts(*tensors: Tensor | None) -> tuple[Any, ...] | None:
    """The layouts of a call's operands, if torch's dispatcher would only call this package's function, which takes it
    some microseconds; else None.

    That holds where nothing compiles, traces, transforms, differentiates forward, intercepts or profiles operators, and
    the operands are ordinary tensors of a CPU or a GPU. A negated view, a zero tensor without memory, a sparse, nested,
    fake, meta or wrapped one is not ordinary: its memory is not what it stands for. (No kernel takes complex operands,
    which may be conjugated.)
    """
    if (
        _is_compiling()
        or _dispatch_modes()
        or _function_modes()
        or _transforms() is not None
        or forward_ad._current_level >= 0
        or torch._C._get_tracing_state() is not None
        or _profiled()
    ):
        return None
    layouts: list[Any] = []
    for tensor in tensors:
        if tensor is None:
            layouts.append(None)
            continue
        if type(tensor) not in _PLAIN or not (tensor.is_cuda or tensor.is_cpu) or tensor.is_neg() or tensor.is_nested:
            return None
        try:
            address, strides = tensor.data_ptr(), tensor.stride()
        except (NotImplementedError, RuntimeError):
            # A sparse layout has neither.
            return None
        if not address:
            return None
        layouts.append((tensor.shape, strides, tensor.dtype, tensor.get_device(), address & 15))
    return tuple(layouts)
