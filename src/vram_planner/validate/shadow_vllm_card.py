"""
The card that vLLM is to see where there is none: platform, torch.cuda, Triton's driver and kernels to be looked up.

Loaded by shadow_vllm_child in whichever Python has vllm, so nothing of ours is imported. vLLM 0.32 is what it was
written for: https://github.com/vllm-project/vllm/blob/v0.32.0/vllm/platforms/cuda.py, NonNvmlCudaPlatform.
"""

from __future__ import annotations

import sys
import types
from contextlib import suppress
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

# Kernels: looked up while modules are built, never called. A wheel for CPUs has none of them.
_KERNELS = (
    "vllm._C_stable_libtorch",
    "vllm._moe_C_stable_libtorch",
    "vllm._moe_C",
    "vllm.vllm_flash_attn._vllm_fa2_C",
    "vllm.vllm_flash_attn._vllm_fa3_C",
    "vllm._flashmla_C",
    "vllm._flashmla_extension_C",
)
_NAMESPACES = (
    "_C",
    "_moe_C",
    "_C_cache_ops",
    "_C_custom_ar",
    "_C_stable_libtorch",
    "_vllm_fa2_C",
    "_vllm_fa3_C",
    "_flashmla_C",
)
_LEFT_OUT = ("vllm.third_party.flashmla", "vllm.third_party.deep_gemm")
_LAMPORT = "vllm.model_executor.layers.minimax_rms_norm.lamport_workspace"
_FP4, _FP4_FROM = "fp4", 100
_SHARED_MEMORY = 232448
_MULTIPROCESSORS = 132
_MANY = 64


def pretend(torch: Any, card: Mapping[str, Any]) -> None:
    """Make vLLM find `card` (name, capability, total_bytes, multiprocessors); before anything of vllm is imported."""
    _pretend_kernels(torch, card["capability"][0] * 10 + card["capability"][1])
    _pretend_platform(torch, card)
    _pretend_device(torch, card)


class _Nothing:
    """A kernel that is there to be looked up: a call of it gives None, an attribute is another one."""

    def __call__(self, *_: Any, **__: Any) -> None:
        return None

    def __getattr__(self, name: str) -> _Nothing:
        if name.startswith("__"):
            raise AttributeError(name)
        return self


class _Idle(_Nothing):
    """A stream or an event of no device."""

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()


class _LeftOut(MetaPathFinder, Loader):
    """Packages that only a CUDA wheel carries, as modules in which every name is nothing."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:  # noqa: ARG002
        """Stand in for what is named in _LEFT_OUT."""
        return ModuleSpec(fullname, self, is_package=True) if fullname.startswith(_LEFT_OUT) else None

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        """A module that has every name."""
        return _empty(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing to run."""


def _empty(name: str) -> types.ModuleType:
    def attribute(wanted: str) -> Any:
        if wanted.startswith("__"):
            raise AttributeError(wanted)
        return type(wanted, (_Nothing,), {}) if wanted[0].isupper() else _Nothing()

    module = types.ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    vars(module)["__getattr__"] = attribute
    return module


def _pretend_kernels(torch: Any, capability: int) -> None:
    """Let every kernel be found: those that are missing as nothing."""
    for name in _KERNELS:
        if not _in_wheel(name):
            sys.modules[name] = types.ModuleType(name)
            sys.modules[name].__spec__ = ModuleSpec(name, None)
    sys.meta_path.append(_LeftOut())
    if not _is_there("cuda"):  # the package cuda-python
        sys.modules[_LAMPORT] = _empty(_LAMPORT)
    _find_every_kernel()
    for name in ("scaled_mm_supports_fp8", "scaled_mm_supports_block_fp8", "scaled_mm_supports_fp4"):
        supported = capability >= _FP4_FROM if _FP4 in name else True
        setattr(torch.ops._C, f"cutlass_{name}", always(supported))  # noqa: SLF001
    torch.ops._C.cutlass_group_gemm_supported = always(value=True)  # noqa: SLF001
    register = torch.library.register_fake

    def register_known(op: Any, *args: Any, **kwargs: Any) -> Any:
        known = register(op, *args, **kwargs)
        if args:
            return known

        def decorate(function: Any) -> Any:
            with suppress(RuntimeError, AttributeError, ValueError):
                return known(function)
            return function

        return decorate

    torch.library.register_fake = register_known


def _find_every_kernel() -> None:
    """torch.ops gives a kernel that is not registered as nothing, in vLLM's namespaces."""
    namespace: Any = import_module("torch._ops")._OpNamespace  # noqa: SLF001  the one door of torch.ops
    look_up = namespace.__getattr__

    def found(self: Any, name: str) -> Any:
        try:
            return look_up(self, name)
        except AttributeError:
            if self.name not in _NAMESPACES or name.startswith("__"):
                raise
            return _Nothing()

    namespace.__getattr__ = found


def _in_wheel(name: str) -> bool:
    """Whether vllm carries this module; looked up by file, as importing it would import what is above it."""
    spec = find_spec("vllm")
    found = spec.submodule_search_locations if spec is not None else None
    inner = Path(*name.split(".")[1:])
    return any(any((Path(root) / inner.parent).glob(f"{inner.name}*")) for root in found or ())


def _is_there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _pretend_platform(torch: Any, card: Mapping[str, Any]) -> None:
    """The CUDA platform of vLLM with this card; NVML is not asked."""
    platforms: Any = import_module("vllm.platforms")
    base: Any = import_module("vllm.platforms.cuda").NonNvmlCudaPlatform
    capability = import_module("vllm.platforms.interface").DeviceCapability(*card["capability"])
    answers: dict[str, Any] = {
        "get_device_capability": capability,
        "get_device_name": card["name"],
        "get_device_uuid": "GPU-pretended",
        "get_device_total_memory": card["total_bytes"],
        "is_fully_connected": True,
        "num_compute_units": card["multiprocessors"] or _MULTIPROCESSORS,
        "is_pin_memory_available": False,
        "import_kernels": None,
        "device_count": _MANY,
        "get_cuda_runtime_major": 13,
        "is_integrated_gpu": False,
        "manual_seed_all": None,
        "set_device": None,
        "current_device": torch.device("meta"),
        "get_device_communicator_cls": (
            "vllm.distributed.device_communicators.base_device_communicator.DeviceCommunicatorBase"
        ),
    }
    methods = {name: classmethod(always(value)) for name, value in answers.items()}
    platforms._current_platform = type("PretendedCuda", (base,), methods)()  # noqa: SLF001  what vLLM itself sets
    platforms.vllm_version_matches_substr = lambda _: False
    registry: Any = import_module("vllm.model_executor.models.registry")
    # vLLM looks at a model's class in a process of its own, which would not have the pretended platform.
    registry._run_in_subprocess = lambda function: function()  # noqa: SLF001
    lazy = registry._LazyRegisteredModel  # noqa: SLF001
    lazy._load_modelinfo_from_cache = always(None)  # noqa: SLF001
    lazy._save_modelinfo_to_cache = always(None)  # noqa: SLF001


def always(value: Any) -> Callable[..., Any]:
    """A function of anything that gives `value`."""
    return lambda *_, **__: value


def _pretend_device(torch: Any, card: Mapping[str, Any]) -> None:
    """torch.cuda's and Triton's questions about the device, answered."""
    major, minor = card["capability"]
    properties = types.SimpleNamespace(
        name=card["name"],
        major=major,
        minor=minor,
        total_memory=card["total_bytes"],
        multi_processor_count=card["multiprocessors"] or _MULTIPROCESSORS,
        shared_memory_per_block_optin=_SHARED_MEMORY,
        warp_size=32,
        L2_cache_size=50 << 20,
    )
    answers: dict[str, Any] = {
        "get_device_properties": properties,
        "get_device_capability": (major, minor),
        "get_device_name": card["name"],
        "current_device": 0,
        "device_count": _MANY,
        "current_stream": _Idle(),
        "is_current_stream_capturing": False,
        "_lazy_init": None,
    }
    for name, value in answers.items():
        setattr(torch.cuda, name, always(value))
    torch.cuda.Stream = torch.cuda.Event = _Idle
    for name in ("current_device_index", "current_device_idx"):
        setattr(torch.accelerator, name, always(0))
    torch.accelerator.device_count = always(_MANY)
    torch.accelerator.current_accelerator = always(torch.device("cuda"))
    if not _is_there("triton"):
        return
    limits = {
        "max_shared_mem": _SHARED_MEMORY,
        "multiprocessor_count": _MULTIPROCESSORS,
        "warpSize": 32,
        "max_num_regs": 65536,
    }
    driver = types.SimpleNamespace(
        get_current_target=always(
            types.SimpleNamespace(backend="cuda", arch=major * 10 + minor, warp_size=32)
        ),
        get_current_device=always(0),
        get_active_torch_device=always(torch.device("cpu")),
        get_benchmarker=always(always(0)),
        is_active=always(value=True),
        utils=types.SimpleNamespace(get_device_properties=always(limits)),
    )
    import_module("triton.runtime").driver.set_active(driver)
