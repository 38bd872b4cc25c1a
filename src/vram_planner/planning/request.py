"""One frozen request holds every option; what is not asked is None and left to the engine."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from vram_planner.errors import RequestError
from vram_planner.units import parse_size, parse_tokens

DEFAULT_ENGINE = "vllm"
_MOST_TOKENS = 1 << 27
_MOST_REQUESTS = 10**6
_MOST_GPUS = 1 << 16


class _Range(NamedTuple):
    least: int
    most: int


_RANGES = {
    "ctx": _Range(1, _MOST_TOKENS),
    "concurrency": _Range(1, _MOST_REQUESTS),
    "prompt_tokens": _Range(1, _MOST_TOKENS),
    "gpu_count": _Range(1, _MOST_GPUS),
    "tp": _Range(1, _MOST_GPUS),
    "pp": _Range(1, _MOST_GPUS),
    "dp": _Range(1, _MOST_GPUS),
    "max_num_seqs": _Range(1, _MOST_REQUESTS),
    "max_num_batched_tokens": _Range(1, _MOST_TOKENS),
    "block_size": _Range(1, 1 << 16),
    "ubatch": _Range(1, 1 << 20),
    "slots": _Range(1, _MOST_REQUESTS),
    "ngl": _Range(0, 1 << 16),
    "n_cpu_moe": _Range(0, 1 << 16),
    "max_loras": _Range(0, 1 << 12),
    "max_lora_rank": _Range(1, 512),
    "speculative_tokens": _Range(1, 1 << 10),
    "cpu_offload": _Range(0, 1 << 50),
    "cache_ram": _Range(0, 1 << 50),
    "ctx_checkpoints": _Range(0, 1 << 16),
    "kv_cache_memory": _Range(1, 1 << 50),
    "decode_context_parallel_size": _Range(1, _MOST_GPUS),
}
_NAMES = ("model", "engine", "kv_dtype", "dtype")
_OPTIONAL_NAMES = (
    "engine_version",
    "gpu",
    "quant",
    "attn",
    "cache",
    "logits",
    "split_mode",
    "tensor_split",
    "override_tensor",
    "speculative",
    "draft_model",
    "mmproj",
)
_READ = {
    "ctx": parse_tokens,
    "prompt_tokens": parse_tokens,
    "max_num_batched_tokens": parse_tokens,
    "cpu_offload": parse_size,
    "cache_ram": parse_size,
    "kv_cache_memory": parse_size,
}
_ATTENTION = ("sdpa", "eager", "flash_attention_2")


# Not a pydantic model: building one costs half of the time that the plain command has (benchmarks/cold_start.py).
@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRequest:
    """
    What a user asks. Keywords are the command's options with underscores.

    `ctx` is prompt + generated tokens of one request, `concurrency` the requests in flight. Token counts
    may be given as text ('32K'), and sizes ('8GiB'). Raises RequestError or SizeError for what cannot be meant.
    """

    model: str
    ctx: int
    concurrency: int
    prompt_tokens: int | None = None
    engine: str = DEFAULT_ENGINE
    engine_version: str | None = None
    gpu: str | None = None
    gpu_count: int | None = None
    tp: int | None = None
    pp: int | None = None
    dp: int | None = None
    ep: bool = False
    dp_attention: bool = False
    dtype: str = "auto"
    quant: str | None = None
    kv_dtype: str = "auto"
    gpu_memory_utilization: float | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    block_size: int | None = None
    ubatch: int | None = None
    flash_attn: bool | None = None
    slots: int | None = None
    ngl: int | None = None
    n_cpu_moe: int | None = None
    cpu_moe: bool | None = None
    override_tensor: str | None = None
    cache_ram: int | None = None
    ctx_checkpoints: int | None = None
    kv_unified: bool | None = None
    swa_full: bool | None = None
    kv_offload: bool | None = None
    split_mode: str | None = None
    tensor_split: str | None = None
    enforce_eager: bool = False
    attn: str | None = None
    cache: str | None = None
    logits: str | None = None
    padded: bool | None = None
    offload: bool | None = None
    max_loras: int | None = None
    max_lora_rank: int | None = None
    fully_sharded_loras: bool = False
    prefix_caching: bool | None = None
    speculative: str | None = None
    speculative_tokens: int | None = None
    acceptance: float | None = None
    prefix_hit: float | None = None
    draft_model: str | None = None
    cpu_offload: int | None = None
    kv_cache_memory: int | None = None
    decode_context_parallel_size: int | None = None
    mmproj: str | None = None
    mmproj_offload: bool | None = None
    offline: bool = False
    calibration: bool = True

    def __post_init__(self) -> None:
        """Read token counts and sizes, then check every range."""
        for name, read in _READ.items():
            value = getattr(self, name)
            if isinstance(value, str):
                object.__setattr__(self, name, read(value))
        for name, allowed in _RANGES.items():
            _check_range(name, getattr(self, name), allowed)
        for name in (*_NAMES, *_OPTIONAL_NAMES):
            value = getattr(self, name)
            given = isinstance(value, str) and value.strip()
            if not given and not (value is None and name in _OPTIONAL_NAMES):
                raise RequestError(f"{_flag(name)} needs a name", hint="see vram-plan --help")
        share = self.gpu_memory_utilization
        if share is not None and not (
            isinstance(share, int | float) and share is not True and 0 < share <= 1
        ):
            raise RequestError(
                f"--gpu-memory-utilization {share} is no share of a card", hint="between 0 and 1, as in 0.9"
            )
        self._check_traffic()
        if self.attn is not None and self.attn not in _ATTENTION:
            raise RequestError(
                f"no attention is called {self.attn!r}", hint=f"one of {', '.join(_ATTENTION)}"
            )
        if self.prompt_tokens is not None and self.prompt_tokens > self.ctx:
            raise RequestError(
                f"a prompt of {self.prompt_tokens:,} tokens is longer than the context of {self.ctx:,}",
                hint="--prompt-tokens counts as part of --ctx",
            )

    def _check_traffic(self) -> None:
        """Shares of guesses accepted and of prompts found again."""
        for name, most, words in (
            ("acceptance", 1.0, "0.7: seven of ten guesses"),
            ("prefix_hit", 0.99, "0.5: half of each prompt"),
        ):
            share = getattr(self, name)
            if share is None:
                continue
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= most:
                raise RequestError(
                    f"{_flag(name)} {str(share)[:40]} is no share", hint=f"0 to {most:g}, as in {words}"
                )
        if self.acceptance is not None and self.speculative is None and self.draft_model is None:
            raise RequestError(
                "--acceptance says nothing without drafting", hint="--speculative mtp, ngram, draft:MODEL"
            )

    @property
    def prompt(self) -> int:
        """Tokens of the prompt: as asked, else half of the context."""
        return self.prompt_tokens if self.prompt_tokens is not None else max(1, self.ctx // 2)

    @classmethod
    def of(cls, **options: Any) -> PlanRequest:
        """Build a request; an unknown option is refused with the nearest known one."""
        known = [field.name for field in fields(cls)]
        for name in options:
            if name not in known:
                from difflib import get_close_matches  # noqa: PLC0415  only for mistakes

                near = get_close_matches(name, known, n=1)
                raise RequestError(
                    f"no option is called {name!r}",
                    hint=f"did you mean {near[0]}?" if near else "see help(plan)",
                )
        missing = [name for name in ("model", "ctx", "concurrency") if options.get(name) is None]
        if missing:
            raise RequestError(
                f"{_flag(missing[0])} is missing", hint="a plan needs --model, --ctx and --concurrency"
            )
        return cls(**{name: value for name, value in options.items() if value is not None})


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _check_range(name: str, value: Any, allowed: _Range) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise RequestError(
            f"{_flag(name)} {str(value)[:40]!r} is no whole number", hint=f"as in {_flag(name)} 8"
        )
    if not allowed.least <= value <= allowed.most:
        raise RequestError(
            f"{_flag(name)} {value:,} is out of range", hint=f"between {allowed.least:,} and {allowed.most:,}"
        )
