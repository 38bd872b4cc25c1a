"""Walk every causal language model that the installed transformers knows, and compare our count with its module's."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from vram_planner.errors import NotInstalledError, PlannerError, UnsupportedArchitectureError
from vram_planner.model_profiles.from_config import architecture_from_config

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True, kw_only=True)
class Walked:
    """
    One entry of transformers' mapping: our parameters and bytes beside its module's on the meta device.

    `status` is "equal", "differs", "explained" (differs by what `detail` says that its module alone allocates),
    "refused" (by us, with the reason in `detail`), or "not built" (by transformers itself, with its own error).
    """

    model_type: str
    status: str
    ours: int | None = None
    theirs: int | None = None
    detail: str = ""


def walk_models(only: str | None = None) -> Iterator[Walked]:
    """
    Build each model of MODEL_FOR_CAUSAL_LM_MAPPING_NAMES from its default configuration on the meta device.

    `only` keeps the types that contain it. Raises NotInstalledError without torch and transformers.
    """
    try:
        torch: Any = import_module("torch")
        auto: Any = import_module("transformers.models.auto.modeling_auto")
        transformers: Any = import_module("transformers")
    except ImportError as error:
        raise NotInstalledError(
            f"this needs torch and transformers ({error})", hint="pip install 'vram-planner[validate]'"
        ) from error
    logging.getLogger("transformers").setLevel(logging.CRITICAL)
    for model_type in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        if only is None or only in model_type:
            yield _walk_one(torch, transformers, model_type)


def _walk_one(torch: Any, transformers: Any, model_type: str) -> Walked:
    try:
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")
            config = transformers.CONFIG_MAPPING[model_type]()
            module = transformers.AutoModelForCausalLM.from_config(config)
    except Exception as error:  # noqa: BLE001  reported as the row's "not built": that is the answer
        return Walked(
            model_type=model_type, status="not built", detail=f"{type(error).__name__}: {error}"[:160]
        )
    theirs = sum(parameter.numel() for parameter in module.parameters())
    try:
        model = architecture_from_config({"model_type": model_type, **config.to_dict()})
    except UnsupportedArchitectureError as error:
        return Walked(model_type=model_type, status="refused", theirs=theirs, detail=str(error))
    except PlannerError as error:
        return Walked(model_type=model_type, status="differs", theirs=theirs, detail=str(error))
    spare = theirs - model.parameters
    told = f"{spare:,} of transformers' are in no checkpoint" if 0 < spare == model.unstored else ""
    status = "explained" if told else "differs" if spare else "equal"
    return Walked(model_type=model_type, status=status, ours=model.parameters, theirs=theirs, detail=told)
