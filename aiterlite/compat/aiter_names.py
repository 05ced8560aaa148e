"""Which names of aiter this package answers to: data, a line a name. `python -m aiterlite.compat.aiter_names` prints
the table of docs/compat.md.

A name becomes offered by what its line says in place of `NOT`: the module of this package that has it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

# Where a name lives: nowhere, or nowhere, but it can be imported, since a client imports it with others that it needs.
NOT, IMPORTS = "", "(imports)"
_VALUES = "aiterlite.compat.aiter_values"


@dataclass(frozen=True)
class Name:
    """A name in `modules` of aiter (all of them, a blank between), served by `home`'s attribute `source` (the same name
    where it is empty). `note` says what is not served of it, or why nothing is."""

    name: str
    modules: str
    home: str
    note: str = ""
    source: str = ""

    @property
    def is_there(self) -> bool:
        """Whether it can be imported."""
        return self.home != NOT

    @property
    def status(self) -> str:
        if self.home in (NOT, IMPORTS):
            return "no; it imports" if self.home == IMPORTS else "no"
        return "partly" if self.note else "yes"


# Modules whose public names the package `aiter` has too.
STARRED = tuple(
    f"aiter.ops.{name}"
    for name in (
        *("activation", "attention", "batched_gemm_op_bf16", "cache", "enum", "fused_qk_norm_rope_cache_quant"),
        *(
            "fused_qk_rmsnorm_group_quant",
            "gemm_op_a4w4",
            "gemm_op_a8w8",
            "gradlib",
            "mha",
            "moe_op",
            "moe_sorting",
            "pos_encoding",
        ),
        *("norm", "quant", "quick_all_reduce", "rmsnorm", "rope", "sample", "topk"),
    )
)

_OPS, _TRITON = "aiter.ops.", "aiter.ops.triton."
_NORM = _OPS + "rmsnorm"
_PAIR = _OPS + "fused_qk_rmsnorm_group_quant"
_FP8_QUANT = f"{_TRITON}fused_fp8_quant {_TRITON}quant.fused_fp8_quant {_TRITON}quant"
_MXFP4, _FP4_UTILS, _MX_TYPES = "aiterlite.mxfp4", "aiter.utility.fp4_utils", "aiter.utility.mx_types"
_MX_FUSED = f"{_TRITON}fused_mxfp4_quant {_TRITON}quant.fused_mxfp4_quant {_TRITON}quant"
_QUANT, _MLA, _MHA = _OPS + "quant", _OPS + "attention", _OPS + "mha"
_TOPK, _MOE, _CHIP = _OPS + "topk", _OPS + "moe_op", "aiter.jit.utils.chip_info"
_GEMM, _CACHE, _GRADLIB = _OPS + "gemm_op_a8w8", _OPS + "cache", _OPS + "gradlib"
_BMM = "batched_gemm_a8w8_a_per_token_group_prequant_w_per_batched_tensor_quant"
_TRITON_GEMM = f"{_TRITON}gemm_a8w8_blockscale {_TRITON}gemm.basic.gemm_a8w8_blockscale"
_SPLIT_CAT = "fused_gemm_afp4wfp4_split_cat"
_FP4_GEMM = _OPS + "gemm_op_a4w4"
_BIAS = "a bias is added whatever beta's default; apreshuffle and global scales are NVFP4's"
_WHOLE = "config and skip_reduce are not read: sums are whole"
_KV = f"{_TRITON}fused_kv_cache {_TRITON}fusions.fused_kv_cache"
_TRITON_ROPE = _TRITON + "rope.rope"
_KINDS_OF_ROPE = tuple(
    f"{positions}{both}fwd{in_place}"
    for positions in ("", "positions_", "positions_offsets_")
    for both in ("", "2c_")
    for in_place in ("", "_inplace")
)
_GROUPS = "d is a multiple of the group"
_BLOCKS = "rows of a multiple of 32"
_LATER = "no kernel here"
_FUSED = "aiterlite.compat.aiter_fused"
_BESIDE = "SGLang imports it with names that it needs; a call raises NotOfferedError"
_BLOCK = "imported in one block with MLA; a call raises NotOfferedError"

NAMES = (
    # What a chip and a call are.
    Name("ActivationType", _OPS + "enum", "aiterlite.tables.quant_types"),
    Name("QuantType", _OPS + "enum", "aiterlite.tables.quant_types"),
    Name("MlaVersion", _OPS + "enum", _VALUES),
    Name("get_gfx", _CHIP, _VALUES, "names an NVIDIA or CPU target too"),
    Name("get_gfx_runtime", _CHIP, _VALUES, "names an NVIDIA or CPU target too"),
    Name("get_gfx_list", _CHIP, _VALUES, "names an NVIDIA or CPU target too"),
    Name("get_cu_num", _CHIP, _VALUES),
    Name("get_gfx", "aiter", _VALUES, "names an NVIDIA or CPU target too"),
    Name("get_cu_num", "aiter", _VALUES),
    Name("logger", "aiter", _VALUES),
    Name("getLogger", "aiter", _VALUES, source="get_logger"),
    Name("dtypes", "aiter aiter.utility", _VALUES, "names of dtypes alone"),
    # Attention.
    Name("mla_decode_fwd", "aiter.mla", "aiterlite.mla"),
    Name("mla_prefill_fwd", "aiter.mla", "aiterlite.mla"),
    Name("get_meta_param", "aiter.mla", "aiterlite.mla"),
    Name("mla_prefill_ps_fwd", "aiter.mla", NOT, _LATER),
    Name("get_mla_metadata_info_v1", _MLA, "aiterlite.mla"),
    Name("get_mla_metadata_v1", _MLA, "aiterlite.mla"),
    Name("mla_reduce_v1", _MLA, "aiterlite.mla"),
    Name("decode_update_mla_metadata_v1", _MLA, "aiterlite.mla"),
    Name("get_ps_metadata_info_v1", _MLA, "aiterlite.mla"),
    Name("get_ps_metadata_v1", _MLA, "aiterlite.mla", "pages of one token"),
    Name("mla_prefill_ps_asm_fwd", _MLA, "aiterlite.mla", "by torch; no split of tokens"),
    Name("paged_attention_ragged", _MLA, IMPORTS, _BLOCK),
    Name("pa_fwd_asm", _MLA, NOT, _LATER),
    Name("paged_attention_common", _MLA, NOT, _LATER),
    Name("flash_attn_varlen_func", _MHA, "aiterlite.mla", "by torch; no dropout, soft cap, window, bias or pages"),
    Name("flash_attn_varlen_fp8_pertensor_func", _MHA, IMPORTS, _BLOCK),
    Name("mha_batch_prefill_func", _MHA, IMPORTS, _BLOCK),
    Name("unified_attention", f"{_TRITON}attention.unified_attention {_TRITON}unified_attention", IMPORTS, _BLOCK),
    # Mixture of experts.
    Name("fused_moe", "aiter.fused_moe", "aiterlite.moe", "no shared_w1 and its like, stage2_scatter"),
    Name("moe_sorting", "aiter.fused_moe", "aiterlite.moe"),
    Name("fused_topk", "aiter.fused_moe", "aiterlite.moe"),
    Name("moe_sorting_fwd", _OPS + "moe_sorting", "aiterlite.moe"),
    Name("fmoe_fp8_blockscale_g1u1", _MOE, "aiterlite.moe"),
    Name("topk_softmax", _MOE, "aiterlite.moe"),
    Name("topk_sigmoid", _MOE, "aiterlite.moe"),
    Name("moe_sum", _MOE, "aiterlite.moe"),
    Name("moe_align_block_size", _MOE, "aiterlite.moe"),
    Name("biased_grouped_topk", _TOPK, "aiterlite.moe"),
    Name("biased_grouped_topk_hip", _TOPK, "aiterlite.moe", source="biased_grouped_topk"),
    Name("grouped_topk", _TOPK, "aiterlite.moe"),
    Name("moe_fused_gate", _TOPK, "aiterlite.moe"),
    Name("topk_gating", _TOPK, _FUSED, "no sqrtsoftplus; of softmax no bias, of sigmoid no shared experts"),
    Name("shuffle_weight", _OPS + "shuffle", "aiterlite.moe"),
    Name("moe_shuffle_weight", _OPS + "shuffle", _FUSED, "no interleaved gates"),
    Name("moe_shuffle_scale", _OPS + "shuffle", _FUSED, "no interleaved gates"),
    Name("shuffle_weight_a16w4", _OPS + "shuffle", IMPORTS, _BESIDE),
    Name("shuffle_scale_a16w4", _OPS + "shuffle", IMPORTS, _BESIDE),
    Name("GateMode", _OPS + "flydsl.moe_common", _FUSED, "separated and interleave"),
    Name("asm_moe_tkw1", "aiter.fused_moe_bf16_asm", NOT, _LATER),
    # Norms.
    Name("layernorm2d_fwd", _OPS + "norm", _FUSED, "by torch; no x_bias"),
    Name("rms_norm", _NORM, "aiterlite.norm"),
    Name("rmsnorm2d_fwd", _NORM, "aiterlite.norm"),
    Name("rmsnorm2d_fwd_with_add", _NORM, "aiterlite.norm"),
    Name("rmsnorm2d_fwd_with_dynamicquant", _NORM, "aiterlite.norm"),
    Name("rmsnorm2d_fwd_with_add_dynamicquant", _NORM, "aiterlite.norm"),
    Name("rmsnorm_quant", _NORM, _FUSED, "no gemma_norm"),
    Name("add_rmsnorm_quant", _NORM, _FUSED, "no gemma_norm"),
    Name("rms_norm_cu", _NORM, "aiterlite.norm"),
    Name("fused_add_rms_norm_cu", _NORM, "aiterlite.norm"),
    Name("rmsnorm2d_fwd_with_smoothquant", _NORM, NOT, _LATER),
    Name("rmsnorm2d_fwd_with_add_smoothquant", _NORM, NOT, _LATER),
    Name("_fused_qk_rmsnorm", _OPS + "fused_qk_norm_rope_cache_quant", "aiterlite.norm"),
    Name("fused_qk_rmsnorm", _PAIR, "aiterlite.norm", "no 4-bit results"),
    Name("fused_qk_rmsnorm_group_quant", _PAIR, "aiterlite.norm", "no 4-bit results"),
    Name("fused_qk_rmsnorm_per_token_quant", _PAIR, "aiterlite.norm"),
    Name("fused_rms_fp8_group_quant", _FP8_QUANT, "aiterlite.norm", _GROUPS),
    Name("fused_rms_fp8_per_tensor_static_quant", _FP8_QUANT, _FUSED, "two kernels"),
    Name("fused_rms_gated_fp8_group_quant", _FP8_QUANT, NOT, _LATER),
    Name(
        "fused_add_rmsnorm_pad",
        f"{_TRITON}fused_add_rmsnorm_pad {_TRITON}normalization.fused_add_rmsnorm_pad",
        _FUSED,
        "two kernels",
    ),
    Name("qr_all_reduce_rmsnorm", _OPS + "quick_all_reduce", NOT, "communication is torch's"),
    # Quantisation and activations.
    Name("dynamic_per_token_scaled_quant", _QUANT, "aiterlite.quant"),
    Name("dynamic_per_tensor_quant", _QUANT, "aiterlite.quant"),
    Name("static_per_tensor_quant", _QUANT, "aiterlite.quant"),
    Name("get_hip_quant", _QUANT, "aiterlite.quant", "per_1x32 has 4-bit results"),
    Name("get_torch_quant", _QUANT, "aiterlite.quant"),
    Name("per_token_quant_hip", _QUANT, "aiterlite.quant"),
    Name("per_group_quant_hip", _QUANT, "aiterlite.quant", "float32 scales"),
    Name("per_tensor_quant_hip", _QUANT, "aiterlite.quant"),
    Name("pertoken_quant", _QUANT, "aiterlite.quant", "8-bit results"),
    Name("per_tensor_quant", _QUANT, "aiterlite.quant"),
    Name("per_block_quant_wrapper", _QUANT, "aiterlite.quant"),
    Name("get_triton_quant", _QUANT, "aiterlite.quant"),
    Name("fused_flatten_fp8_group_quant", _FP8_QUANT, "aiterlite.quant", _GROUPS),
    Name("per_1x32_f4_quant", _QUANT, _MXFP4),
    Name("per_1x32_f4_quant_hip", _QUANT, _MXFP4),
    Name("per_1x32_f4_quant_triton", _QUANT, _MXFP4),
    Name("per_1x32_mx_quant_hip", _QUANT, _MXFP4, "4-bit results"),
    Name("dynamic_per_group_scaled_quant_fp4", _QUANT, _MXFP4),
    Name("quant_mxfp4", _QUANT, _MXFP4, "no a16w4_shuffle"),
    Name("quant_mxfp4_hip", _QUANT, _MXFP4, "no a16w4_shuffle"),
    Name("dynamic_mxfp4_quant", f"{_TRITON}quant {_TRITON}quant.quant", _MXFP4, _BLOCKS),
    Name("dynamic_mxfp4_quant", _FP4_UTILS, _MXFP4, _BLOCKS, "utility_dynamic_mxfp4_quant"),
    Name("fused_flatten_mxfp4_quant", _MX_FUSED, _MXFP4, _BLOCKS),
    Name("fused_rms_mxfp4_quant", _MX_FUSED, _MXFP4, _BLOCKS),
    Name("act_mul_and_mxfp4_quant", _TRITON + "activation", _MXFP4, _BLOCKS),
    Name("mxfp4_moe_sort_fwd", _QUANT, _MXFP4),
    Name("fused_dynamic_mxfp4_quant_moe_sort", _QUANT, _MXFP4),
    Name("fused_dynamic_mxfp4_quant_moe_sort", _MX_FUSED, _MXFP4, _BLOCKS, "triton_fused_dynamic_mxfp4_quant_moe_sort"),
    Name("moe_mxfp4_sort", _FP4_UTILS, _MXFP4),
    Name("e8m0_shuffle", _FP4_UTILS, _MXFP4),
    Name("shuffle_scale", _OPS + "shuffle", _MXFP4, "no interleaved gates"),
    Name("mxfp4_to_f32", _FP4_UTILS, _VALUES),
    Name("f32_to_mxfp4", _FP4_UTILS, _VALUES),
    Name("e8m0_to_f32", _FP4_UTILS, _VALUES),
    Name("MxScaleRoundMode", _MX_TYPES, _MXFP4),
    Name("MxScaleRoundModeInt", _MX_TYPES, _MXFP4, source="MxScaleRoundMode"),
    Name("MX_DEFAULT_ROUND_MODE", _MX_TYPES, _MXFP4),
    Name("silu_and_mul", _OPS + "activation", "aiterlite.activation"),
    Name("gelu_and_mul", _OPS + "activation", "aiterlite.activation"),
    Name("gelu_tanh_and_mul", _OPS + "activation", "aiterlite.activation"),
    Name(
        "silu_and_mul_quant", _OPS + "activation", "aiterlite.activation", "no 4-bit results; groups of 32, 64, 128, d"
    ),
    Name("scaled_silu_and_mul", _OPS + "activation", NOT, _LATER),
    Name("act_mul_and_fp8_group_quant", _TRITON + "activation", "aiterlite.activation", _GROUPS),
    Name("fused_clamp_act_mul", _TRITON + "fusions.fused_clamp_act_mul", NOT, "silu_and_mul_quant has a limit"),
    # GEMMs.
    Name("tgemm", "aiter.tuned_gemm", _VALUES, "no scales; results are of the input's type"),
    Name("gemm_a16w16", "aiter.tuned_gemm", _VALUES, "no scales; results are of the input's type"),
    Name("gemm_a16w16", f"{_TRITON}gemm_a16w16 {_TRITON}gemm.basic.gemm_a16w16", _FUSED, "no activation"),
    Name("AITER_CONFIGS", _GEMM, _VALUES, "names no tuned file"),
    Name("gemm_a8w8", _GEMM, "aiterlite.gemm"),
    Name("gemm_a8w8_CK", _GEMM, "aiterlite.gemm"),
    Name("gemm_a8w8_bpreshuffle", _GEMM, "aiterlite.gemm"),
    Name("gemm_a8w8_blockscale", _GEMM, "aiterlite.gemm"),
    Name("gemm_a8w8_blockscale_bpreshuffle", _GEMM, "aiterlite.gemm"),
    Name("gemm_a8w8_blockscale", _TRITON_GEMM, _VALUES, "config is not read", "triton_gemm_a8w8_blockscale"),
    Name(_BMM, f"{_TRITON}{_BMM} {_TRITON}gemm.batched.{_BMM}", "aiterlite.gemm"),
    Name("gemm_a4w4", _FP4_GEMM, "aiterlite.gemm", _BIAS),
    Name("gemm_a4w4_asm", _FP4_GEMM, "aiterlite.gemm"),
    Name("gemm_a4w4_blockscale", _FP4_GEMM, "aiterlite.gemm"),
    *(
        Name(name, f"{_TRITON}{module} {_TRITON}gemm.basic.{module}", "aiterlite.gemm", _WHOLE)
        for name, module in (
            ("gemm_afp4wfp4", "gemm_afp4wfp4"),
            ("gemm_afp4wfp4_preshuffle", "gemm_afp4wfp4"),
            ("gemm_a16wfp4", "gemm_a16wfp4"),
            ("gemm_a16wfp4_preshuffle", "gemm_a16wfp4"),
            ("gemm_afp4wfp4_pre_quant", "gemm_afp4wfp4_pre_quant_atomic"),
        )
    ),
    *(
        Name(name, f"{_TRITON}{name} {_TRITON}gemm.batched.{name}", "aiterlite.gemm", _WHOLE)
        for name in ("batched_gemm_a16wfp4", "batched_gemm_afp4wfp4_pre_quant")
    ),
    Name(_SPLIT_CAT, f"{_TRITON}{_SPLIT_CAT} {_TRITON}gemm.fused.{_SPLIT_CAT}", _FUSED, "a product, then copies"),
    Name("batched_gemm_bf16_CK", _OPS + "batched_gemm_op_bf16", "aiterlite.gemm"),
    Name("batched_gemm_bf16", f"{_TRITON}batched_gemm_bf16 {_TRITON}gemm.batched.batched_gemm_bf16", "aiterlite.gemm"),
    Name("hipb_mm", _GRADLIB, NOT, "hipBLASLt is torch's"),
    Name("hipb_create_extension", _GRADLIB, NOT, "hipBLASLt is torch's"),
    # Rotary embedding and the cache.
    Name("rotary_embedding_fwd", _OPS + "pos_encoding", "aiterlite.rope"),
    Name("batched_rotary_embedding", _OPS + "pos_encoding", "aiterlite.rope"),
    *(Name(f"rope_cached_{kind}", _OPS + "rope", "aiterlite.rope") for kind in _KINDS_OF_ROPE),
    Name("rope_cached_thd_positions_2c_fwd", _TRITON_ROPE, "aiterlite.rope"),
    Name("rope_cached_thd_positions_2c_fwd_inplace", _TRITON_ROPE, "aiterlite.rope"),
    Name("rope_cached_thd_positions_offsets_2c_fwd", _TRITON_ROPE, "aiterlite.rope"),
    Name("rope_cached_thd_positions_offsets_2c_fwd_inplace", _TRITON_ROPE, "aiterlite.rope"),
    Name("concat_and_cache_mla", _CACHE, "aiterlite.cache"),
    Name("fused_qk_rope_concat_and_cache_mla", _CACHE, "aiterlite.cache"),
    Name("fused_qk_rope_cat_and_cache_mla", _KV, "aiterlite.cache"),
    Name("fused_qk_rope_cat", f"{_TRITON}fused_qk_concat {_TRITON}fusions.fused_qk_concat", IMPORTS, _BESIDE),
    Name(
        "fused_fp8_bmm_rope_cat_and_cache_mla",
        f"{_TRITON}fused_bmm_rope_kv_cache {_TRITON}fusions.fused_bmm_rope_kv_cache",
        IMPORTS,
        _BESIDE,
    ),
    Name("indexer_k_quant_and_cache", _CACHE, IMPORTS, _BESIDE),
    Name("cp_gather_indexer_k_quant_cache", _CACHE, IMPORTS, _BESIDE),
    Name("get_rope", "aiter.rotary_embedding", IMPORTS, _BESIDE),
    Name("reshape_and_cache", _CACHE, NOT, _LATER),
    Name("reshape_and_cache_flash", _CACHE, NOT, _LATER),
    # What is beside a model.
    Name("greedy_sample", _OPS + "sample", _FUSED, "by torch"),
    Name("mixed_sample_outer_exponential", _OPS + "sample", NOT, _LATER),
    # Communication.
    Name(
        "CustomAllreduce",
        "aiter.dist.device_communicators.custom_all_reduce",
        NOT,
        "communication is torch's; engines fall back",
    ),
)


class Place(NamedTuple):
    """An attribute of a module of aiter."""

    module: str
    name: str


def places(entry: Name) -> tuple[Place, ...]:
    """Where a name is imported from: its modules, and the package, where those are starred there."""
    modules = entry.modules.split()
    top = ["aiter"] if not entry.name.startswith("_") and any(module in STARRED for module in modules) else []
    return tuple(Place(module, entry.name) for module in (*top, *modules))


def served() -> dict[str, dict[str, Name]]:
    """Modules of aiter that can be imported, with their names; packages too, which may have none of their own."""
    found: dict[str, dict[str, Name]] = {"aiter": {}}
    for entry in NAMES:
        for module, name in places(entry) if entry.is_there else ():
            parts = module.split(".")
            for count in range(1, len(parts) + 1):
                found.setdefault(".".join(parts[:count]), {})
            found[module][name] = entry
    return found


def table() -> str:
    """The table of docs/compat.md."""
    rows = ["| name | in | offered | |", "| --- | --- | --- | --- |"]
    for entry in NAMES:
        modules = ", ".join(f"`{place.module}`" for place in places(entry))
        rows.append(f"| `{entry.name}` | {modules} | {entry.status} | {entry.note} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    print(table(), end="")
