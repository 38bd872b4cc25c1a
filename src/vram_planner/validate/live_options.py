"""What a live run is asked beside the workload."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vram_planner.errors import RequestError
from vram_planner.validate.checked import DEFAULT_TOLERANCE
from vram_planner.validate.ramp import DEFAULT_HEADROOM

if TYPE_CHECKING:
    from vram_planner.validate.device_set import Gpus

MOST = {"cuda": 256, "cpu": 8}
PARALLEL = ("device_map", "tp", "each")


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveOptions:
    """
    What a live run is asked beside the workload.

    `gpu` is NVML's number, several as in (0, 1), or "all"; over several `parallel` "device_map" deals the layers out.
    `concurrency` None: ramp up to `most`. `step_limit_s` is the longest that one request to the child may
    take. `memory_limit_bytes` bounds what may be used of each device, by RLIMIT_AS too on the CPU. `save` keeps the
    calibration.
    """

    device: str = "cuda"
    gpu: Gpus = 0
    parallel: str = "device_map"
    concurrency: int | None = None
    random_weights: bool = False
    headroom: float = DEFAULT_HEADROOM
    tolerance: float = DEFAULT_TOLERANCE
    most: int | None = None
    ttft_s: float | None = None
    tpot_s: float | None = None
    step_limit_s: float = 300.0
    memory_limit_bytes: int | None = None
    save: bool = True

    def __post_init__(self) -> None:
        """Refuse what makes no sense before anything is started."""
        if self.device not in MOST:
            raise RequestError(f"no device is called {self.device[:20]!r}", hint="cuda or cpu")
        _check_parallel(self.parallel)
        if not 0 <= self.headroom < 1:
            raise RequestError(f"a head-room of {self.headroom} is no share", hint="as in 0.05")
        if self.concurrency is not None and self.concurrency < 1:
            raise RequestError(f"{self.concurrency} requests at once?", hint="1 or more, or auto")
        if self.most is not None and self.most < 1:
            raise RequestError(f"a ramp to {self.most}?", hint="1 or more")
        if self.tolerance <= 0 or self.step_limit_s <= 0:
            raise RequestError(
                "the tolerance and the time limit must be above zero", hint="as in 0.05 and 300"
            )


def _check_parallel(parallel: str) -> None:
    if parallel not in PARALLEL:
        raise RequestError(f"there is no --parallel {parallel[:20]!r}", hint=" or ".join(PARALLEL))
    if parallel == "tp":
        raise RequestError(
            "tensor parallelism cannot be validated live: the plan of transformers deals out whole layers, so there is "
            "no figure to hold it against",
            hint="--parallel device_map, or each; for tensor parallelism start vLLM or SGLang and use `validate server`",
        )
    if parallel == "each":
        raise RequestError("each GPU by itself is a run of its own", hint="call live_each")
