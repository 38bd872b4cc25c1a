"""
What the releases of vLLM decide, each against the source of that release: `vllm/<file>` of the package of that version.

Cases are (version, what the file says); the version before a change is there beside the one that has it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import vram_planner as vp
from vram_planner.architecture.parallel import Layout
from vram_planner.engines import vllm, vllm_cache, vllm_held, vllm_rules, vllm_setting
from vram_planner.engines.base import Ask, Device, Options, Workload
from vram_planner.engines.versions import load_rules, parse_version, profile_for, rules_for
from vram_planner.engines.vllm_groups import Kind
from vram_planner.units import GIB

H100 = Device(name="NVIDIA H100 80GB HBM3", total_bytes=79 * GIB, compute_capability=(9, 0))
A100 = Device(name="NVIDIA A100-SXM4-80GB", total_bytes=79 * GIB, compute_capability=(8, 0))
L40S = Device(name="NVIDIA L40S", total_bytes=44 * GIB, compute_capability=(8, 9))
H20 = Device(name="NVIDIA H20", total_bytes=95 * GIB, compute_capability=(9, 0))
B200 = Device(name="NVIDIA B200", total_bytes=178 * GIB, compute_capability=(10, 0))
T4 = Device(name="Tesla T4", total_bytes=15 * GIB, compute_capability=(7, 5))
MI300X = Device(name="AMD Instinct MI300X", total_bytes=191 * GIB)


def ask(model: str = "8b", *, ctx: int = 8192, device: Device | None = H100, **options: Any) -> Ask:
    architecture = vp.load_architecture(model)
    layout = Layout(tp=options.pop("tp", 1), pp=options.pop("pp", 1))
    return Ask(
        architecture=architecture,
        precision=architecture.precision,
        workload=Workload(context=ctx, concurrency=1, prompt_tokens=1),
        layout=layout,
        options=Options(**options),
        device=device,
    )


def settle(model: str = "8b", **options: Any) -> vllm_setting.Setting:
    return vllm_setting.settle(ask(model, **options))


def groups(model: str, **options: Any) -> Any:
    asked = ask(model, **options)
    return vllm_setting.stage_groups(asked, vllm_setting.settle(asked))


def test_every_rule_says_where_it_stands_and_has_a_value_for_every_release() -> None:
    for name, rule in load_rules("vllm").items():
        assert rule["source"], name
        starts = [parse_version(version) for version in rule["since"]]
        assert starts == sorted(starts), name
        assert starts[0] == ((0, 8, 0) if rule.get("engine") == "v1" else (0, 4, 0)), name
    assert set(rules_for("vllm", (0, 8, 5), old=True)) & {"cards", "in_flight"} == set()
    assert "whole_prompts" not in rules_for("vllm", (0, 8, 5), old=False)


@pytest.mark.parametrize(("version", "share"), [("0.19.1", 0.90), ("0.20.0", 0.92)])
def test_the_share_of_the_card(version: str, share: float) -> None:
    """config/cache.py: 0.9 up to 0.19.1, Field(default=0.92) in 0.20.0."""
    assert settle(version=version).utilization == share


@pytest.mark.parametrize(
    ("version", "device", "tokens", "requests"),
    [
        ("0.8.3", H100, 8192, 1024),
        ("0.8.3", L40S, 2048, 1024),
        ("0.8.3", H20, 2048, 1024),
        ("0.8.4", L40S, 2048, 256),
        ("0.8.4", A100, 2048, 256),
        ("0.8.5", A100, 8192, 1024),
        ("0.9.0", A100, 2048, 256),
        ("0.9.0", H20, 8192, 1024),
        ("0.27.0", B200, 8192, 1024),
        ("0.28.0", B200, 16384, 1024),
        ("0.28.0", A100, 2048, 256),
        (None, B200, 16384, 1024),
    ],
)
def test_defaults_by_card(version: str | None, device: Device, tokens: int, requests: int) -> None:
    """engine/arg_utils.py: names in 0.8.0 to 0.8.4, 70 GiB from 0.8.5, no A100 from 0.9.0, 160 GiB from 0.28.0."""
    found = settle(version=version, device=device)

    assert (found.tokens, found.requests) == (tokens, requests)


@pytest.mark.parametrize(("version", "tokens"), [("0.11.0", 2048), ("0.11.1", 512), ("0.32.0", 512)])
def test_no_more_tokens_than_the_requests_can_have(version: str, tokens: int) -> None:
    """engine/arg_utils.py of 0.11.1: min(max_num_seqs * max_model_len, max_num_batched_tokens)."""
    assert settle(version=version, device=L40S, ctx=512, max_num_seqs=1).tokens == tokens


@pytest.mark.parametrize(
    ("version", "ctx", "tokens"),
    [
        ("0.5.2", 40_000, 40_000),
        ("0.5.3", 40_000, 512),
        ("0.6.4", 40_000, 512),
        ("0.6.5", 40_000, 2048),
        ("0.6.5", 32_768, 32_768),
        ("0.6.5", 1024, 2048),
    ],
)
def test_what_the_v0_engine_profiles(version: str, ctx: int, tokens: int) -> None:
    """engine/arg_utils.py: chunks above 32,768 from 0.5.3; config.py, SchedulerConfig: 512, from 0.6.5 on 2048."""
    assert settle(version=version, ctx=ctx).tokens == tokens


@pytest.mark.parametrize(
    ("version", "tokens"), [("0.5.5", 512), ("0.6.0", 4096), ("0.6.2", 40_000), ("0.6.3", 40_000)]
)
def test_a_model_that_sees_has_no_chunks_from_0_6_2_on(version: str, tokens: int) -> None:
    """engine/arg_utils.py of 0.6.2: `if use_long_context and not model_config.is_multimodal_model`."""
    assert settle("Qwen/Qwen2-VL-7B-Instruct", version=version, ctx=40_000).tokens == tokens


@pytest.mark.parametrize(
    ("version", "ctx", "tokens"), [("0.6.2", 2048, 4096), ("0.6.3", 2048, 5120), ("0.5.5", 2048, 2048)]
)
def test_the_least_of_a_model_that_sees(version: str, ctx: int, tokens: int) -> None:
    """config.py, _MULTIMODAL_MODEL_MAX_NUM_BATCHED_TOKENS: none, 4096 (0.6.0), 5120 (0.6.3)."""
    assert settle("Qwen/Qwen2-VL-7B-Instruct", version=version, ctx=ctx).tokens == tokens


def test_latent_attention_and_adapters_have_no_chunks_in_v0() -> None:
    """engine/arg_utils.py of 0.8.3, _set_default_args_v0: not for MLA, nor with LoRA."""
    lite = "deepseek-ai/DeepSeek-V2-Lite"

    assert settle(lite, version="0.8.3+v0", ctx=100_000).tokens == 100_000
    assert settle(version="0.8.3+v0", ctx=100_000).tokens == 2048
    assert settle(version="0.8.3+v0", ctx=100_000, max_loras=1).tokens == 100_000


@pytest.mark.parametrize(
    ("version", "elements"),
    [
        ("0.6.6", 2 * 16 * 256),
        ("0.7.0", 2 * 16 * 256),
        ("0.7.1", 576),
        ("0.7.2", 640),
        ("0.7.3", 640),
        ("0.8.0+v0", 576),
    ],
)
def test_latents_before_and_after_mla(version: str, elements: int) -> None:
    """
    DeepSeek-V2-Lite, 16 heads, 27 layers: heads padded to 256 before 0.7.1, then latents of 512 + 64.

    config.py, get_head_size; 0.7.2 and 0.7.3 worker/cache_engine.py, align_to_256bytes: 1,152 B become 1,280.
    """
    found = groups("deepseek-ai/DeepSeek-V2-Lite", version=version)

    assert found.bytes_per_block == 27 * elements * 2 * found.block


def test_without_mla_nothing_is_kept_twice() -> None:
    """attention/backends/mla of 0.7.1 keeps kv_b_proj in 16 bits; 0.7.0 has no such file."""
    sizes = [
        vllm_held.absorbed_bytes(asked, vllm_setting.settle(asked))
        for asked in (ask("671b", version=version, tp=8) for version in ("0.7.0", "0.8.5", "0.32.0"))
    ]

    assert sizes[0] == 0
    assert sizes[1] == sizes[2] == 61 * 128 // 8 * (128 + 128) * 512 * 2


def test_other_formats_had_no_mla_at_first() -> None:
    """0.7.1 config.py, use_mla: FP8 and compressed-tensors alone; whole heads of 128 + 64. 0.7.3 takes every format."""
    asked = ask("deepseek-ai/DeepSeek-V2-Lite", version="0.7.1")
    packed = replace(asked, precision=vp.load_architecture("Qwen/Qwen2.5-7B-Instruct-AWQ").precision)

    (whole, count), *_ = vllm_cache.held_caches(packed, "unless quantised")
    assert (whole.n_heads, whole.key_dim, whole.value_dim, count) == (16, 192, 192, 27)
    assert vllm_cache.held_caches(packed, "always")[0][0].latent
    assert vllm_cache.held_caches(asked, "unless quantised")[0][0].latent


@pytest.mark.parametrize(
    ("version", "device", "kv_dtype", "block"),
    [
        ("0.17.0", H100, "auto", 64),
        ("0.18.0", H100, "auto", 16),
        ("0.18.0", H100, "fp8", 64),
        ("0.9.2", L40S, "auto", 16),
        ("0.10.0", B200, "auto", 16),
        ("0.10.1", B200, "auto", 128),
        ("0.16.0", B200, "auto", 64),
    ],
)
def test_blocks_of_latents(version: str, device: Device, kv_dtype: str, block: int) -> None:
    """platforms/cuda.py, check_and_update_config: FlashMLA 64 on Hopper, CUTLASS 128, FlashInfer 64 on Blackwell."""
    found = settle("deepseek-ai/DeepSeek-V2-Lite", version=version, device=device, kv_dtype=kv_dtype)

    assert found.block == block


@pytest.mark.parametrize(("version", "kinds"), [("0.9.0", 1), ("0.9.1", 7)])
def test_windows_are_whole_before_the_hybrid_allocator(version: str, kinds: int) -> None:
    """v1/core/kv_cache_utils.py: unify_hybrid_kv_cache_specs of 0.9.0; Gemma-3-27B is 10 full and 52 sliding layers."""
    found = groups("google/gemma-3-27b-it", version=version)

    assert len(found.kinds) == kinds
    assert (found.kinds[0].window is None) == (kinds == 1) or kinds > 1


@pytest.mark.parametrize(
    ("version", "windows", "size"),
    [("0.11.1", 9, 8), ("0.12.0", 9, 9), ("0.12.0", 10, 8), ("0.18.0", 10, 10), ("0.18.0", 12, 8)],
)
def test_the_size_of_a_group(version: str, windows: int, size: int) -> None:
    """v1/core/kv_cache_utils.py: the rarest kind's 8 layers; 0.12.0 `max_num_layers < min_num_layers * 1.25`, 0.18.0 1.5."""
    kind, rules = Kind(), profile_for("vllm", version)[0]
    rows = [
        vllm_cache._Layers(kind, 100, 8),
        vllm_cache._Layers(kind._replace(window=128), 100, windows),
    ]
    found = vllm_cache._grouped(rows, 16, [rows], rules["pad_instead"])

    assert found.bytes_per_block == 100 * size


@pytest.mark.parametrize(
    ("version", "pp", "batches"),
    [
        ("0.25.1", 1, 1),
        ("0.25.1", 2, 1),
        ("0.26.0", 1, 2),
        ("0.26.0", 2, 3),
        ("0.32.0", 2, 3),
    ],
)
def test_batches_in_flight(version: str, pp: int, batches: int) -> None:
    """v1/kv_cache_interface.py: max_num_batched_tokens up to 0.25, max_in_flight_tokens of config/vllm.py from 0.26.0."""
    asked = ask(version=version, pp=pp)
    setting = vllm_setting.settle(asked)

    assert vllm_setting.in_flight(asked, setting) == batches * setting.tokens


def test_the_old_runner_has_no_asynchronous_stages() -> None:
    """0.26.0 config/vllm.py, max_concurrent_batches: 2 without stages, else as many as there are stages."""
    asked = ask("Qwen/Qwen3-30B-A3B", version="0.26.0", pp=2)

    assert vllm_rules.batches_in_flight(asked, vllm_rules.release_of(asked).profile) == 2
    alone = replace(asked, layout=Layout())
    assert vllm_rules.batches_in_flight(alone, vllm_rules.release_of(alone).profile) == 2
    drafting = replace(asked, options=Options(version="0.32.0", speculative="ngram"))
    assert vllm_rules.batches_in_flight(drafting, vllm_rules.release_of(drafting).profile) == 2


@pytest.mark.parametrize(
    ("version", "model", "sampler"),
    [
        ("0.21.0", "Qwen/Qwen3-8B", "v1"),
        ("0.22.0", "Qwen/Qwen3-8B", "v2"),
        ("0.22.0", "8b", "v1"),
        ("0.23.0", "8b", "v2"),
        ("0.23.0", "Qwen/Qwen2.5-7B-Instruct", "v1"),
        ("0.24.0", "deepseek-ai/DeepSeek-V2-Lite", "v2"),
        ("0.24.0", "Qwen/Qwen3-30B-A3B", "v1"),
        ("0.25.1", "Qwen/Qwen2.5-7B-Instruct", "v2"),
        ("0.25.1", "openai/gpt-oss-120b", "v1"),
        ("0.28.0", "openai/gpt-oss-120b", "v1"),
        ("0.29.0", "openai/gpt-oss-120b", "v2"),
        ("0.19.1", "8b", "v1"),
        ("0.16.0", "8b", "sorted"),
    ],
)
def test_the_model_runner(version: str, model: str, sampler: str) -> None:
    """config/vllm.py, _is_default_v2_model_runner_model: by name from 0.22.0, all dense from 0.25.0, all from 0.29.0."""
    assert settle(model, version=version).profile["sampler"] == sampler


@pytest.mark.parametrize(
    ("version", "model", "device", "options", "why"),
    [
        ("0.8.5", "8b", T4, {}, "compute capability below 8.0"),
        ("0.10.1", "8b", T4, {}, "compute capability below 8.0"),
        ("0.10.2", "8b", T4, {}, None),
        ("0.8.5", "8b", L40S, {}, None),
        ("0.8.2", "8b", H100, {"kv_dtype": "fp8"}, "--kv-cache-dtype fp8"),
        ("0.8.3", "8b", H100, {"kv_dtype": "fp8"}, None),
        ("0.9.2", "8b", L40S, {"kv_dtype": "fp8"}, "--kv-cache-dtype fp8"),
        ("0.9.2", "8b", B200, {"kv_dtype": "fp8"}, "--kv-cache-dtype fp8"),
        ("0.10.0", "8b", B200, {"kv_dtype": "fp8"}, None),
        ("0.8.5", "8b", MI300X, {}, "AMD"),
        ("0.9.0", "8b", MI300X, {}, None),
        ("0.10.0", "ibm-granite/granite-4.0-h-small", H100, {}, "recurrent states"),
        ("0.11.0", "8b", T4, {}, None),
    ],
)
def test_when_v1_falls_back_to_v0(
    version: str, model: str, device: Device, options: dict[str, Any], why: str | None
) -> None:
    """engine/arg_utils.py, _is_v1_supported_oracle of 0.8.2 to 0.10.2."""
    found = vllm_rules.release_of(ask(model, version=version, device=device, **options))

    assert bool(found.profile.get("v0")) == (why is not None)
    assert why is None or why in found.warnings[0]


@pytest.mark.parametrize(
    ("version", "model", "blocks"),
    [
        ("0.25.1", "Qwen/Qwen3-Next-80B-A3B-Instruct", 1),
        ("0.26.0", "Qwen/Qwen3-Next-80B-A3B-Instruct", 2),
        ("0.31.0", "ibm-granite/granite-4.0-h-small", 2),
        ("0.32.0", "ibm-granite/granite-4.0-h-small", 3),
    ],
)
def test_blocks_of_a_state(version: str, model: str, blocks: int) -> None:
    """config/model.py, is_prefix_caching_supported: hybrids from 0.26.0; mamba_mixer2.py of 0.32.0: one checkpoint more."""
    kinds = {kind.state_blocks for kind in groups(model, version=version).kinds}

    assert kinds == {0, blocks}


@pytest.mark.parametrize(("version", "said"), [("0.25.1", False), ("0.26.0", True), ("0.28.0", False)])
def test_states_at_every_block_are_said_to_be_left_out(version: str, said: bool) -> None:
    """model_executor/models/config.py: mamba_cache_mode 'all' where a model supports it, 'align' from 0.28.0 on."""
    plan = vp.plan("ibm-granite/granite-4.0-h-small", ctx=8192, concurrency=1, engine_version=version)

    assert any("state at every block" in words for words in plan.not_modelled) == said


def test_states_of_the_v0_engine_are_said_to_be_left_out() -> None:
    """model_executor/models/mamba_cache.py: V0 keeps the states of max_num_seqs beside its pool."""
    plan = vp.plan("ibm-granite/granite-4.0-h-small", ctx=8192, concurrency=1, engine_version="0.10.0")

    assert any("beside its pool" in words for words in plan.not_modelled)


def test_prefix_caching_as_asked() -> None:
    """`mamba_cache_mode` align holds two states a request, from 0.16.0 on; before it there was none or one a block."""
    model = "Qwen/Qwen3-Next-80B-A3B-Instruct"

    assert {kind.state_blocks for kind in groups(model, version="0.24.0", prefix_caching=True).kinds} == {
        0,
        2,
    }
    assert {kind.state_blocks for kind in groups(model, prefix_caching=False).kinds} == {0, 1}
    with pytest.raises(vp.PlannerError, match=r"not modelled for vLLM 0\.14"):
        groups(model, version="0.14.0", prefix_caching=True)
    plan = vp.plan("7b", ctx=4096, concurrency=1, prefix_caching=False)
    assert plan.launch.endswith("--no-enable-prefix-caching")
    assert plan.request["prefix_caching"] is False


@pytest.mark.parametrize(
    ("version", "model", "kv_dtype"),
    [
        ("0.13.0", "nvidia/Qwen3-235B-A22B-NVFP4", "auto"),
        ("0.14.0", "nvidia/Qwen3-235B-A22B-NVFP4", "fp8"),
    ],
)
def test_the_cache_that_a_checkpoint_asks_for(version: str, model: str, kv_dtype: str) -> None:
    """utils/torch_utils.py: get_kv_cache_quant_algo_string of 0.14.0; 0.13.0 has none."""
    assert settle(model, version=version).kv_dtype == kv_dtype


def test_the_cache_that_compressed_tensors_ask_for() -> None:
    """model_executor/layers/attention/attention.py of 0.16.0, kv_cache_scheme; 0.14.0 follows ModelOpt alone."""
    asked = ask()
    asked = replace(
        asked, architecture=replace(asked.architecture, kv_dtype="fp8", kv_dtype_by="compressed-tensors")
    )
    kinds = [profile_for("vllm", version)[0]["stored_kv_types"] for version in ("0.14.1", "0.16.0")]

    assert [vllm_cache.kv_dtype_of(asked, followed) for followed in kinds] == ["auto", "fp8"]


def test_cards_are_alike_where_defaults_are() -> None:
    """Two cards of one kind for 0.27 are of two for 0.28, whose defaults tell them apart; T4 is V0's in 0.9."""
    engine = vllm.Vllm()
    wide = replace(B200, total_bytes=150 * GIB)

    assert engine.alike(ask(device=B200, version="0.27.0")) == engine.alike(
        ask(device=wide, version="0.27.0")
    )
    assert engine.alike(ask(device=B200)) != engine.alike(ask(device=wide))
    assert engine.alike(ask(device=T4, version="0.9.2")) != engine.alike(ask(device=L40S, version="0.9.2"))
