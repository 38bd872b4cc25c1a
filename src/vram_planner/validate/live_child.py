"""The measuring process: started by `live_run`, asked in JSON lines, and free to die."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import threading
import time
from contextlib import ExitStack, suppress
from importlib import import_module
from typing import IO, TYPE_CHECKING, Any

from vram_planner.errors import PlannerError
from vram_planner.validate.faults import CannotMeasureError
from vram_planner.validate.measure import limit_address_space, meter_for
from vram_planner.validate.packages import torch_and_transformers
from vram_planner.validate.passes import (
    Generation,
    build_model,
    build_spread,
    bytes_held,
    bytes_held_by_card,
    layer_devices,
    make_config,
    module_bytes,
)

if TYPE_CHECKING:
    from collections.abc import Callable

_FILL_CHUNK = 512
_TIMED_TOKENS = 4
_PARENT_S = 0.5
_NO_ROOM = ("out of memory", "can't allocate memory", "cannot allocate memory", "bad_alloc")
# What oneDNN says where the pages of a kernel that it compiles, or its scratch pad, are refused: the status that told
# so is lost (wrap_c_api, https://github.com/uxlfoundation/oneDNN/blob/main/include/oneapi/dnnl/dnnl.hpp). Only in a
# process with a limit of its own is it taken so: else it may be a kernel that there is not.
_NO_ROOM_UNDER_A_LIMIT = ("could not create a primitive", "could not execute a primitive")


class Servant:
    """Holds the model between requests. Every answer has "ok", or "error" with its kind."""

    def __init__(self) -> None:
        self._torch: Any = None
        self._transformers: Any = None
        self._model: Any = None
        self._device, self._cards = "cpu", 1
        self._meter: Any = None
        self._walk: Any = None
        self._session = ExitStack()
        self._found: dict[str, Any] = {}
        self._limited = False
        self._cache_bytes = 0
        self._cache_by_card: list[int] = []

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """One request; only what is not memory and not the weights' fault is let out as a traceback's last line."""
        action: Callable[..., dict[str, Any]] = getattr(self, f"_do_{request.pop('do')}")
        try:
            return {"ok": True, **action(**request)}
        except PlannerError as error:
            return {"error": "refused", "message": str(error), "hint": error.hint}
        except (MemoryError, RuntimeError) as error:
            if not (_is_no_room(error) or (self._limited and _says(error, _NO_ROOM_UNDER_A_LIMIT))):
                raise
            message = str(error).splitlines()[0][:300] if str(error) else "MemoryError"
        # The traceback held the tensors of the failed pass; it is gone by now.
        self._clean_up()
        return {"error": "no room", "message": message}

    def _do_open(
        self, *, device: str, config: dict[str, Any], seed: int = 0, cards: int = 1
    ) -> dict[str, Any]:
        self._torch, self._transformers = torch_and_transformers()
        torch, self._device, self._cards = self._torch, device, cards
        if device == "cuda":
            _check_cuda(torch, cards)
        torch.manual_seed(seed)
        torch.set_grad_enabled(False)
        self._load_code(config)
        self._meter = meter_for(torch, device, cards)
        self._meter.open()
        limits = {"card_limit_bytes": self._meter.card_limit_bytes()} if cards > 1 else {}
        return {
            **self._reading(),
            **limits,
            "torch": torch.__version__,
            "transformers": self._transformers.__version__,
            "limit_bytes": self._meter.limit_bytes(),
        }

    def _load_code(self, config: dict[str, Any]) -> None:
        """What loading a model imports, so that its bytes do not count as the weights'."""
        values = make_config(self._transformers, config)
        import_module("transformers.models.auto.modeling_auto").MODEL_FOR_CAUSAL_LM_MAPPING.get(
            type(values), None
        )
        for name in ("accelerate", "safetensors.torch"):
            import_module(name)

    def _do_load(
        self,
        *,
        config: dict[str, Any],
        dtype: str,
        attn: str,
        weights: str | None,
        max_memory: list[int] | None = None,
    ) -> dict[str, Any]:
        torch = self._torch
        kind = getattr(torch, dtype)
        placed: dict[str, Any] = {"device_map": self._device}
        if max_memory is not None:
            placed = {"device_map": "auto", "max_memory": dict(enumerate(max_memory))}
        started = time.monotonic()
        with self._meter.session() as found, self._meter.phase("load"):
            if weights is not None:
                self._model = self._from_files(weights, kind, attn, placed)
            elif max_memory is None:
                values = make_config(self._transformers, config)
                self._meter.make_room(lambda: build_model(self._transformers, values, dtype=kind, attn=attn))
                with torch.device(self._device):
                    self._model = build_model(self._transformers, values, dtype=kind, attn=attn)
            else:
                values = make_config(self._transformers, config)
                self._model = build_spread(
                    torch, self._transformers, values, dtype=kind, attn=attn, max_memory=placed["max_memory"]
                )
            self._touch()
            gc.collect()
            self._meter.settle()
        spread = {} if max_memory is None else {"layers": layer_devices(torch, self._model)}
        return {
            **found["load"].to_dict(),
            **spread,
            "seconds": time.monotonic() - started,
            "module_bytes": module_bytes(self._model),
        }

    def _from_files(self, weights: str, dtype: Any, attn: str, placed: dict[str, Any]) -> Any:
        """The model with its stored weights; whatever the reader of the files raises is the files' fault."""
        try:
            model = self._transformers.AutoModelForCausalLM.from_pretrained(
                weights,
                dtype=dtype,
                attn_implementation=attn,
                local_files_only=True,
                **placed,
            )
        except Exception as error:  # torch, safetensors and pickle raise what they like at a bad file
            if _is_no_room(error):
                raise
            raise PlannerError(
                f"the weights of {weights} cannot be loaded: {type(error).__name__}: {str(error)[:200]}",
                hint="get the files again, or use --random-weights",
            ) from error
        return model.eval()

    def _touch(self) -> None:
        """Read every weight once: a file that is only mapped is not in memory yet."""
        for parameter in self._model.parameters():
            if parameter.device.type != "meta":  # left to the CPU or the disk, which is told by `layers`
                parameter.sum()

    def _do_limit(self, *, more_bytes: int) -> dict[str, Any]:
        limit_address_space(more_bytes)
        self._limited = True
        return {}

    def _do_prefill(self, *, batch: int, context: int, prompt: int) -> dict[str, Any]:  # noqa: ARG002  as for all
        """The prompt. The allocator keeps what it reserved until the next stage, for the parent to see."""
        self._abandon()
        self._walk = Generation(self._torch, self._model, batch=batch, device=self._device)
        self._found = self._session.enter_context(self._meter.session(module_bytes(self._model)))
        with self._meter.phase("prefill"):
            self._walk.forward(prompt)
        return {}

    def _do_decode(self, *, batch: int, context: int, prompt: int) -> dict[str, Any]:  # noqa: ARG002  as for all
        """Up to the full context, and the last step."""
        left = context - prompt
        if left > 1:
            self._walk.fill(left - 2, _FILL_CHUNK)
            self._walk.forward(1)
        gc.collect()
        if left > 0:
            with self._meter.phase("decode"):
                self._walk.sample(self._walk.forward(1))
        return {}

    def _do_kv(self, *, batch: int, context: int, prompt: int) -> dict[str, Any]:  # noqa: ARG002  as for all
        """The full cache and nothing else."""
        gc.collect()
        with self._meter.phase("kv"):
            self._cache_bytes = bytes_held(self._torch, self._walk.cache)
            self._cache_by_card = bytes_held_by_card(self._torch, self._walk.cache, self._cards)
        return {}

    def _do_told(self) -> dict[str, Any]:
        """What the stages were; the profiler tells when its session is over."""
        self._session.close()
        told = {name: reading.to_dict() for name, reading in self._found.items()}
        for card, n_bytes in zip(told["kv"].get("cards", ()), self._cache_by_card, strict=False):
            card["cache_bytes"] = n_bytes
        self._clean_up()
        return {"decode": told["prefill"], **told, "kv": {**told["kv"], "cache_bytes": self._cache_bytes}}

    def _do_step(self, *, batch: int, context: int, prompt: int) -> dict[str, Any]:
        """One batch of the ramp: its memory at the worst moment, and its two latencies."""
        walk = Generation(self._torch, self._model, batch=batch, device=self._device)
        self._meter.mark_peak()
        started = time.perf_counter()
        walk.sample(walk.forward(prompt))
        self._meter.synchronize()
        ttft_s = time.perf_counter() - started
        count = min(_TIMED_TOKENS, context - prompt)
        walk.fill(context - prompt - count, _FILL_CHUNK)
        started = time.perf_counter()
        for _ in range(count):
            walk.sample(walk.forward(1))
        self._meter.synchronize()
        tpot_s = (time.perf_counter() - started) / count if count else None
        found = self._reading()
        walk.drop()
        self._clean_up()
        return {**found, "ttft_s": ttft_s, "tpot_s": tpot_s}

    def _reading(self) -> dict[str, Any]:
        found: dict[str, Any] = self._meter.read().to_dict()
        return found

    def _abandon(self) -> None:
        """Let go of a generation that was not told, or that failed amid a stage, and of what its session saw."""
        if self._walk is not None:
            self._walk.drop()
        self._walk = None
        with suppress(MemoryError, RuntimeError):  # a profiler that gathers its events takes memory too
            self._session.close()

    def _clean_up(self) -> None:
        self._abandon()
        gc.collect()
        with suppress(RuntimeError):
            self._meter.settle()


def _check_cuda(torch: Any, cards: int) -> None:
    if not torch.cuda.is_available():
        raise CannotMeasureError(
            f"torch {torch.__version__} sees no CUDA device",
            hint="install a CUDA build of torch that this driver supports, or use --device cpu",
        )
    if torch.cuda.device_count() < cards:
        raise CannotMeasureError(
            f"torch {torch.__version__} sees {torch.cuda.device_count()} of the {cards} GPUs",
            hint="choose those that it sees with --gpu, or validate each by itself with --parallel each",
        )


def _is_no_room(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or _says(error, _NO_ROOM)


def _says(error: BaseException, words: tuple[str, ...]) -> bool:
    text = str(error).lower()
    return any(each in text for each in words)


def _end_with(parent: int) -> None:
    """Whoever started us may be killed amid a pass: nobody waits for its answer, and the device is wanted."""
    while os.getppid() == parent:
        time.sleep(_PARENT_S)
    os.kill(os.getpid(), signal.SIGKILL)


def _private_stdout() -> IO[bytes]:
    """The pipe to the parent, out of reach of what libraries print."""
    pipe = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return pipe


def main() -> None:
    """Answer requests until the parent closes its end."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    pipe = _private_stdout()
    servant = Servant()
    for line in sys.stdin.buffer:
        reply = servant.answer(json.loads(line))
        pipe.write(json.dumps(reply).encode() + b"\n")
        pipe.flush()


if __name__ == "__main__":
    main()
