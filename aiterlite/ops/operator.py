"""One declaration of an operator, and the registry that tests, the command line and drop-in modules walk.

An operator is three things: its schema, `prepare`, which checks the operands of a call, decides, and returns what runs
such calls, and `fake`, which checks them and makes results of the right shapes. All is registered with torch.library in
Python, under the names `aiterlite::<operator>`; no built unit registers anything. In-place operators say so in their
schema (`Tensor(a!) out`), and so do those with several results.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils import _pytree as pytree

from aiterlite.ops import arguments, call_log, operands
from aiterlite.ops.calls import PreparedCalls, Run

_NAMESPACE = "aiterlite"


def key_of(arg: Any) -> Any:
    if isinstance(arg, Tensor):
        return operands.layout(arg)
    if isinstance(arg, (list, tuple)):
        return tuple(map(key_of, arg))
    return repr(arg) if isinstance(arg, float) else arg  # 0.0 equals -0.0, and 1.0 equals 1


@dataclass(frozen=True)
class Operator:
    """A registered operator. A call goes through torch's dispatcher; `run` bypasses it."""

    name: str
    schema: str
    prepare: Callable[..., Run]
    fake: Callable[..., Any]
    overload: Any
    prepared: PreparedCalls
    key_of: Callable[[Any], Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.overload(*args, **kwargs)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Call the implementation that was prepared for such operands."""
        key = (self.key_of(args), key_of(tuple(kwargs.items())))
        run = self.prepared.find(key) or self.prepare_as(key, *args, **kwargs)
        return run(*args, **kwargs)

    def prepare_as(self, key: tuple[Any, ...], *args: Any, **kwargs: Any) -> Run:
        """Prepare a call, and keep it by `key`: all that `prepare` reads, in any form of the caller's own."""
        if call_log.is_on():
            return self.prepared.prepare(key, lambda: call_log.observed(self.name, self.prepare, args, kwargs))
        return self.prepared.prepare(key, lambda: self.prepare(*args, **kwargs))

    @property
    def mutates(self) -> tuple[str, ...]:
        """The names of the arguments that a call writes to."""
        arguments = self.overload._schema.arguments
        return tuple(a.name for a in arguments if a.alias_info is not None and a.alias_info.is_write)


OPERATORS: dict[str, Operator] = {}
# Other forms of these too, by what torch calls.
BY_OVERLOAD: dict[Any, Operator] = {}


def register(schema: str, prepare: Callable[..., Run], fake: Callable[..., Any], key_of: Any = key_of) -> Operator:
    """Register an operator by its schema, such as `norm(Tensor x, Tensor(a!)? out=None) -> (Tensor, Tensor)`.

    `prepare` takes the operator's arguments and returns a callable that takes them too and returns the results; it is
    called once for each `key_of` of the positional ones: all layouts and values, by default. None of these operators is
    differentiable; each says so in `backward()`, in forward mode and in torch.func, or where a call writes to operands.

    `name.overload(...)` is another form of an operator that has been registered. `OPERATORS` does not list it.
    """
    name = schema.partition("(")[0]
    packet, _, form = name.partition(".")
    library: Any = torch.library.Library(_NAMESPACE, "FRAGMENT")  # type: ignore[no-untyped-call]
    library.define(schema)
    overload = getattr(getattr(torch.ops.aiterlite, packet), form or "default")
    prepare, fake = arguments.requiring_tensors(overload, prepare, fake)
    operator = Operator(name, schema, prepare, fake, overload, PreparedCalls(), key_of)
    for key in ("CPU", "CUDA"):
        library.impl(name, operator.run, key)
    library.impl(name, _not_differentiable(operator), "Autograd", with_keyset=True)
    torch.library.register_fake(f"{_NAMESPACE}::{name}", fake, lib=library)
    if not form:
        OPERATORS[name] = operator
    BY_OVERLOAD[overload] = operator
    _libraries.append(library)
    return operator


# A library that is collected takes its operators with it.
_libraries: list[Any] = []


def _not_differentiable(operator: Operator) -> Callable[..., Any]:
    """The kernel of torch's Autograd key: the operator below it, and an error wherever a gradient is asked for."""
    message = f"{_NAMESPACE}::{operator.name} is not differentiable"
    names = [argument.name for argument in operator.overload._schema.arguments]
    mutates = operator.mutates

    def autograd(keyset: Any, *args: Any, **kwargs: Any) -> Any:
        tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        unpack: Any = forward_ad.unpack_dual
        if forward_ad._current_level >= 0 and any(unpack(tensor).tangent is not None for tensor in tensors):
            remedy = "Detach it, or call the operation of torch."
            raise NotImplementedError(f"{message}: an operand has a tangent. {remedy}")
        graded = [tensor for tensor in tensors if tensor.requires_grad] if torch.is_grad_enabled() else []
        given = {**dict(zip(names, args, strict=False)), **kwargs} if mutates else {}
        written = {name: given[name] for name in mutates if isinstance(given.get(name), Tensor)}
        if graded and (written or torch._C._functorch.peek_interpreter_stack() is not None):
            writes = f" and writes to `{'`, `'.join(written)}`" if written else ""
            remedy = "Detach what requires grad, or use torch.no_grad()."
            raise NotImplementedError(f"{message}{writes}, and an operand requires grad. {remedy}")
        result = operator.overload.redispatch(keyset & torch._C._after_autograd_keyset, *args, **kwargs)
        # Autograd learns by this that what it saved of a tensor that is written to is stale.
        if written:
            torch.autograd.graph.increment_version(list(written.values()))

        def mark(tensor: Tensor) -> Any:
            return _NoGradient.apply(message, tensor, *graded) if tensor.is_floating_point() else tensor  # type: ignore[no-untyped-call]

        return pytree.tree_map_only(Tensor, mark, result) if graded else result

    return autograd


class _NoGradient(torch.autograd.Function):
    """A result whose `backward()` is an error, instead of a gradient that lacks what came before."""

    @staticmethod
    def forward(message: str, result: Tensor, *operands: Tensor) -> Tensor:
        return result.detach()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.message = inputs[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise NotImplementedError(f"{ctx.message}. Detach its operands, or call torch's operation.")
