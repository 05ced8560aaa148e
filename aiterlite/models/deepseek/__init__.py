"""A DeepSeek-V3 or R1 decoder: `load` a Hugging Face folder, then `generate`. See docs/models.md."""

from __future__ import annotations

from aiterlite.models.deepseek.cache import LatentCache, Request
from aiterlite.models.deepseek.checkpoint import Checkpoint
from aiterlite.models.deepseek.config import Config
from aiterlite.models.deepseek.graph import DecodeGraph
from aiterlite.models.deepseek.model import DeepSeek, load
from aiterlite.models.deepseek.parallel import Parallel
from aiterlite.models.deepseek.random import random_weights
from aiterlite.models.deepseek.speculate import Drafted, generate_with_drafts

__all__ = [
    "Checkpoint",
    "Config",
    "DecodeGraph",
    "DeepSeek",
    "Drafted",
    "LatentCache",
    "Parallel",
    "Request",
    "generate_with_drafts",
    "load",
    "random_weights",
]
