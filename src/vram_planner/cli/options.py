"""The options of the command, in groups that sub-commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from vram_planner.errors import PlannerError
from vram_planner.units import parse_size, parse_tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    Command = Callable[..., Any]


class Tokens(click.ParamType[int]):
    """32768, 32,768, 32K (32,768) or 32k (32,000)."""

    name = "tokens"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:  # noqa: ARG002
        """Read a number of tokens; SizeError for what cannot be read."""
        return parse_tokens(value)


class Whole(click.ParamType[int]):
    """A whole number; thousands may be set off by commas."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:  # noqa: ARG002
        """Read a whole number, negative ones too: the request checks the range."""
        try:
            return int(str(value).replace(",", "")[:40])
        except ValueError:
            name = param.opts[0] if param is not None else "the option"
            raise PlannerError(
                f"{name} {str(value)[:40]!r} is no whole number", hint=f"as in {name} 8"
            ) from None


class Size(click.ParamType[int]):
    """24GiB or 24GB; a bare 24G is refused."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:  # noqa: ARG002
        """Read a size in bytes; SizeError for what cannot be read."""
        return value if isinstance(value, int) else parse_size(value)


TOKENS, WHOLE, SIZE = Tokens(), Whole(), Size()


def grouped(*options: Command) -> Command:
    """Several options as one decorator, in the order that they are shown."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


workload_options = grouped(
    click.option("--model", metavar="MODEL", help="Alias (7b), org/name, a directory or a config.json."),
    click.option("--ctx", type=TOKENS, help="Prompt + generated tokens of one request: 32768, 32K or 32k."),
    click.option("--concurrency", type=WHOLE, help="Requests in flight at once."),
    click.option(
        "--prompt-tokens", type=TOKENS, help="Of --ctx; the rest is generated. [default: half of --ctx]"
    ),
)
PREFIX_HIT = click.option(
    "--prefix-hit",
    type=float,
    metavar="SHARE",
    help="Of each prompt, found in a prefix cache, for the speed: 0.5. [default: 0]",
)
DRAFTING = (
    click.option(
        "--speculative",
        metavar="METHOD[:MODEL]",
        help="vLLM, SGLang, TensorRT-LLM: mtp, ngram, eagle:MODEL, eagle3:MODEL or draft:MODEL; llama.cpp: draft:MODEL. "
        "[default: none]",
    ),
    click.option(
        "--speculative-tokens",
        type=WHOLE,
        help="Tokens drafted at once. [mtp: the model's layers; SGLang's own; llama.cpp: 3]",
    ),
    click.option("--draft-model", metavar="MODEL", help="The same as --speculative draft:MODEL."),
    click.option(
        "--acceptance",
        type=float,
        metavar="SHARE",
        help="Of the guesses, for the speed: 0.7. [default: not known; the speed is that without drafting]",
    ),
)
engine_options = grouped(
    click.option(
        "--engine", help="vllm, sglang, llama.cpp, ollama, tensorrt-llm or transformers. [default: vllm]"
    ),
    click.option("--engine-version", metavar="X.Y.Z", help="[default: the newest we know]"),
)
hardware_options = grouped(
    click.option(
        "--gpu",
        metavar="NAME|auto|none",
        help="'RTX 4090', '2x H100', 'custom:24GiB', 'H100 1g.10gb'. "
        "[default: $VRAM_PLANNER_GPU, this machine's, else candidates]",
    ),
    click.option("--gpu-count", type=WHOLE, help="How many of them."),
    click.option("--tp", type=WHOLE, help="Tensor parallel size. [default: the GPUs of --gpu]"),
    click.option("--pp", type=WHOLE, help="Pipeline parallel size. [default: 1]"),
    click.option("--dp", type=WHOLE, help="Data parallel replicas. [default: 1]"),
    click.option("--ep", is_flag=True, default=None, help="Deal out whole experts (expert parallel)."),
    click.option(
        "--dp-attention",
        is_flag=True,
        default=None,
        help="SGLang: --dp groups of the tp ranks, each with requests of its own; TensorRT-LLM: each rank.",
    ),
)
precision_options = grouped(
    click.option("--dtype", help="auto, bfloat16, float16 or float32. [default: auto, as stored]"),
    click.option(
        "--quant",
        metavar="FORMAT",
        help="What if: fp8, int8, awq, gptq, nvfp4, nf4, hqq, int4wo, exl3-3.5bpw, q4_k_m, ... (all in "
        "docs/reference/formats.md) [default: as stored]",
    ),
    click.option("--kv-dtype", help="auto, fp8, int8, q8_0, q4_0, ... [default: auto]"),
)


def _joined(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> str | None:
    """Patterns given one by one are one list, as in llama.cpp."""
    return ",".join(values) or None


tuning_options = grouped(
    click.option(
        "--gpu-memory-utilization",
        type=float,
        metavar="F",
        help="vLLM's share of the card; SGLang's mem_fraction_static. [default: the engine's]",
    ),
    click.option("--max-num-seqs", type=WHOLE, help="[default: the engine's, by card]"),
    click.option("--max-num-batched-tokens", type=TOKENS, help="[default: the engine's, by card]"),
    click.option("--enforce-eager", is_flag=True, default=None, help="vLLM: capture no CUDA graphs."),
    click.option("--block-size", type=WHOLE, help="Tokens a KV block. [default: the engine's]"),
    click.option("--ubatch", type=WHOLE, help="llama.cpp: physical batch. [default: 512]"),
    click.option("--flash-attn/--no-flash-attn", default=None, help="llama.cpp. [default: on]"),
    click.option("--slots", type=WHOLE, help="llama.cpp: parallel slots. [default: --concurrency]"),
    click.option("--ngl", type=WHOLE, help="llama.cpp: layers on the GPU, the last ones. [default: all]"),
    click.option(
        "--n-cpu-moe", type=WHOLE, help="llama.cpp: first layers whose experts stay on the host. [default: 0]"
    ),
    click.option("--cpu-moe", is_flag=True, default=None, help="llama.cpp: all experts stay on the host."),
    click.option(
        "--override-tensor",
        metavar="PATTERN=BUFFER",
        multiple=True,
        callback=_joined,
        help=r"llama.cpp: tensors whose names match go there: 'blk\.[0-9]\.ffn=CPU'; CPU or CUDA0, CUDA1, ...; "
        "several; the first match wins.",
    ),
    click.option(
        "--cache-ram", type=SIZE, help="llama.cpp: prompt cache in host memory, at most. [default: 8GiB]"
    ),
    click.option("--ctx-checkpoints", type=WHOLE, help="llama.cpp: checkpoints a slot. [default: 32]"),
    click.option("--kv-unified", is_flag=True, default=None, help="llama.cpp: one cache for all slots."),
    click.option("--swa-full", is_flag=True, default=None, help="llama.cpp: windows keep every token."),
    click.option(
        "--kv-offload/--no-kv-offload", default=None, help="llama.cpp: the cache on the GPU. [default: on]"
    ),
    click.option("--split-mode", help="llama.cpp, several GPUs: layer or none. [default: layer]"),
    click.option(
        "--tensor-split", metavar="N,N", help="llama.cpp: shares of the GPUs, as in 3,1. [default: equal]"
    ),
    click.option(
        "--mmproj",
        metavar="auto|TYPE|FILE",
        help="llama.cpp: the vision projector too: its GGUF file, or f16, bf16, q8_0, f32 worked out. [default: none]",
    ),
    click.option(
        "--mmproj-offload/--no-mmproj-offload",
        default=None,
        help="llama.cpp: the projector on the GPU. [default: on]",
    ),
    click.option("--max-loras", type=WHOLE, help="vLLM, SGLang: slots for LoRA adapters. [default: none]"),
    click.option("--max-lora-rank", type=WHOLE, help="Rank of those slots. [vLLM: 16]"),
    click.option("--fully-sharded-loras", is_flag=True, default=None, help="vLLM: cut both halves over tp."),
    *DRAFTING,
    PREFIX_HIT,
    click.option("--cpu-offload", type=SIZE, help="vLLM: weights in host memory, a GPU: 8GiB."),
    click.option("--kv-cache-memory", type=SIZE, help="vLLM: a pool of just that, whatever the utilization."),
    click.option(
        "--decode-context-parallel-size",
        type=WHOLE,
        help="vLLM: ranks of --tp that share out a request's tokens. [default: 1]",
    ),
    click.option(
        "--prefix-caching/--no-prefix-caching",
        default=None,
        help="vLLM: keep beginnings of prompts; takes room beside recurrent states. [default: the release's]",
    ),
    click.option("--attn", help="transformers: sdpa, eager or flash_attention_2. [default: sdpa]"),
    click.option("--cache", help="transformers: dynamic or static. [default: dynamic]"),
    click.option(
        "--logits",
        help="transformers: last (generate), all (a plain forward) or float32 (all, as before 4.45). [default: last]",
    ),
    click.option(
        "--padded",
        is_flag=True,
        default=None,
        help="transformers: prompts of unlike length, padded to the longest: --prompt-tokens and --ctx are its.",
    ),
    click.option(
        "--offload",
        is_flag=True,
        default=None,
        help="transformers: layers that do not fit stay in the CPU's memory (slow).",
    ),
    click.option(
        "--calibration/--no-calibration",
        default=None,
        help="Use what `validate live` or `validate log --save` measured here. [default: use it]",
    ),
)
server_options = grouped(
    click.option("--gpu", metavar="NAME|auto", help="Its card. [default: this machine's, if it runs here]"),
    click.option("--gpu-count", type=WHOLE, help="How many of them."),
    click.option("--tp", type=WHOLE, help="Tensor parallel size."),
    click.option("--pp", type=WHOLE, help="Pipeline parallel size."),
    click.option("--dtype", help="bfloat16, float16 or float32, if it was given --dtype."),
    click.option("--quant", metavar="FORMAT", help="Its format, if the model's name does not tell."),
    click.option("--kv-dtype", help="The type of its cache, if it does not tell."),
    click.option("--max-num-seqs", type=WHOLE, help="vLLM, as it was started."),
    click.option("--max-num-batched-tokens", type=TOKENS, help="vLLM, as it was started."),
    click.option("--enforce-eager", is_flag=True, default=None, help="vLLM, if it was started so."),
    click.option("--slots", type=WHOLE, help="Ollama's OLLAMA_NUM_PARALLEL."),
)
format_option = click.option(
    "--format",
    "output",
    type=click.Choice(["table", "json", "csv", "markdown"]),
    default="table",
    show_default=True,
    help="How to print it; JSON is a promise, the table is not.",
)
catalogue_option = click.option(
    "--catalogue",
    metavar="PATH",
    help="A file or directory of your own model rows. [default: $VRAM_PLANNER_CATALOGUE]",
)
offline_option = click.option("--offline", is_flag=True, default=None, help="Never open a socket.")
