"""
llama.cpp's shadow: its library lays a model out without allocating it, in a process of its own, beside the plan.

A build with a GPU backend on a machine with a GPU answers for that GPU; any other answers for the CPU, where tensors
and cache have the same bytes and the compute buffer has not.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vram_planner.errors import RequestError
from vram_planner.planning.estimate import estimate
from vram_planner.planning.request import PlanRequest
from vram_planner.units import round_up
from vram_planner.validate.checked import Checked
from vram_planner.validate.child import Child
from vram_planner.validate.faults import CannotMeasureError, ChildError
from vram_planner.validate.packages import versions_of
from vram_planner.validate.shadow_asked import Count, EngineShadow, asked_of, whole

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vram_planner.planning.plan import MemoryPlan

_SCRIPT = Path(__file__).with_name("shadow_llama_cpp_child.py")
_OF = "llama.cpp"
_CELLS = 256
_BATCH = 2048
# enum ggml_type, ggml/include/ggml.h
_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "iq4_nl": 20, "bf16": 30}
NOT_COVERED = (
    "the CUDA context, cuBLAS work space and what kernels take from ggml's pool while they run",
    "several cards, -ngl, --n-cpu-moe, mmproj, draft models, the prompt cache",
    "the file's data: its header alone is read",
)
_CPU_ONLY = (
    "no GPU was seen: the compute buffer is the CPU backend's, which CUDA's is not, and is not judged; CUDA also pads "
    "quantised rows that are no multiple of 512 elements, which is in the plan and not in this answer"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaCppShadowOptions:
    """
    The workload, as in PlanRequest, and where to ask: a `library`, or the `python` that has a package with one.

    `gpu` is the one card to recommend for.
    """

    ctx: int | str = 4096
    concurrency: int = 1
    prompt_tokens: int | None = None
    kv_dtype: str = "auto"
    ubatch: int | None = None
    flash_attn: bool | None = None
    gpu: str | None = None
    offline: bool = False
    python: str | None = None
    library: str | None = None
    time_limit_s: float = 300.0

    def planned(self) -> dict[str, Any]:
        """What a PlanRequest takes of it."""
        ours = ("python", "library", "time_limit_s")
        return {name: getattr(self, name) for name in self.__slots__ if name not in ours}


def shadow_llama_cpp(
    model: str, asked: LlamaCppShadowOptions, *, tolerance: float, tell: Callable[[str], None]
) -> EngineShadow:
    """
    Ask llama.cpp and compare: tensors, cache and, where it has a GPU, the compute buffer.

    `model` is a .gguf file; its header is enough. Raises RequestError for anything else, CannotMeasureError or
    ChildError (status 4) where no library answers, and the PlannerError of a plan that cannot be made.
    """
    started = time.monotonic()
    file = Path(model).expanduser()
    if file.suffix.lower() != ".gguf" or not file.is_file():
        raise RequestError(
            f"llama.cpp's shadow needs a .gguf file, and {model[:80]!r} is none",
            hint="name the file; for a model by name use --engine vllm or transformers",
        )
    tell("planning")
    options = {**asked.planned(), "model": model, "engine": "llama.cpp", "calibration": False}
    plan = estimate(PlanRequest.of(**{**options, "gpu": asked.gpu or "none"}))
    if plan.gpu is not None and plan.gpu.count > 1:
        raise RequestError("the shadow of llama.cpp is of one card", hint="name one: --gpu 'RTX 4090'")
    tell("asking llama.cpp")
    with Child(_command(asked)) as child:
        answer = asked_of(
            child,
            {
                "library": None if asked.library is None else str(Path(asked.library).expanduser().resolve()),
                "file": str(file.resolve()),
                "context": _context(plan),
                "offload": True,
            },
            limit_s=asked.time_limit_s,
            of=_OF,
        )
    rows, counts, on_gpu = compare(plan, answer)
    return EngineShadow(
        model=plan.model.name,
        engine="llama.cpp",
        versions={
            "library": str(answer.get("package") or answer.get("library")),
            **versions_of("vram-planner"),
        },
        request={name: plan.request[name] for name in ("ctx", "concurrency", "ubatch", "type_k", "type_v")},
        where="its GPU backend" if on_gpu else "its CPU backend",
        rows=rows,
        counts=counts,
        answer=answer,
        notes=(*(() if on_gpu else (_CPU_ONLY,)), *plan.warnings),
        not_covered=NOT_COVERED,
        tolerance=tolerance,
        seconds=round(time.monotonic() - started, 3),
        plan=plan,
    )


def compare(
    plan: MemoryPlan, answer: Mapping[str, Any]
) -> tuple[tuple[Checked, ...], tuple[Count, ...], bool]:
    """On a GPU each buffer of it; on the CPU all tensors and the cache, and the compute buffer unjudged."""
    buffers = _buffers(answer)
    on_gpu = {name: row for name, row in buffers.items() if not name.startswith("CPU") and "Host" not in name}
    held = on_gpu or buffers
    planned = {part.name: part.n_bytes for part in plan.parts}
    sums = {kind: sum(row[kind] for row in held.values()) for kind in ("model", "context", "compute")}
    where = " + ".join(held)
    facts = plan.model
    tensors = facts.architecture.weights_bytes(facts.precision)
    rows = (
        Checked(
            name="weights",
            planned_bytes=planned["weights"] if on_gpu else tensors,
            measured_bytes=sums["model"],
            how=f"tensors laid out on {where}" + ("" if on_gpu else "; the plan's whole file"),
        ),
        Checked(
            name="kv_cache",
            planned_bytes=planned.get("kv_cache", 0) + planned.get("recurrent_state", 0),
            measured_bytes=sums["context"],
            how=f"cache and states laid out on {where}",
        ),
        Checked(
            name="compute_buffer",
            planned_bytes=planned["compute_buffer"],
            measured_bytes=sums["compute"],
            how=f"graph laid out on {where}",
            judged=bool(on_gpu),
        ),
    )
    cells = Count(
        name="n_ctx",
        planned=_int(plan.request["slots"]) * round_up(_int(plan.request["ctx"]), _CELLS),
        measured=whole(answer, "n_ctx", of=_OF),
    )
    return rows, (cells,), bool(on_gpu)


def _buffers(answer: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    found = answer.get("buffers")
    if not isinstance(found, dict) or not found:
        raise ChildError("llama.cpp answered no buffers", hint="try another release of it")
    return {
        str(name): {kind: whole(row, kind, of=_OF) for kind in ("model", "context", "compute")}
        for name, row in found.items()
    }


def _context(plan: MemoryPlan) -> dict[str, int]:
    """llama_context_params of the plan: all slots' cells together."""
    request = plan.request
    types = {}
    for name in ("type_k", "type_v"):
        kind = str(request[name])
        if kind not in _TYPES:
            raise CannotMeasureError(
                f"no ggml type is called {kind!r}", hint=f"--kv-dtype {', '.join(_TYPES)}"
            )
        types[name] = _TYPES[kind]
    slots, ubatch = _int(request["slots"]), _int(request["ubatch"])
    return {
        "n_ctx": slots * round_up(_int(request["ctx"]), _CELLS),
        "n_batch": max(_BATCH, ubatch),
        "n_ubatch": ubatch,
        "n_seq_max": slots,
        "flash_attn_type": 1 if request["flash_attn"] else 0,
        **types,
    }


def _int(value: object) -> int:
    return value if isinstance(value, int) else 0


def _command(asked: LlamaCppShadowOptions) -> tuple[str, ...]:
    if asked.library is not None and not Path(asked.library).expanduser().is_file():
        raise RequestError(
            f"--library {asked.library!r} is no file", hint="as in --library /opt/llama.cpp/libllama.so"
        )
    if asked.python is None:
        return sys.executable, str(_SCRIPT)
    found = shutil.which(os.fspath(asked.python))
    if found is None:
        raise RequestError(
            f"--python {asked.python!r} is no program", hint="as in --python /opt/llm/bin/python"
        )
    return found, str(_SCRIPT)
