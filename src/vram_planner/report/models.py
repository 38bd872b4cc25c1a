"""One model explained: what it is made of and what that costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from vram_planner.architecture.parallel import valid_tp
from vram_planner.units import format_count, format_gib

if TYPE_CHECKING:
    from vram_planner.architecture.model import Architecture
    from vram_planner.model_profiles.resolve import ModelProfile


def explain_model(profile: ModelProfile) -> str:
    """Name, source, counts, layers by kind, cache by kind."""
    model = profile.architecture
    head = [
        ["model", profile.name + (f" ({profile.alias_of})" if profile.alias_of else "")],
        ["family", model.model_type],
        ["configuration", f"{profile.source} ({profile.provenance})"],
        ["parameters", f"{model.parameters:,} ({format_count(model.parameters)})"],
        ["active", f"{model.active_parameters:,} ({format_count(model.active_parameters)})"],
        [
            "stored as",
            f"{model.precision.name}: {model.weights_bytes():,} B, {format_gib(model.weights_bytes())} GiB",
        ],
        ["note", profile.note],
        ["context", f"{model.max_context:,} tokens" if model.max_context else "not stated"],
        [
            "can be cut",
            f"tensor parallel {', '.join(map(str, valid_tp(model)))}; pipeline up to {len(model.layers)} stages",
        ],
        [
            "draft layers",
            f"{sum(weight.elements for weight in model.draft_layers):,} parameters, not loaded"
            if model.draft_layers
            else "",
        ],
    ]
    layers, caches = _layers_and_caches(model)
    return "\n\n".join(
        (
            tabulate([row for row in head if row[1]], tablefmt="plain", disable_numparse=True),
            tabulate(
                layers,
                headers=["layers", "attention", "heads", "feed-forward", "parameters each"],
                tablefmt="plain",
                disable_numparse=True,
            ),
            tabulate(
                caches,
                headers=["layers", "KV heads", "key", "value", "keeps tokens", "elements a token"],
                tablefmt="plain",
                disable_numparse=True,
            ),
        )
    )


def _layers_and_caches(model: Architecture) -> tuple[list[list[Any]], list[list[Any]]]:
    layers = [
        [
            count,
            type(layer.mixer).__name__,
            layer.mixer.n_heads,
            type(layer.feed_forward).__name__,
            f"{layer.parameters:,}",
        ]
        for layer, count in model.groups
    ]
    caches = [
        [
            count,
            "latent" if cache.latent else cache.n_heads,
            cache.key_dim,
            cache.value_dim,
            cache.window or "all",
            cache.elements_per_token(),
        ]
        for cache, count in model.caches
    ]
    return layers, caches
