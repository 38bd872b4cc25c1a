"""What a multimodal projector takes, against llama.cpp's own clip code."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

import vram_planner as vp
from vram_planner.architecture.projector import Projector, ProjectorTensor
from vram_planner.basis import Basis
from vram_planner.engines.llama_cpp_alloc import Graph
from vram_planner.engines.llama_cpp_projector import compute_bytes, projector_bytes
from vram_planner.errors import HeaderError, PlannerError, RequestError, UnsupportedArchitectureError
from vram_planner.model_profiles.from_config import architecture_from_config
from vram_planner.model_profiles.headers import Header, StoredTensor
from vram_planner.model_profiles.projector_file import projector_of as projector_from_header
from vram_planner.model_profiles.projectors import projector_from_config
from vram_planner.model_profiles.resolve import resolve
from vram_planner.units import GIB

# Release 0.5.0 (b11434): tools/mtmd built against the release's own CUDA backend, on a pretend RTX 4090 and on the CPU, in
# clip_init's no-alloc mode; files without data as convert_hf_to_gguf.py --mmproj writes them (LLaVA,
# MiniCPM-V: the scripts under legacy-models; Llama 4 with the published names of its second norms, Pixtral with its token at the end of a row).
ORACLE = Path(__file__).parent.parent / "oracles" / "llamacpp_projectors.jsonl"
ROWS = [json.loads(line) for line in ORACLE.read_text(encoding="utf-8").splitlines()]
GEMMA: dict[str, Any] = {
    "model": "google/gemma-3-4b-it",
    "ctx": 8192,
    "concurrency": 1,
    "engine": "llama.cpp",
}
QWEN: dict[str, Any] = {**GEMMA, "model": "Qwen/Qwen2.5-VL-7B-Instruct"}


def read_from(file: dict[str, Any]) -> Projector:
    """The projector of a header: its keys, the tensors of the whole, and those of one layer, which all have."""
    count = file["keys"]["clip.vision.block_count"]
    names = file["tensors"] | {
        f"v.blk.{index}.{name}": told for index in range(count) for name, told in file["block"].items()
    }
    tensors = [StoredTensor(name, dtype, tuple(shape), 0) for name, (dtype, shape) in names.items()]
    metadata = {"general.architecture": "clip"} | file["keys"]
    return projector_from_header(
        Header(tensors=tuple(tensors), metadata=metadata, source="m.gguf", format="gguf", file_bytes=0)
    )


@lru_cache(maxsize=128)
def projector_of(index: int) -> Projector:
    row = ROWS[index]
    if "file" in row:
        return read_from(row["file"])
    config = row.get("config")
    if config is None:
        profile = resolve(row["model"], offline=True)
        config, hidden = profile.config, profile.architecture.hidden
    else:
        hidden = architecture_from_config(config).hidden
    return projector_from_config(config, hidden=hidden, type_name=row["type"], name=row["model"])


each = pytest.mark.parametrize(
    "index", range(len(ROWS)), ids=[f"{row['model']}-{row['type']}" for row in ROWS]
)


@each
def test_the_tensors_on_the_gpu_and_on_the_host_are_exact(index: int) -> None:
    """Source: ggml_backend_buffer_get_size of clip_ctx's buffer. Tolerance: none."""
    row, projector = ROWS[index], projector_of(index)

    assert projector.kind == row["kind"]
    assert sum(len(one.tensors) for one in (projector, projector.sound) if one) == row["tensors"]
    assert projector_bytes(projector).weights == row["weights"]
    assert projector_bytes(projector, on_host=True).weights == row["host_weights"]


@each
def test_the_buffer_that_is_reserved_at_the_start_is_exact(index: int) -> None:
    """With flash attention where there is a kernel for it, without, and on the CPU. Source: clip_ctx.mem_compute. Tolerance: none."""
    row, projector = ROWS[index], projector_of(index)
    found = projector_bytes(projector)

    assert (found.side, found.flash, found.compute) == (row["picture"], row["flash"], row["compute"])
    assert projector_bytes(projector, flash=False).compute == row["compute_without_flash"]
    assert projector_bytes(projector, on_host=True).compute == row["host_compute"]


@each
def test_what_the_buffer_grows_to_for_the_largest_picture_is_exact(index: int) -> None:
    """Source: reserve_compute_meta asked for a picture of that size. Tolerance: none."""
    row, found = ROWS[index], projector_bytes(projector_of(index))

    assert found.largest_side == row.get("larger_picture", row["picture"])
    assert found.largest == row.get("larger_compute", row["compute"])


# Lines of logs of real cards: the file's tensors ("model size", or the bytes of a failed allocation), the buffer of the
# warm-up, or what --fit adds ("estimated worst-case memory usage of mmproj": with the inputs on the host). From public
# repositories' logs of May 2026 (Qwen3.6, CUDA, P100 and RTX PRO 6000), of build 7972 (Qwen2.5, ROCm), of llama-server for
# Qwen3-VL and Gemma 4 31B; and https://github.com/ollama/ollama/issues/17482 for Qwen3.6 in BF16.
MIB = 1 << 20
LOGS = [
    ("Qwen/Qwen3.6-27B", "bf16", 334, 887.99, 248.10, None),
    ("Qwen/Qwen3.6-27B", "f32", 334, 1757.55, 248.10, None),
    ("Qwen/Qwen3.6-27B", "bf16", 334, None, None, 1136.09),
    ("Qwen/Qwen2.5-VL-7B-Instruct", "f16", 519, 1_354_132_480 / MIB, None, None),
    ("Qwen/Qwen3-VL-30B-A3B-Instruct", "f16", 352, 1033.29, None, None),
    ("Qwen/Qwen3-VL-8B-Instruct", "f16", 352, None, None, 1502.33 - 24.93),
    ("nvidia/Gemma-4-31B-IT-NVFP4", "f16", 356, None, None, 1300.79 - 6.77),
    ("mistralai/Ministral-3-3B-Instruct-2512", "f16", 223, None, 64.49, None),
]


@pytest.mark.parametrize(("model", "type_name", "tensors", "weights", "compute", "both"), LOGS)
def test_logs_of_real_cards_say_the_same(
    *,
    model: str,
    type_name: str,
    tensors: int,
    weights: float | None,
    compute: float | None,
    both: float | None,
) -> None:
    """Tolerance: the two decimals of a log's MiB; padding of a tensor is not in its figures."""
    profile = resolve(model, offline=True)
    projector = projector_from_config(profile.config, hidden=profile.architecture.hidden, type_name=type_name)
    found, plain = projector_bytes(projector), projector_bytes(projector, on_host=True).weights

    assert len(projector.tensors) == tensors
    for logged, ours in ((weights, plain), (compute, found.compute), (both, plain + found.compute)):
        assert logged is None or ours / MIB == pytest.approx(logged, abs=0.011)


def test_the_table_covers_every_kind_that_is_modelled() -> None:
    with pytest.raises(UnsupportedArchitectureError) as refused:
        compute_bytes(toy(kind="adapter"), 28, flash=True, on_host=False)

    modelled = set(refused.value.hint.partition("modelled: ")[2].split(", "))
    assert modelled == {row["kind"] for row in ROWS} | {row["sound"] for row in ROWS if "sound" in row}
    assert len(modelled) == 13


def toy(**other: Any) -> Projector:
    facts: dict[str, Any] = {
        "kind": "gemma3",
        "layers": 1,
        "width": 64,
        "heads": 1,
        "image": 28,
        "patch": 14,
        "merge": 1,
        "tensors": {"v.patch_embd.weight": ProjectorTensor("f16", (64, 3, 14, 14))},
        "basis": Basis.EXACT,
        "name": "mmproj.gguf",
        "source": "a test",
    }
    return Projector(**facts | other)


def test_a_file_without_a_tensor_that_its_kind_needs_is_refused() -> None:
    with pytest.raises(HeaderError, match=r"gemma3 the tensor 'v\.blk\.0"):
        projector_bytes(toy())


def test_a_picture_smaller_than_a_patch_is_refused() -> None:
    with pytest.raises(HeaderError, match="14 pixels a side"):
        projector_bytes(toy(image=14, patch=28))


def test_a_graph_aligns_its_tensors_as_it_is_told() -> None:
    graph = Graph(alignment=32)
    graph.expand(graph.tensor(33))

    assert graph.peak() == 64


def test_gemma_4s_pictures_are_no_larger_than_a_micro_batch() -> None:
    """Each token of a picture sees all others, so the server caps them (server-context.cpp, 'cap image_max_tokens')."""
    profile = resolve("google/gemma-4-26B-A4B", offline=True)
    projector = projector_from_config(profile.config, hidden=profile.architecture.hidden)
    sides = [projector_bytes(projector, ubatch=ubatch) for ubatch in (100, 512, 2048)]

    assert [(found.side, found.largest_side) for found in sides] == [(480, 480), (768, 1056), (768, 1584)]


def test_an_encoder_of_sound_in_the_same_file_is_counted() -> None:
    """Gemma 4 E2B: two contexts of clip.cpp, each with a buffer; the kernel of the patches is in both."""
    plan = vp.plan(**GEMMA | {"model": "google/gemma-4-E2B-it"}, quant="q4_k_m", mmproj="f16")
    part = plan.part("vision_projector")

    assert part.n_bytes == (368_648_192 + 106_186_752) + (618_071_168 + 106_109_824)
    assert "sound of more than 30 seconds at once" in plan.not_modelled


def test_a_plan_with_a_projector_has_a_part_for_it_and_less_room() -> None:
    """The part is what clip.cpp itself says: 851,227,776 B of tensors, 127,139,840 B of buffer."""
    without = vp.plan(**GEMMA, quant="q4_k_m", gpu="custom:6GiB")
    plan = vp.plan(**GEMMA, quant="q4_k_m", gpu="custom:6GiB", mmproj="auto")
    part = plan.part("vision_projector")

    assert part.n_bytes == 851_227_776 + 127_139_840
    assert plan.total_bytes == without.total_bytes + part.n_bytes
    assert plan.capacity is not None
    assert without.capacity is not None
    assert plan.capacity.kv_pool_bytes == without.capacity.kv_pool_bytes - part.n_bytes
    assert plan.capacity.max_context < without.capacity.max_context
    assert plan.launch.endswith("--mmproj mmproj-gemma-3-4b-it-F16.gguf")
    assert not any("mmproj" in line for line in plan.not_modelled)


def test_pictures_of_any_size_make_a_band() -> None:
    part = vp.plan(**QWEN, quant="q4_k_m", mmproj="f16").part("vision_projector")

    assert part.low_bytes == part.n_bytes == 1_354_132_480 + 739_025_920
    assert part.high_bytes == 1_354_132_480 + 1_984_987_136


def test_without_the_option_a_model_that_sees_says_what_is_left_out() -> None:
    plan = vp.plan(**GEMMA, quant="q4_k_m")

    assert any("--mmproj auto adds it" in line for line in plan.not_modelled)
    assert all(part.name != "vision_projector" for part in plan.parts)


def test_on_the_host_it_takes_nothing_of_the_card() -> None:
    plan = vp.plan(**GEMMA, quant="q4_k_m", mmproj="auto", mmproj_offload=False)

    assert plan.total_bytes == vp.plan(**GEMMA, quant="q4_k_m").total_bytes
    assert plan.launch.endswith("--no-mmproj-offload")
    assert any("the vision projector lies in host memory: 851,226,048 B" in line for line in plan.warnings)
    assert plan.request["mmproj_compute_bytes"] == 127_139_840


def test_of_several_cards_the_first_has_it() -> None:
    """clip.cpp takes the first device; the fullest card may then be another one than before."""
    one = vp.plan(**QWEN, quant="q8_0", gpu="2x RTX 4090", mmproj="auto")
    two = vp.plan(**QWEN, quant="q8_0", gpu="2x RTX 4090")

    assert one.part("vision_projector").n_bytes == 2_093_158_400
    assert two.total_bytes < one.total_bytes < two.total_bytes + 2_093_158_400
    assert one.capacity is not None
    assert one.capacity.max_context <= 128_000


def test_a_head_without_a_kernel_leaves_flash_attention_to_the_server() -> None:
    """Llama 4's heads of 88: with -fa on they would run on the CPU. Source: fattn.cu, ggml_cuda_get_best_fattn_kernel."""
    plan = vp.plan(
        "meta-llama/Llama-4-Scout-17B-16E-Instruct",
        ctx=8192,
        concurrency=1,
        engine="llama.cpp",
        quant="q4_k_m",
        mmproj="f16",
    )

    assert "-fa auto" in plan.launch
    assert any("without flash attention" in line for line in plan.warnings)


def test_way_out_counts_the_projector() -> None:
    """--fit leaves it room: fewer layers of the model go onto a small card."""

    def layers(**other: Any) -> int:
        plan = vp.plan(**QWEN, quant="q8_0", gpu="custom:8GiB", **other)
        line = next(line for line in plan.warnings if line.startswith("--ngl"))
        return int(line.split()[1])

    assert layers(mmproj="auto") < layers()


def test_other_engines_and_a_stray_option_are_refused() -> None:
    with pytest.raises(RequestError, match="has no --mmproj here"):
        vp.plan("google/gemma-3-4b-it", ctx=8192, concurrency=1, engine="vllm", mmproj="auto")
    with pytest.raises(RequestError, match="need a projector"):
        vp.plan(**GEMMA, quant="q4_k_m", mmproj_offload=False)
    with pytest.raises(RequestError, match="'large' is no projector"):
        vp.plan(**GEMMA, quant="q4_k_m", mmproj="large")
    with pytest.raises(PlannerError, match="family 'qwen2' takes text alone"):
        vp.plan("7b", ctx=8192, concurrency=1, engine="llama.cpp", quant="q4_k_m", mmproj="auto")


def test_ollama_keeps_it_on_the_host_where_layers_are_too() -> None:
    """Source: Ollama's llm/llama_server.go, shouldDisableMMProjOffload: partial offload, or a card it and 1 GiB do not fit."""
    ask: dict[str, Any] = {**GEMMA, "engine": "ollama", "quant": "q4_k_m", "mmproj": "auto"}
    names = [
        {part.name for part in vp.plan(**ask, **other).parts}
        for other in ({}, {"ngl": 10}, {"gpu": "custom:1GiB"}, {"gpu": "custom:8GiB"})
    ]

    assert ["vision_projector" in found for found in names] == [True, False, False, True]


def test_it_fits_a_card_just_as_large_as_is_needed() -> None:
    plan = vp.plan(**GEMMA, quant="q4_k_m", mmproj="auto")
    larger = vp.plan(
        **GEMMA, quant="q4_k_m", mmproj="auto", gpu=f"custom:{(plan.total_bytes + GIB) / GIB + 0.01:.2f}GiB"
    )

    assert larger.fits
