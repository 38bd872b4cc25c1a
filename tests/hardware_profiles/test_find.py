from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vram_planner.basis import Basis
from vram_planner.errors import PlannerError, RequestError, SizeError, UnknownGpuError
from vram_planner.hardware_profiles import (
    DetectedGpu,
    Gpu,
    GpuChoice,
    Machine,
    all_gpus,
    choices_on,
    find_gpu,
    find_gpus,
    gpu_by_nvml_name,
)
from vram_planner.units import GIB, MIB

_GPUS = st.sampled_from(all_gpus())


def _read(text: str) -> tuple[GpuChoice | None, PlannerError | None]:
    try:
        return find_gpu(text), None
    except PlannerError as error:
        return None, error


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("4090", "NVIDIA GeForce RTX 4090"),
        ("rtx4090", "NVIDIA GeForce RTX 4090"),
        ("RTX-4090", "NVIDIA GeForce RTX 4090"),
        ("  rtx   4090 ", "NVIDIA GeForce RTX 4090"),
        ("GeForceRTX4090", "NVIDIA GeForce RTX 4090"),
        ("\uff32\uff34\uff38 \uff14\uff10\uff19\uff10", "NVIDIA GeForce RTX 4090"),  # full-width letters
        ("4090 d", "NVIDIA GeForce RTX 4090 D"),
        ("4070 ti super", "NVIDIA GeForce RTX 4070 Ti Super"),
        ("3080", "NVIDIA GeForce RTX 3080 10GB"),
        ("NVIDIA GeForce RTX 4090", "NVIDIA GeForce RTX 4090"),
        ("NVIDIA A100-SXM4-80GB", "NVIDIA A100 SXM4 80GB"),
        ("NVIDIA A100 80GB PCIe", "NVIDIA A100 PCIe 80GB"),
        ("NVIDIA H100 80GB HBM3", "NVIDIA H100 SXM5 80GB"),
        ("H100-SXM5-80GB", "NVIDIA H100 SXM5 80GB"),
        ("h100", "NVIDIA H100 SXM5 80GB"),
        ("h100 pcie", "NVIDIA H100 PCIe 80GB"),
        ("h100 nvl", "NVIDIA H100 NVL 94GB"),
        ("a100", "NVIDIA A100 SXM4 80GB"),
        ("a100-80gb", "NVIDIA A100 SXM4 80GB"),
        ("a100-40gb", "NVIDIA A100 SXM4 40GB"),
        ("h200", "NVIDIA H200 SXM"),
        ("gh200", "NVIDIA GH200 96GB"),
        ("b200", "NVIDIA B200 SXM"),
        ("Tesla T4", "NVIDIA Tesla T4"),
        ("l40s", "NVIDIA L40S"),
        ("rtx 6000 ada", "NVIDIA RTX 6000 Ada"),
        ("NVIDIA RTX 4000 Ada Generation", "NVIDIA RTX 4000 Ada"),
        ("rtx pro 6000", "NVIDIA RTX PRO 6000 Blackwell Workstation"),
        ("dgx spark", "NVIDIA DGX Spark GB10"),
        ("mi300x", "AMD Instinct MI300X"),
        ("7900 xtx", "AMD Radeon RX 7900 XTX"),
        ("M3 Ultra", "Apple M3 Ultra (80-core GPU)"),
        ("Intel(R) Arc(TM) A770 Graphics", "Intel Arc A770 16GB"),
    ],
)
def test_a_card_answers_to_its_names(asked: str, name: str) -> None:
    choice = find_gpu(asked)

    assert (choice.gpu.name, choice.count, choice.asked) == (name, 1, asked.strip())


@pytest.mark.parametrize(
    ("asked", "count", "name"),
    [
        ("2x RTX 4090", 2, "NVIDIA GeForce RTX 4090"),
        ("2 x rtx 4090", 2, "NVIDIA GeForce RTX 4090"),
        ("2X4090", 2, "NVIDIA GeForce RTX 4090"),
        ("2 x 4090", 2, "NVIDIA GeForce RTX 4090"),
        ("4090 x2", 2, "NVIDIA GeForce RTX 4090"),
        ("8\u00d7H100", 8, "NVIDIA H100 SXM5 80GB"),
        ("H100 x8", 8, "NVIDIA H100 SXM5 80GB"),
        ("2x 7900 xtx", 2, "AMD Radeon RX 7900 XTX"),
        ("6800 xt", 1, "AMD Radeon RX 6800 XT"),
        ("16*a100", 16, "NVIDIA A100 SXM4 80GB"),
        ("4096x T4", 4096, "NVIDIA Tesla T4"),
        ("2x H100 3g.40gb", 2, "NVIDIA H100 SXM5 80GB 3g.40gb"),
        ("3x custom:24GiB", 3, "custom:24GiB"),
    ],
)
def test_a_count_stands_before_or_after(asked: str, count: int, name: str) -> None:
    choice = find_gpu(asked)

    assert (choice.count, choice.gpu.name) == (count, name)


@pytest.mark.parametrize(
    "asked", ["0x RTX 4090", "-1x RTX 4090", "99999x RTX 4090", "4097x T4", "9" * 80 + "x T4"]
)
def test_a_count_that_cannot_be_is_refused(asked: str) -> None:
    with pytest.raises(RequestError, match="GPUs cannot be planned for") as caught:
        find_gpu(asked)
    assert caught.value.exit_status == 2
    assert "1x to 4096x" in caught.value.hint


@pytest.mark.parametrize(
    ("asked", "offered"),
    [
        ("v100", ["NVIDIA Tesla V100 PCIe 16GB", "NVIDIA Tesla V100 SXM2 32GB"]),
        ("4060 ti", ["NVIDIA GeForce RTX 4060 Ti 8GB", "NVIDIA GeForce RTX 4060 Ti 16GB"]),
        ("NVIDIA GeForce RTX 4060 Ti", ["NVIDIA GeForce RTX 4060 Ti 8GB", "NVIDIA GeForce RTX 4060 Ti 16GB"]),
        (
            "rtx 6000",
            ["NVIDIA Quadro RTX 6000", "NVIDIA RTX 6000 Ada", "NVIDIA RTX PRO 6000 Blackwell Workstation"],
        ),
        ("a100 pcie", ["NVIDIA A100 PCIe 40GB", "NVIDIA A100 PCIe 80GB"]),
        ("orin", ["NVIDIA Jetson AGX Orin 64GB", "NVIDIA Jetson Orin NX 16GB"]),
    ],
)
def test_a_name_that_several_share_is_refused_with_all_of_them(asked: str, offered: list[str]) -> None:
    with pytest.raises(UnknownGpuError, match="is the name of") as caught:
        find_gpu(asked)
    assert all(name in caught.value.hint for name in offered)


def test_a_misspelt_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownGpuError, match="no GPU 'rtx 4091'") as caught:
        find_gpu("rtx 4091")
    assert caught.value.hint.startswith("nearest: NVIDIA GeForce RTX 4090,")
    assert caught.value.exit_status == 2


@pytest.mark.parametrize(
    "asked",
    [
        "",
        "   ",
        "x",
        "x" * 10_000,
        "\u65e5\u672c4090",
        "\U0001f680",
        "\x00",
        "4090\n4090",
        "2x",
        "x2",
        "auto",
        "--gpu",
    ],
)
def test_what_is_no_name_is_refused(asked: str) -> None:
    with pytest.raises(UnknownGpuError) as caught:
        find_gpu(asked)
    assert len(str(caught.value)) < 200


@given(st.text(max_size=300))
def test_any_text_is_read_or_refused(text: str) -> None:
    choice, refusal = _read(text)

    assert refusal is None or refusal.hint
    assert choice is None or (choice.count >= 1 and choice.gpu.total_bytes > 0)


@given(_GPUS, st.integers(min_value=1, max_value=4096), st.sampled_from([str.lower, str.upper, str.title]))
def test_every_product_answers_to_its_full_name(gpu: Gpu, count: int, spell: object) -> None:
    name = spell(gpu.name) if callable(spell) else gpu.name

    choice = find_gpu(f"{count}x {name}")

    assert (choice.gpu, choice.count) == (gpu, count)


@given(_GPUS)
def test_every_alias_leads_to_its_product_or_offers_it(gpu: Gpu) -> None:
    for alias in gpu.aliases:
        choice, refusal = _read(alias)

        assert choice is None or choice.gpu == gpu
        assert refusal is None or gpu.name in refusal.hint


def test_a_card_of_your_own_description() -> None:
    gpu = find_gpu("custom:24GiB@1008GB/s").gpu

    assert gpu.total_bytes == 24 * GIB
    assert gpu.total_basis is Basis.ASSUMED
    assert gpu.total_detail == "as given"
    assert gpu.bandwidth_bytes_per_s == 1008 * 10**9
    assert find_gpu("CUSTOM:24GB").gpu.total_bytes == 24 * 10**9
    assert find_gpu("custom:24GiB").gpu.bandwidth_bytes_per_s is None
    assert find_gpu("custom:24GiB").gpu.tflops("bf16") is None


@pytest.mark.parametrize(
    "asked",
    [
        "custom:",
        "custom:0GiB",
        "custom:24G",
        "custom:-24GiB",
        "custom:17TiB",
        "custom:" + "9" * 60 + "GiB",
        "custom:24GiB@",
        "custom:24GiB@1008GB",
        "custom:24GiB@0GB/s",
        "custom:24GiB@fast/s",
        "custom:24GiB@1GB/s@2GB/s",
    ],
)
def test_a_description_that_cannot_be_is_refused(asked: str) -> None:
    with pytest.raises(SizeError):
        find_gpu(asked)


def test_several_options_are_read_in_order() -> None:
    choices = find_gpus(["h100", "2x 4090"])

    assert [(choice.gpu.name, choice.count) for choice in choices] == [
        ("NVIDIA H100 SXM5 80GB", 1),
        ("NVIDIA GeForce RTX 4090", 2),
    ]


@pytest.mark.parametrize(
    ("nvml_name", "total_mib", "product"),
    [
        ("NVIDIA GeForce RTX 3080", 10240, "NVIDIA GeForce RTX 3080 10GB"),
        ("NVIDIA GeForce RTX 3080", 12288, "NVIDIA GeForce RTX 3080 12GB"),
        ("NVIDIA GeForce RTX 4060 Ti", 16380, "NVIDIA GeForce RTX 4060 Ti 16GB"),
        ("NVIDIA GeForce RTX 4090", 24564, "NVIDIA GeForce RTX 4090"),
        ("NVIDIA GeForce RTX 4090", 49140, "NVIDIA GeForce RTX 4090 48GB (modified)"),
        ("NVIDIA H100 80GB HBM3", 81559, "NVIDIA H100 SXM5 80GB"),
        ("NVIDIA A40", 46068, "NVIDIA A40"),
    ],
)
def test_nvml_names_lead_to_the_product_of_that_memory(nvml_name: str, total_mib: int, product: str) -> None:
    gpu = gpu_by_nvml_name(nvml_name, total_mib * MIB)

    assert gpu == find_gpu(product).gpu


def test_another_total_than_the_catalogue_s_replaces_it() -> None:
    """An RTX A6000 shows 49140 MiB, and 46068 once its ECC is switched on."""
    gpu = gpu_by_nvml_name("NVIDIA RTX A6000", 46068 * MIB)

    assert gpu.reported_bytes == 46068 * MIB
    assert gpu.torch_total_bytes is None
    assert gpu.total_bytes == 46068 * MIB - 330 * MIB - 46068 * MIB // 400
    assert gpu.total_basis is Basis.ASSUMED
    assert gpu.bandwidth_bytes_per_s == 768 * 10**9


def test_a_card_that_the_catalogue_lacks_is_what_nvml_said() -> None:
    gpu = gpu_by_nvml_name("NVIDIA RTX 9999 Prototype", 48 * GIB)

    assert (gpu.name, gpu.reported_bytes) == ("NVIDIA RTX 9999 Prototype", 48 * GIB)
    assert (gpu.bandwidth_bytes_per_s, gpu.tdp_w, gpu.compute_capability) == (None, None, None)
    assert gpu.dense_tflops == ()


@pytest.mark.parametrize(
    ("ram_gib", "product"),
    [
        (61.4, "NVIDIA Jetson AGX Orin 64GB"),
        (29.9, "NVIDIA Jetson AGX Orin 32GB"),
        (7.4, "NVIDIA Jetson Orin Nano 8GB Super"),
    ],
)
def test_jetsons_of_one_name_are_told_apart_by_the_machine_s_memory(ram_gib: float, product: str) -> None:
    ram_bytes = int(ram_gib * GIB)
    board = DetectedGpu(index=0, name="Orin (nvgpu)", assumed_total_bytes=ram_bytes, memory_note="the RAM")

    (choice,) = choices_on(Machine(driver_version=None, cuda_driver_version=None, gpus=(board,)))

    assert (choice.gpu.name, choice.gpu.total_bytes) == (product, ram_bytes)
    assert (choice.gpu.total_basis, choice.gpu.total_detail) == (Basis.ASSUMED, "the RAM")


def test_two_products_are_called_h20() -> None:
    with pytest.raises(UnknownGpuError) as caught:
        find_gpu("H20")

    assert "NVIDIA H20 96GB" in caught.value.hint
    assert "NVIDIA H20 141GB" in caught.value.hint
    assert gpu_by_nvml_name("NVIDIA H20", None).name == "NVIDIA H20 96GB"
