"""
vLLM: /version, /v1/models and the labels of `vllm:cache_config_info` on /metrics.

Sources: vllm 0.32.0, v1/metrics/loggers.py (log_metrics_info: every field of CacheConfig is a label),
entrypoints/openai (ModelCard.max_model_len, .root), entrypoints/serve (/version). The share of the cache in use was
`vllm:gpu_cache_usage_perc` in V0 and early V1, `vllm:kv_cache_usage_perc` since; `kv_cache_size_tokens` and
`kv_cache_max_concurrency` are labels of newer releases, the product of blocks and block size stands for them before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vram_planner.errors import ServerError
from vram_planner.validate.server_facts import (
    Gauges,
    ServerFacts,
    inner,
    number,
    only,
    release,
    text,
    whole,
)
from vram_planner.validate.server_metrics import Metrics, parse_metrics

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vram_planner.validate.server_http import Client

_INFO = "vllm:cache_config_info"
_USAGE = ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")
_NOT_TOLD = (
    (
        "its sizes of tensor and pipeline parallel, --max-num-seqs, --max-num-batched-tokens, --quantization, --dtype "
        "and --enforce-eager: say those that are not the defaults"
    ),
    "bytes of weights, activations and CUDA graphs: its start-up log has them (vram-plan validate log)",
)


class Vllm:
    """See `server_facts.Reader`."""

    name = "vllm"
    owner = "vllm"
    ignores_eos = True

    def marked(self, client: Client) -> bool:
        """Its metrics all begin with its name."""
        return any(sample.name.startswith("vllm:") for sample in _metrics(client).samples)

    def read(self, client: Client, models: tuple[Mapping[str, Any], ...]) -> ServerFacts:
        """See `Reader.read`. Raises ServerError where it serves no model."""
        base = next((row for row in models if not text(row.get("parent"))), None)
        if base is None or (name := text(base.get("id"))) is None:
            raise ServerError("it serves no model", hint="start it with one")
        metrics = _metrics(client)
        labels: Mapping[str, Any] = next((sample.labels for sample in metrics.named(_INFO)), {})
        version = release(inner({"": client.json_if_there("/version")}, "").get("version"))
        blocks, size = whole(labels.get("num_gpu_blocks")), whole(labels.get("block_size"))
        tokens = whole(labels.get("kv_cache_size_tokens"))
        if tokens is None and blocks is not None and size is not None:
            tokens = blocks * size
        pool = whole(labels.get("kv_cache_memory_bytes")) or whole(labels.get("cpu_kvcache_space_bytes"))
        context = whole(base.get("max_model_len"))
        return ServerFacts(
            engine=self.name,
            title="vLLM",
            version=version,
            model=name,
            source=text(base.get("root")) or name,
            context=context,
            kv_cache_tokens=tokens,
            num_blocks=blocks,
            block_size=size,
            max_concurrency=number(labels.get("kv_cache_max_concurrency"))
            or (tokens / context if tokens and context else None),
            kv_pool_bytes=pool,
            pinned=_pinned(labels, pool),
            options=_options(labels, _profile(version, metrics)),
            told=only(replicas=len(metrics.named(_INFO)) or None, **dict(labels)),
            not_told=_NOT_TOLD
            if labels
            else ("its cache: /metrics has no vllm:cache_config_info", *_NOT_TOLD),
        )

    def gauges(self, client: Client) -> Gauges:
        """See `Reader.gauges`."""
        found = _metrics(client)
        return Gauges(
            running=found.total("vllm:num_requests_running"),
            waiting=found.total("vllm:num_requests_waiting"),
            usage=found.most(*_USAGE),
            preemptions=found.total("vllm:num_preemptions_total"),
        )


def _metrics(client: Client) -> Metrics:
    return parse_metrics(client.text_if_there("/metrics") or "")


def _profile(version: str | None, metrics: Metrics) -> str | None:
    """Our name of the release; V0 alone counted the requests that were swapped out."""
    old = bool(metrics.named("vllm:num_requests_swapped"))
    return f"{version}+v0" if old and version else version


def _pinned(labels: Mapping[str, Any], pool: int | None) -> str | None:
    if whole(labels.get("num_gpu_blocks_override")) is not None:
        return "--num-gpu-blocks-override"
    return "--kv-cache-memory-bytes, or the CPU's space for the cache" if pool is not None else None


def _options(labels: Mapping[str, Any], version: str | None) -> dict[str, Any]:
    share = number(labels.get("gpu_memory_utilization"))
    kind = text(labels.get("cache_dtype"))
    return only(
        engine_version=version,
        gpu_memory_utilization=share if share and share <= 1 else None,
        block_size=whole(labels.get("block_size")),
        kv_dtype=None if kind == "auto" else kind,
    )
