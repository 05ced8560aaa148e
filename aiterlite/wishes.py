"""What the environment asks of dispatch, which itself reads nothing."""

from __future__ import annotations

from aiterlite import envs
from aiterlite.dispatch import Wishes


def wishes(building: bool = False) -> Wishes:
    """The wishes of this process. A build is for runs elsewhere, so it ignores AITERLITE_JIT=off."""
    off = envs.JIT.get() == "off" and not building
    return Wishes(vskip=envs.VSKIP.get(), prefer=envs.PREFER.get(), jit_off=off, strict=envs.STRICT.get())
