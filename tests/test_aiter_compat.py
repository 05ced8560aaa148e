"""`aiterlite.compat.aiter`: what answers to the name aiter and what does not, and the calls that vLLM and SGLang make
of it, in their spellings."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
if importlib.util.find_spec("aiter") is not None:
    pytest.skip("an aiter is installed, whose name is not taken", allow_module_level=True)

import aiter_clients as clients  # noqa: E402
import fused_moe_mxfp4_cases as mx_cases  # noqa: E402
import sglang_clients as sglang  # noqa: E402
import vllm_clients as vllm  # noqa: E402
from fused_moe_cases import case_of, check, check_on_hopper, problem_of  # noqa: E402
from gemm_operands import on  # noqa: E402
from mla_cases import Batch, assert_right, batch  # noqa: E402
from norm_cases import Case, operands_of  # noqa: E402
from quant_cases import CODES, same  # noqa: E402

from aiterlite import activation, envs, linear, mla, moe, mxfp4, norm  # noqa: E402
from aiterlite.compat import aiter as compat  # noqa: E402
from aiterlite.compat import aiter_names as names  # noqa: E402
from aiterlite.errors import AiterliteError, ArgumentError, EnvironmentValueError, NotOfferedError, ShadowError  # noqa: E402
from aiterlite.jit import toolchain  # noqa: E402
from aiterlite.reference import cache as cache_reference  # noqa: E402
from aiterlite.reference import gemm_a8w8 as gemm_reference  # noqa: E402
from aiterlite.reference import mxfp4 as mxfp4_reference  # noqa: E402
from aiterlite.reference import norm as norm_reference  # noqa: E402
from aiterlite.reference import quant as quant_reference  # noqa: E402
from aiterlite.reference import rope as rope_reference  # noqa: E402
from aiterlite.reference import routing as routing_reference  # noqa: E402

# That of this process is for the tests that ask for it.
compat.uninstall()

DOCUMENT = Path(__file__).parents[1] / "docs" / "compat.md"
no_clang = pytest.mark.skipif(toolchain.find("amd") is None, reason=toolchain.how_to_get("amd"))
# What the names lead to is emulated in the tests of operators; here a decode is, whose plan and call come apart.
AMD = [pytest.param(name, marks=[pytest.mark.compile, pytest.mark.emulated, no_clang]) for name in ("gfx942", "gfx950")]
CUDA = pytest.param("cuda", marks=pytest.mark.gpu)
where = pytest.mark.parametrize("target", ["cpu", CUDA])
everywhere = pytest.mark.parametrize("target", ["cpu", *AMD, CUDA])
FP8 = {"gfx942": "e4m3fnuz"}


@pytest.fixture
def aiter() -> Iterator[Any]:
    compat.install()
    try:
        yield importlib.import_module("aiter")
    finally:
        compat.uninstall()


# What is there --------------------------------------------------------------------------------------------------------


def test_each_name_is_there_or_is_an_import_error(aiter: Any) -> None:
    """As the table says, in all the modules that upstream has it in."""
    for entry in names.NAMES:
        for module, name in names.places(entry):
            statement = f"from {module} import {name}"
            scope: dict[str, Any] = {}
            if not entry.is_there:
                served = [e for e in names.NAMES if e.is_there and names.Place(module, name) in names.places(e)]
                assert served == [], f"{statement} is offered in another line"
                with pytest.raises(ImportError):
                    exec(statement, scope)
                continue
            exec(statement, scope)
            if entry.home == names.IMPORTS:
                with pytest.raises(NotOfferedError, match=f"aiter.{name} has no kernel"):
                    scope[name](1, two=2)
            elif name != "dtypes":
                assert scope[name] is getattr(importlib.import_module(entry.home), entry.source or name)


def test_the_document_has_the_table() -> None:
    """Made by `python -m aiterlite.compat.aiter_names`."""
    assert names.table() in DOCUMENT.read_text()


def test_lines_are_of_names_once() -> None:
    seen = [place for entry in names.NAMES for place in names.places(entry)]
    assert len(seen) == len(set(seen))
    assert all(entry.note for entry in names.NAMES if entry.home in (names.NOT, names.IMPORTS))


def test_signatures_stay_those_of_the_functions(aiter: Any) -> None:
    """Clients ask them for what they may pass."""
    from aiter import topk_softmax
    from aiter.fused_moe import fused_moe
    from aiter.mla import mla_decode_fwd

    asked = {mla_decode_fwd: ("q_scale", "kv_scale", "causal"), fused_moe: ("gate_mode",)}
    asked[topk_softmax] = ("num_shared_experts",)
    for function, parameters in asked.items():
        assert set(parameters) <= set(inspect.signature(function).parameters)
    assert pickle.loads(pickle.dumps(mla_decode_fwd)) is mla.mla_decode_fwd


def test_probes_of_clients(aiter: Any) -> None:
    assert importlib.util.find_spec("aiter") is not None and importlib.util.find_spec("aiter.mla") is not None
    assert importlib.util.find_spec("aiter.dist") is None
    assert not hasattr(aiter, "qr_all_reduce_rmsnorm") and not hasattr(aiter, "gemm_a4w4o4")
    with pytest.raises(ImportError):
        importlib.import_module("aiter.dist.device_communicators.custom_all_reduce")
    # vLLM: whether a GEMM of 8 bits has tuned shapes.
    import aiter.ops.gemm_op_a8w8 as gemms

    for name in ("AITER_CONFIG_GEMM_A8W8_FILE", "AITER_CONFIG_GEMM_A8W8_BPRESHUFFLE_FILE"):
        assert Path(getattr(gemms.AITER_CONFIGS, name)).read_text() == ""
    # Folders of sources and of tuned files are not there.
    folder = Path(aiter.__file__).parent
    assert not (folder / "configs").exists() and not (folder / "ops").exists()
    assert aiter.QuantType(5) is aiter.QuantType.per_128x128 and aiter.ActivationType.Silu.value == 0
    assert aiter.ActivationType(0) is aiter.ActivationType.Silu and int(aiter.MlaVersion.V40) == 1
    assert aiter.getLogger() is aiter.logger


@pytest.mark.parametrize(("target", "fp8"), [("mi300x", "e4m3fnuz"), ("mi355x", "e4m3fn"), ("cpu", "e4m3fn")])
def test_dtypes_and_the_chip_are_those_of_the_target(aiter: Any, target: str, fp8: str) -> None:
    from aiter import dtypes
    from aiter.jit.utils.chip_info import get_cu_num, get_gfx, get_gfx_list, get_gfx_runtime
    from aiter.utility import dtypes as same_dtypes

    with on(target):
        assert dtypes.fp8 == same_dtypes.fp8 == CODES[fp8] and dtypes.d_dtypes["fp8"] == CODES[fp8]
        assert dtypes.bf16 == torch.bfloat16 and dtypes.i32 == torch.int32
        gfx = {"mi300x": "gfx942", "mi355x": "gfx950"}.get(target, envs.TARGET.get() or get_gfx_runtime())
        assert get_gfx() == get_gfx_runtime() == gfx and get_gfx_list() == [gfx]
        assert get_cu_num() == {"mi300x": 304, "mi355x": 256}.get(target, get_cu_num()) >= 1
        with envs.override(GPU_ARCHS="gfx942;gfx950", CU_NUM="80"):
            assert get_gfx() == "gfx950" and get_gfx_runtime() == gfx and get_cu_num() == 80
            assert get_gfx_list() == ["gfx942", "gfx950"]
        with envs.override(GPU_ARCHS="native", CU_NUM="many"):
            assert get_gfx() == gfx
            with pytest.raises(EnvironmentValueError, match="CU_NUM='many'"):
                get_cu_num()
    with pytest.raises(AttributeError):
        dtypes.fp7  # noqa: B018


# Installing -----------------------------------------------------------------------------------------------------------


def test_it_comes_and_goes() -> None:
    with pytest.raises(ImportError):
        importlib.import_module("aiter")
    compat.install()
    compat.install()
    first = importlib.import_module("aiter")
    function = importlib.import_module("aiter.mla").mla_decode_fwd
    assert compat.is_installed() and first.mla.mla_decode_fwd is function is mla.mla_decode_fwd
    assert {"mla", "fused_moe", "ops", "rms_norm"} <= set(dir(first))
    compat.uninstall()
    compat.uninstall()
    assert not compat.is_installed() and not [name for name in sys.modules if name.partition(".")[0] == "aiter"]
    with pytest.raises(ImportError):
        importlib.import_module("aiter")
    # Who has it keeps what was asked for, and brings nothing back.
    assert first.rms_norm is norm.rms_norm
    with pytest.raises(AttributeError):
        first.jit  # noqa: B018
    compat.install()
    assert importlib.import_module("aiter") is not first
    compat.uninstall()


@pytest.mark.parametrize("imported", [False, True])
def test_an_aiter_that_is_there_is_not_shadowed(
    imported: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "aiter").mkdir()
    (tmp_path / "aiter" / "__init__.py").write_text("real = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    if imported:
        importlib.import_module("aiter")
    try:
        with pytest.raises(ShadowError, match=f"there is an aiter at {tmp_path}.*pip uninstall amd-aiter"):
            compat.install()
        assert issubclass(ShadowError, ImportError) and issubclass(ShadowError, AiterliteError)
        assert not compat.is_installed() and importlib.import_module("aiter").real
    finally:
        sys.modules.pop("aiter", None)


def test_a_folder_of_that_name_is_no_aiter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a checkout lies, say."""
    (tmp_path / "aiter" / "aiter").mkdir(parents=True)
    (tmp_path / "aiter" / "mla.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    compat.install()
    try:
        assert importlib.import_module("aiter.mla").mla_decode_fwd is mla.mla_decode_fwd
    finally:
        compat.uninstall()


def test_an_import_is_the_act() -> None:
    """In a fresh process, where nothing is installed before; no GPU is looked at."""
    program = (
        "import importlib.util, sys\n"
        "import aiterlite.compat, aiterlite.compat.aiter_names\n"
        "assert importlib.util.find_spec('aiter') is None\n"
        "import aiterlite.compat.aiter\n"
        "import aiter, torch\n"
        "from aiter import dtypes\n"
        "assert dtypes.bf16 is torch.bfloat16 and not torch.cuda.is_initialized()\n"
        "print(aiter.mla.mla_decode_fwd.__module__)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "aiterlite.ops.mla", done.stderr
    assert "answers to the name aiter" in done.stderr


# Client calls: attention ----------------------------------------------------------------------------------------------


def test_sglang_s_block_of_attention_imports(aiter: Any) -> None:
    block = sglang.block()
    assert block["mla_decode_fwd"] is mla.mla_decode_fwd and len(block) == 13


# What SGLang's layers and DeepSeek models import when they are imported, under no `try`: one that is missing is an
# SGLang that does not start.
AT_IMPORT = {
    "aiter": (
        *("layernorm2d_fwd", "rmsnorm2d_fwd", "rmsnorm2d_fwd_with_add", "greedy_sample", "gemm_a8w8_blockscale"),
        *("gemm_a8w8_bpreshuffle", "gemm_a8w8_blockscale_bpreshuffle", "get_hip_quant", "gemm_a4w4", "QuantType"),
        *("per_1x32_f4_quant_hip", "biased_grouped_topk", "silu_and_mul"),
    ),
    "aiter.ops.cache": ("indexer_k_quant_and_cache", "cp_gather_indexer_k_quant_cache"),
    "aiter.ops.rmsnorm": ("rmsnorm_quant", "add_rmsnorm_quant"),
    "aiter.ops.shuffle": (
        *("shuffle_weight", "shuffle_scale", "moe_shuffle_weight", "moe_shuffle_scale"),
        *("shuffle_weight_a16w4", "shuffle_scale_a16w4"),
    ),
    "aiter.rotary_embedding": ("get_rope",),
    "aiter.tuned_gemm": ("tgemm",),
    "aiter.ops.triton.gemm_a16w16": ("gemm_a16w16",),
    "aiter.ops.triton.fused_kv_cache": ("fused_qk_rope_cat_and_cache_mla",),
    "aiter.ops.triton.fused_qk_concat": ("fused_qk_rope_cat",),
    "aiter.ops.triton.fusions.fused_bmm_rope_kv_cache": ("fused_fp8_bmm_rope_cat_and_cache_mla",),
    "aiter.ops.triton.gemm.fused.fused_gemm_afp4wfp4_split_cat": ("fused_gemm_afp4wfp4_split_cat",),
    "aiter.ops.triton.gemm_afp4wfp4_pre_quant_atomic": ("gemm_afp4wfp4_pre_quant",),
}


def test_sglang_s_modules_import(aiter: Any) -> None:
    for module, wanted in AT_IMPORT.items():
        for name in wanted:
            exec(f"from {module} import {name}", {})


def decode_case(heads: int, lengths: list[int], rows: int, types: tuple[str, str], device: str) -> Batch:
    case = batch(lengths, [rows] * len(lengths), heads, types=types, seed=heads)
    case.kv_scale = torch.tensor([0.25]) if types[1] != "bf16" else None
    case.q_scale = case.kv_scale
    return case.to(device)


def assert_decoded(o: Any, case: Batch, lse: Any = None) -> None:
    exact = case.to("cpu").exact()
    assert_right((o, exact.lse.float() if lse is None else lse), exact)


@pytest.mark.parametrize(
    ("heads", "rows", "target"),
    [
        *[(heads, rows, "cpu") for heads, rows in ((16, 1), (64, 1), (128, 2), (8, 1))],
        *[pytest.param(64, 1, target.values[0], marks=target.marks) for target in AMD],
        *[pytest.param(heads, 1, "cuda", marks=pytest.mark.gpu) for heads in (8, 16, 64, 128)],
    ],
)
def test_sglang_decode_with_an_8_bit_kv(aiter: Any, heads: int, rows: int, target: str) -> None:
    """q is of bf16 on gfx942, while the plan is made for 8 bits; of 8 bits on gfx950. 64 heads a rank are DeepSeek-R1
    at tensor parallel 2, where upstream's plan and decode once took different folds."""
    code = FP8.get(target, "e4m3fn")
    lengths = [70, 9] if target.startswith("gfx") else [70, 9, 300]
    with on(target) as device:
        case = decode_case(heads, lengths, rows, ("bf16" if target == "gfx942" else code, code), device)
        assert_decoded(sglang.decode(case, max_bs=5), case)


@where
def test_sglang_decode_without_a_plan(aiter: Any, target: str) -> None:
    with on(target) as device:
        case = decode_case(16, [40, 3], 1, ("bf16", "bf16"), device)
        assert_decoded(sglang.decode_unplanned(case), case)


@where
@pytest.mark.parametrize("types", ["bf16", "fp8"])
def test_vllm_decode(aiter: Any, types: str, target: str) -> None:
    code = FP8.get(target, "e4m3fn") if types == "fp8" else "bf16"
    with on(target) as device:
        case = decode_case(16, [33, 70], 1, (code, code), device)
        assert_decoded(vllm.decode(case, max_num_reqs=8), case)


@pytest.mark.parametrize("need_lse", [False, True])
@pytest.mark.parametrize("target", ["cpu", AMD[1], CUDA])
def test_prefill_of_an_8_bit_kv(aiter: Any, need_lse: bool, target: str) -> None:
    """vLLM's on gfx950 goes without log-sums, SGLang's of chunks with them."""
    with on(target) as device:
        q, k, v = (torch.randn(70, 16, width).to(CODES["e4m3fn"]).to(device) for width in (192, 192, 128))
        rows = [0, 60, 70]
        o, lse = clients.planned_prefill(q, k, v, rows, 0.07, need_lse)
        offsets = torch.tensor(rows, dtype=torch.int32, device=device)
        given = q.bfloat16(), k.bfloat16(), v.bfloat16(), offsets, offsets, 60, 60
        right, sums = mla.flash_attn_varlen_func(*given, softmax_scale=0.07, causal=True, return_lse=True)
        assert same(o, right) and (lse is None or bool(torch.equal(lse, sums.T)))


@where
def test_prefill_without_a_window(aiter: Any, target: str) -> None:
    with on(target) as device:
        q, k, v = (torch.randn(9, 4, width).bfloat16().to(device) for width in (192, 192, 128))
        offsets = torch.tensor([0, 4, 9], dtype=torch.int32, device=device)
        right = mla.flash_attn_varlen_func(q, k, v, offsets, offsets, 5, 5, softmax_scale=0.1, causal=True)
        assert same(vllm.flash(q, k, v, offsets, 5, 0.1), right)


@everywhere
def test_vllm_decode_with_the_log_sums(aiter: Any, target: str) -> None:
    with on(target) as device:
        case = decode_case(16, [60, 7], 1, ("bf16", "bf16"), device)
        o, lse = vllm.decode_with_lse(case)
        assert_decoded(o, case, lse)


# Client calls: norms, quantisation, activations -----------------------------------------------------------------------


@where
def test_norms_and_what_follows_them(aiter: Any, target: str) -> None:
    code, eps = CODES[FP8.get(target, "e4m3fn")], 1e-6
    given = operands_of(Case(5, 512))
    with on(target) as device:
        x, residual, weight = (tensor.to(device) for tensor in (given.x, given.residual, given.weight))
        h = norm_reference.add(given.x, given.residual)
        plain = norm.rms_norm(x, weight, eps)
        summed = norm.rms_norm(h.to(device), weight, eps)
        assert same(sglang.norm(x, None, weight, eps), plain)
        for out, total in (sglang.norm(x, residual, weight, eps), vllm.norm(x, residual, weight, eps)):
            assert same(out, summed) and same(total, h)
        codes, total, scales = vllm.norm_quant(x, residual, weight, eps, code)
        wanted = norm_reference.quantised(summed.cpu(), code)
        assert same(codes, wanted[0]) and same(scales, wanted[1]) and same(total, h)
        for other, of in ((residual, summed), (None, plain)):
            codes, scales, total = vllm.norm_group_quant(x, other, weight, eps, code)
            wanted = norm_reference.quantised(of.cpu(), code, 128)
            assert same(codes, wanted[0]) and same(scales, wanted[1]) and (total is None) == (other is None)


@where
def test_latents(aiter: Any, target: str) -> None:
    code, eps = CODES[FP8.get(target, "e4m3fn")], 1e-6
    with on(target) as device:
        latents = torch.randn(3, 2112).bfloat16().to(device)
        q, k = latents[:, :1536], latents[:, 1536:2048]
        weights = [torch.rand(n).bfloat16().to(device) for n in (1536, 512)]
        wanted = [norm.rms_norm(x, weight, eps) for x, weight in zip((q, k), weights, strict=True)]
        for call in (vllm.latents, sglang.latents):
            assert all(same(a, b) for a, b in zip(call(q, k, *weights, eps), wanted, strict=True))
        codes, scales, lora, k_nope = sglang.latents_quantised(q, k, *weights, eps, code)
        right = norm_reference.quantised(wanted[0].cpu(), code, 128)
        assert same(codes, right[0]) and same(scales, right[1]) and same(lora, wanted[0]) and same(k_nope, wanted[1])


@where
def test_quantisation_and_activations(aiter: Any, target: str) -> None:
    code = CODES[FP8.get(target, "e4m3fn")]
    with on(target) as device:
        x = torch.randn(5, 512).bfloat16()
        wanted = quant_reference.per_group(x, code, 128)
        codes, scales = clients.group_quant(x.to(device), code)
        assert same(codes, wanted[0]) and same(scales, wanted[1])
        codes, scales = clients.group_quant(x.to(device), code, transpose_scale=True)
        assert same(codes, wanted[0]) and same(scales.view(4, 5), wanted[1].T.contiguous())
        codes, scales = vllm.token_quant(x.to(device), code)
        assert all(same(a, b) for a, b in zip((codes, scales), quant_reference.per_token(x, code), strict=True))
        made = torch.empty(5, 256, dtype=x.dtype, device=device)
        activation.silu_and_mul(made, x.to(device))
        codes, scales = vllm.activation(x.to(device), code)
        wanted = quant_reference.per_group(made.cpu(), code, 128)
        assert same(codes, wanted[0]) and same(scales, wanted[1])
        # Heads before tokens, as a batched GEMM leaves them.
        heads = torch.randn(3, 5, 128).bfloat16()
        wanted = quant_reference.per_group(heads.transpose(0, 1).reshape(5, 384), code, 128)
        codes, scales = sglang.flatten(heads.to(device), code)
        assert same(codes, wanted[0]) and same(scales, wanted[1])


@where
def test_quantisation_to_mxfp4(aiter: Any, target: str) -> None:
    with on(target) as device:
        x, residual, weight = (torch.randn(shape).bfloat16() for shape in ((5, 512), (5, 512), (512,)))
        k, heads = torch.randn(5, 64).bfloat16(), torch.randn(3, 5, 128).bfloat16().transpose(0, 1)
        given = (tensor.to(device) for tensor in (x, residual, weight))
        x_, residual_, weight_ = given
        out, total = torch.empty_like(x_), torch.empty_like(x_)
        norm.rmsnorm2d_fwd_with_add(out, x_, residual_, total, weight_, 1e-6)
        plain, latent = norm.rms_norm(x_, weight_, 1e-6), norm.rms_norm(k.to(device), weight_[:64], 1e-6)
        found = sglang.mxfp4(x_, residual_, weight_, 1e-6, k.to(device), heads.to(device))
        assert same(found[1][0], total) and same(found[1][1], latent)
        for (codes, scales), made in zip(
            (found[0], *found[2:]), (out.cpu(), plain.cpu(), heads.reshape(5, 384), x), strict=True
        ):
            wanted = mxfp4_reference.quantise(made, 2)
            assert same(codes, wanted[0]) and same(scales, wanted[1])
        scale = torch.randint(1, 255, (64, 16), dtype=torch.uint8)
        codes, scales, shuffled = vllm.mxfp4(x_, scale.to(device))
        wanted = mxfp4_reference.quantise(x, 1)
        assert same(codes.view(torch.uint8), wanted[0]) and same(shuffled, mxfp4.shuffle_scale(scale))
        assert same(mxfp4.unshuffle_scale(scales, 5).view(torch.uint8), wanted[1])


# Client calls: mixture of experts -------------------------------------------------------------------------------------


@where
def test_a_layer_of_experts(aiter: Any, target: str) -> None:
    """Routed by groups, then computed with weights that are shuffled when they are loaded."""
    problem = problem_of(quant="block", code=FP8.get(target, "e4m3fn"), topk=4)
    with on(target) as device:
        case = case_of(problem, device=device)
        made = case.made
        gating = torch.randn(problem.tokens, problem.experts).bfloat16().to(device)
        bias = torch.rand(problem.experts).to(device)
        routed = sglang.route(gating, bias, 4, 4, 2)
        how = {"bias": bias.cpu(), "groups": 4, "topk_groups": 2, "score": "sigmoid", "renorm": True, "scale": 2.5}
        right = routing_reference.route(gating.cpu().float(), 4, **how)
        assert [set(row) for row in routed[1].tolist()] == [set(row) for row in right.ids.tolist()]
        made.ids, made.routing = routed[1], routed[0]
        weights = made.weights
        for call in (sglang.experts, sglang.wrapped_experts, vllm.experts):
            got = call(made.x, weights.w1, weights.w2, (weights.w1_scale, weights.w2_scale), routed)
            if target == "cuda":
                check_on_hopper(case, got, rounds=True)
            else:
                check(case, got, rounds=target != "cpu")


@where
def test_experts_of_a_checkpoint_with_a_scale_a_tensor(aiter: Any, target: str) -> None:
    """Activation scales dynamic, and static ones, which a checkpoint has as numbers without dimensions."""
    with on(target) as device:
        case = case_of(problem_of(quant="tensor", code=FP8.get(target, "e4m3fn")), 2, device=device)
        made, weights = case.made, case.made.weights
        for static in ((None, None), (torch.tensor(0.01, device=device), torch.tensor(0.02, device=device))):
            scales = weights.w1_scale, weights.w2_scale
            got = vllm.tensor_experts(made.x, weights.w1, weights.w2, scales, static, (made.routing, made.ids))
            if target == "cuda":
                check_on_hopper(case, got, rounds=True)
            else:
                check(case, got)


@where
def test_experts_with_biases_and_without_their_sum(aiter: Any, target: str) -> None:
    for by_slots in (False, True):
        how = {"activation": "swiglu", "interleaved": True, "precision": "a8w4", "bias1": True, "bias2": True}
        problem = mx_cases.problem_of(width=128, inter=64, experts=8, by_slots=by_slots, **how)
        case = mx_cases.case_of(problem)
        made, weights = case.made, case.made.weights
        with on(target) as device:
            given = [
                tensor.to(device)
                for tensor in (
                    *(made.x, weights.w1, weights.w2, weights.w1_scale, weights.w2_scale),
                    *(weights.bias1, weights.bias2, made.routing, made.ids),
                )
                if tensor is not None
            ]
            pairs = [(given[i], given[i + 1]) for i in (1, 3, 5, 7)]
            got = sglang.biased_experts(given[0], *pairs, by_slots)
        mx_cases.check(case, got.cpu())


@where
@pytest.mark.parametrize("call", [vllm.softmax_topk, vllm.topk_gating])
def test_routing_by_softmax(aiter: Any, call: Any, target: str) -> None:
    with on(target) as device:
        gating = torch.randn(7, 64)
        weights, ids = call(gating.to(device), 8)
    right = routing_reference.route(gating, 8, renorm=True)
    assert [set(row) for row in ids.cpu().tolist()] == [set(row) for row in right.ids.tolist()]
    torch.testing.assert_close(weights.cpu().sort(-1).values.double(), right.weights.sort(-1).values, rtol=1e-5, atol=0)


# GEMMs ----------------------------------------------------------------------------------------------------------------


def test_the_gemm_of_routers_and_heads(aiter: Any) -> None:
    from aiter.tuned_gemm import gemm_a16w16, tgemm

    x, weight = torch.randn(2, 3, 256).bfloat16(), torch.randn(24, 256).bfloat16()
    bias = torch.randn(24).bfloat16()
    for got in (tgemm.mm(x, weight, bias), gemm_a16w16(x, weight, bias=bias, otype=torch.bfloat16)):
        assert same(got, linear(x, weight, bias))
    with pytest.raises(ArgumentError, match=r"otype` is torch.float32; allowed: None or torch.bfloat16"):
        tgemm.mm(x, weight, otype=torch.float32)
    with pytest.raises(ArgumentError, match="scale_a` is a tensor"):
        tgemm.mm(x, weight, scale_a=torch.ones(1))
    with pytest.raises(ArgumentError, match="B` is shuffled"):
        gemm_a16w16(x, moe.shuffle_weight(torch.randn(32, 256).bfloat16()))


@where
def test_linear_layers_of_8_bits(aiter: Any, target: str) -> None:
    dtype = CODES["e4m3fn"]
    with on(target) as device:
        x, weight = torch.randn(5, 512).bfloat16(), (torch.randn(256, 512) * 0.5).to(dtype)
        blocks, rows, bias = torch.rand(2, 4) + 0.1, torch.rand(256, 1) + 0.1, torch.randn(256).bfloat16()
        drops = gemm_reference.HOPPER_DROPS if device == "cuda" else 0.0
        given = [t.to(device) for t in (x, weight, blocks, rows, bias)]
        found = sglang.linear(*given[:3], dtype)
        codes, scales = quant_reference.per_group(x, dtype, 128)
        exact, terms = gemm_reference.blockscale(codes, weight, scales, blocks)
        bound = gemm_reference.error_bound(exact, terms, 512, torch.bfloat16, drops)
        assert all(bool(((y.cpu().double() - exact).abs() <= bound).all()) for y in found)
        assert same(found[0], found[1]) and same(found[0], found[2])
        codes, scales = quant_reference.per_token(x, torch.int8)
        ints = torch.randint(-127, 128, weight.shape, dtype=torch.int8)
        moved = [t.to(device) for t in (codes, ints, scales, rows, bias)]
        exact = (codes.double() @ ints.double().T) * scales.double() * rows.T.double() + bias.double()
        y = vllm.integer_linear(*moved)
        torch.testing.assert_close(y.cpu().double(), exact, rtol=2.0**-8, atol=2.0**-20)
        y = vllm.linear(given[0], given[1], given[3], given[4], dtype)
        codes, scales = quant_reference.per_token(x, dtype)
        exact, terms = gemm_reference.rowscale(codes, weight, scales, rows, bias)
        assert bool(
            ((y.cpu().double() - exact).abs() <= gemm_reference.error_bound(exact, terms, 512, x.dtype, drops)).all()
        )


@where
def test_absorbed_projections(aiter: Any, target: str) -> None:
    with on(target) as device:
        q_nope, w_kc = torch.randn(3, 4, 128).bfloat16(), (torch.randn(4, 512, 128) * 0.5).to(CODES["e4m3fn"])
        # As SGLang keeps it: [heads, K, N], in the memory of [heads, N, K].
        w_kc = w_kc.transpose(1, 2)
        scale = torch.tensor(0.25)
        y = sglang.absorb(q_nope.to(device), w_kc.to(device), scale.to(device)).cpu()
        exact, terms = gemm_reference.batched(q_nope.transpose(0, 1), w_kc.transpose(-1, -2), scale)
        drops = gemm_reference.HOPPER_DROPS if device == "cuda" else 0.0
        assert y.shape == (4, 3, 512)
        assert bool(((y.double() - exact).abs() <= gemm_reference.error_bound(exact, terms, 128, y.dtype, drops)).all())


@where
def test_rotary_embeddings_and_the_cache(aiter: Any, target: str) -> None:
    def near(got: Any, wanted: Any) -> None:
        torch.testing.assert_close(got.cpu().float(), wanted.float(), rtol=2.0**-7, atol=2.0**-7)

    with on(target) as device:
        table = torch.randn(32, 64).bfloat16()
        cos, sin = table.chunk(2, -1)
        pos, slots = torch.tensor([3, 31, 0]), torch.tensor([5, -1, 2])
        query, key = torch.randn(3, 4 * 64).bfloat16(), torch.randn(3, 64).bfloat16()
        turned = [t.clone().to(device) for t in (query, key)]
        vllm.rope(pos.to(device), *turned, 64, table.to(device), False)
        for got, given in zip(turned, (query, key), strict=True):
            near(got.view(3, -1, 64), rope_reference.rope(given.view(3, -1, 64), cos, sin, pos, False))
        kv_c, k_pe, scale = torch.randn(3, 512).bfloat16(), torch.randn(3, 64).bfloat16(), torch.tensor(0.5)
        for kind, dtype in (("auto", torch.bfloat16), ("fp8", dtypes_fp8())):
            cache, wanted = (torch.zeros(2, 4, 576, dtype=dtype, device=d) for d in (device, "cpu"))
            clients.cache_latents(
                *(t.to(device) for t in (kv_c, k_pe)), cache, slots.to(device), kind, scale.to(device)
            )
            cache_reference.write(
                wanted[:, :, None], slots, kv_c[:, None], k_pe[:, None], scale if kind == "fp8" else None
            )
            assert same(cache, wanted) and bool(cache.cpu().float().any())
        q, k = (torch.randn(3, 4, 512).bfloat16(), query.view(3, 4, 64)), (kv_c[:, None], k_pe[:, None])
        cache = torch.zeros(8, 1, 576, dtype=dtypes_fp8(), device=device)
        moved = [[t.to(device) for t in pair] for pair in (q, k)]
        q_out, *_ = sglang.rope_and_cache(
            *moved,
            cache,
            slots.to(device),
            pos.to(device),
            cos.to(device),
            sin.to(device),
            scale.to(device),
            torch.bfloat16,
        )
        near(q_out[..., :512], q[0])
        near(q_out[..., 512:], rope_reference.rope(q[1], cos, sin, pos, False))
        assert [bool(row) for row in cache.cpu().float().flatten(1).any(1)] == [slot in (5, 2) for slot in range(8)]


def dtypes_fp8() -> Any:
    from aiter import dtypes

    return dtypes.fp8


def test_a_compiled_client_has_no_graph_break(aiter: Any) -> None:
    given = operands_of(Case(3, 256))

    def layer(x: Any) -> Any:
        import aiter

        y = aiter.rms_norm(x, given.weight, 1e-6)
        return aiter.silu_and_mul, vllm.activation(y, torch.float8_e4m3fn)

    results = [f(given.x)[1] for f in (layer, torch.compile(layer, fullgraph=True, backend="aot_eager"))]
    assert all(same(a, b) for a, b in zip(*results, strict=True))
