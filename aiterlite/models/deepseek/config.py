"""What a DeepSeek-V3 model is, from Hugging Face's config.json."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiterlite.errors import ArgumentError
from aiterlite.models.deepseek import quark
from aiterlite.models.deepseek.quark import Quark

# What the operators of MLA are made for.
LATENT, ROPE = 512, 64
BLOCK = 128


@dataclass(frozen=True)
class Yarn:
    """How positions beyond those of the pretraining are rotated, under config.json's names."""

    factor: float
    original_max_position_embeddings: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float = 0.0
    mscale_all_dim: float = 0.0
    attention_factor: float | None = None


@dataclass(frozen=True)
class Config:
    """The fields of config.json that the decoder goes by, under their names; `block_scaled` says whether weights are
    8-bit codes with a scale for each 128 x 128, `quark` which of them are MXFP4, if any."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    moe_intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    n_routed_experts: int
    num_experts_per_tok: int
    n_group: int
    topk_group: int
    q_lora_rank: int | None
    kv_lora_rank: int = LATENT
    qk_rope_head_dim: int = ROPE
    qk_nope_head_dim: int = 128
    v_head_dim: int = 128
    n_shared_experts: int = 1
    first_k_dense_replace: int = 3
    norm_topk_prob: bool = True
    routed_scaling_factor: float = 2.5
    max_position_embeddings: int = 4096
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_interleave: bool = True
    tie_word_embeddings: bool = False
    num_nextn_predict_layers: int = 0
    yarn: Yarn | None = None
    block_scaled: bool = False
    quark: Quark | None = None

    @classmethod
    def read(cls, source: str | Path | Mapping[str, Any]) -> Config:
        """Of a folder with a config.json, such a file, or what is in it. Raises `ArgumentError` for models that are
        none of DeepSeek-V3's, and for parts of it that are not here."""
        if isinstance(source, Mapping):
            given = dict(source)
        else:
            path = Path(source)
            given = json.loads((path / "config.json" if path.is_dir() else path).read_text())
            if not isinstance(given, Mapping):
                raise _refused("config", f"a {type(given).__name__}", "an object", _WHOSE)
        _check(given)
        names = {field.name for field in dataclasses.fields(cls)} - {"yarn", "block_scaled", "quark", "rope_theta"}
        rope = {**_mapping(given, "rope_scaling"), **_mapping(given, "rope_parameters")}
        _check_numbers(Config, {"rope_theta": rope.get("rope_theta")})
        config = cls(
            **{name: given[name] for name in names if given.get(name) is not None or name == "q_lora_rank"},
            rope_theta=float(rope.get("rope_theta") or given.get("rope_theta") or 10000.0),
            yarn=_yarn(rope, given),
            block_scaled=_block_scaled(_mapping(given, "quantization_config")),
            quark=_quark(_mapping(given, "quantization_config")),
        )
        config._check_sizes()
        return config

    @property
    def qk_head_dim(self) -> int:
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def softmax_scale(self) -> float:
        """What scores are multiplied by. yarn sharpens attention as contexts grow, at both of its operands."""
        scale = float(self.qk_head_dim**-0.5)
        if self.yarn is not None and self.yarn.mscale_all_dim:
            scale *= yarn_magnitude(self.yarn.factor, self.yarn.mscale_all_dim) ** 2
        return scale

    def is_dense(self, layer: int) -> bool:
        return layer < self.first_k_dense_replace

    def _check_sizes(self) -> None:
        for name, only in (("kv_lora_rank", LATENT), ("qk_rope_head_dim", ROPE)):
            if getattr(self, name) != only:
                raise _refused(name, getattr(self, name), f"{only}, which MLA's kernels are made for")
        if not 1 <= self.num_attention_heads <= 1024:
            raise _refused("num_attention_heads", self.num_attention_heads, "1 to 1024")
        if self.n_routed_experts % self.n_group:
            raise _refused("n_group", self.n_group, f"a divisor of n_routed_experts, {self.n_routed_experts}")
        for name, of in (("topk_group", "n_group"), ("num_experts_per_tok", "n_routed_experts")):
            if getattr(self, name) > getattr(self, of):
                raise _refused(name, getattr(self, name), f"at most {of}, {getattr(self, of)}")
        if self.block_scaled and (self.q_lora_rank or 0) % BLOCK:
            allowed = f"a multiple of {BLOCK}, since weights have a scale for each {BLOCK} rows"
            raise _refused("q_lora_rank", self.q_lora_rank, allowed)


def yarn_magnitude(factor: float, mscale: float = 1.0) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


# Fields of config.json of which one value is here.
_ONLY = {
    "model_type": ("deepseek_v3",),
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "scoring_func": ("sigmoid",),
    "topk_method": ("noaux_tc",),
    "moe_layer_freq": (1,),
}
_WHOSE = "Give the config.json of a DeepSeek-V3 model."
# Fields of which a model may have none, and the most that any number of things is.
_MAYBE_NONE = ("first_k_dense_replace", "n_shared_experts", "num_nextn_predict_layers")
_MOST = 2**24
# Numbers that may be 0.
_MAYBE_ZERO = ("rms_norm_eps", "mscale", "mscale_all_dim")


def _check(given: Mapping[str, Any]) -> None:
    for name, values in _ONLY.items():
        if given.get(name) is not None and given[name] not in values:
            raise _refused(name, given[name], " or ".join(map(repr, values)))
    missing = [
        field.name
        for field in dataclasses.fields(Config)
        if field.default is dataclasses.MISSING and given.get(field.name) is None and field.name != "q_lora_rank"
    ]
    if missing:
        raise _refused(missing[0], "missing", "a number", _WHOSE)
    _check_numbers(Config, given)


def _check_numbers(of: Any, given: Mapping[str, Any]) -> None:
    """Raises `ArgumentError` for a value that is none of its field's type; None stands for the default."""
    for field in dataclasses.fields(of):
        kind, value = str(field.type).partition(" ")[0], given.get(field.name)
        if value is None:
            continue
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if kind == "bool" and not isinstance(value, bool):
            raise _refused(field.name, repr(value), "true or false")
        if kind == "int":
            least = 0 if field.name in _MAYBE_NONE else 1
            if not number or not isinstance(value, int) or not least <= value <= _MOST:
                raise _refused(field.name, repr(value), f"a whole number, {least} to {_MOST}")
        zero = field.name in _MAYBE_ZERO
        if kind == "float" and not (number and (0 < value < math.inf or (zero and value == 0))):
            raise _refused(field.name, repr(value), "a number from 0" if zero else "a number above 0")


def _mapping(given: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = given.get(name) or {}
    if not isinstance(value, Mapping):
        raise _refused(name, repr(value), "an object, or none")
    return value


def _yarn(rope: Mapping[str, Any], given: Mapping[str, Any]) -> Yarn | None:
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return None
    if kind != "yarn":
        raise _refused("rope_scaling", repr(kind), "'yarn', or none")
    names = {field.name for field in dataclasses.fields(Yarn)}
    fields = {name: value for name, value in rope.items() if name in names and value is not None}
    original = fields.get("original_max_position_embeddings")
    if original is None:
        raise _refused("rope_scaling", "without original_max_position_embeddings", "with it")
    _check_numbers(Yarn, fields)
    fields.setdefault("factor", (given.get("max_position_embeddings") or 4096) / original)
    return Yarn(**fields)


def _block_scaled(quantisation: Mapping[str, Any]) -> bool:
    if not quantisation or quantisation.get("quant_method") == "quark":
        return False
    blocks = quantisation.get("weight_block_size")
    if quantisation.get("quant_method") != "fp8" or blocks not in ([BLOCK, BLOCK], (BLOCK, BLOCK)):
        allowed = f"fp8 with weight_block_size [{BLOCK}, {BLOCK}], or quark's MXFP4"
        raise _refused("quantization_config", dict(quantisation), allowed)
    return True


def _quark(quantisation: Mapping[str, Any]) -> Quark | None:
    if not quantisation or quantisation.get("quant_method") != "quark":
        return None
    made = quark.read(quantisation)
    if isinstance(made, str):
        raise _refused("quantization_config", made, "fp4 per_group of 32 with scales of e8m0, lm_head excluded")
    return made


def _refused(name: str, got: object, allowed: str, remedy: str = "") -> ArgumentError:
    return ArgumentError("aiterlite.models.deepseek", name, got, allowed, remedy)
