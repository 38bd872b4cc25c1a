"""The type of KV cache that a checkpoint asks for, and by whose scheme."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vram_planner.model_profiles.stored import nearest_object

if TYPE_CHECKING:
    from vram_planner.model_profiles.config import Config

_KV_ALGORITHMS: Final = {"fp8": "fp8", "nvfp4": "nvfp4"}
_EIGHT, _FOUR = 8, 4


def stored_kv_dtype(config: Config) -> str | None:
    """
    The type of KV cache that a checkpoint asks for: 'fp8' or 'nvfp4', None where it asks for none.

    ModelOpt names it in `kv_cache_quant_algo` or describes it in `kv_cache_scheme`, compressed-tensors has the
    latter. Source: vLLM utils/torch_utils.py, get_kv_cache_quant_algo_string.
    """
    quantisation = nearest_object(config, "quantization_config", "compression_config")
    if quantisation is None:
        return None
    scheme = quantisation.raw("kv_cache_scheme")
    if isinstance(scheme, dict):
        if scheme.get("type") != "float":
            return None
        bits = scheme.get("num_bits")
        return "fp8" if bits == _EIGHT else "nvfp4" if bits == _FOUR else None
    named = scheme or quantisation.raw("kv_cache_quant_algo")
    return _KV_ALGORITHMS.get(named.lower()) if isinstance(named, str) else None


def stored_kv_format(config: Config) -> str | None:
    """The tool whose scheme that is: 'modelopt' or 'compressed-tensors', None for any other."""
    quantisation = nearest_object(config, "quantization_config", "compression_config")
    method = quantisation.raw("quant_method") if quantisation is not None else None
    if not isinstance(method, str):
        return None
    return next((name for name in ("modelopt", "compressed-tensors") if method.startswith(name)), None)
