"""`vram-plan validate shadow` and `validate live`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from vram_planner.cli import options as opt
from vram_planner.cli.progress import Steps
from vram_planner.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Callable

_DRIFTED = 3

_model = click.option("--model", required=True, help="An alias, org/name, a directory or a config.json.")
_dtype = click.option("--dtype", default="auto", help="bfloat16, float16 or float32. [default: as stored]")
_attn = click.option("--attn", help="sdpa, eager or flash_attention_2. [default: sdpa]")
_asked = opt.grouped(
    click.option("--kv-dtype", help="vllm, llama.cpp: type of the KV cache. [default: auto]"),
    click.option(
        "--gpu",
        metavar="NAME",
        help="vllm: the card to pretend. [default: this machine's, else H100] Others: the card to recommend for.",
    ),
    click.option("--tp", type=opt.WHOLE, help="vllm: tensor parallel size. [default: the GPUs of --gpu]"),
    click.option("--ep", is_flag=True, default=None, help="vllm: deal out whole experts."),
    click.option("--gpu-memory-utilization", type=float, metavar="F", help="vllm. [default: the engine's]"),
    click.option("--max-num-seqs", type=opt.WHOLE, help="vllm. [default: the engine's]"),
    click.option("--max-num-batched-tokens", type=opt.TOKENS, help="vllm. [default: the engine's]"),
    click.option("--block-size", type=opt.WHOLE, help="vllm. [default: the engine's]"),
    click.option("--ubatch", type=opt.WHOLE, help="llama.cpp: physical batch. [default: 512]"),
    click.option("--flash-attn/--no-flash-attn", default=None, help="llama.cpp. [default: on]"),
    click.option(
        "--python",
        metavar="PATH",
        help="The Python that has vllm, llama_cpp or xllamacpp. [default: this one]",
    ),
    click.option("--library", metavar="PATH", help="llama.cpp: libllama itself. [default: a package's]"),
    click.option(
        "--time-limit", "time_limit_s", type=float, help="vllm, llama.cpp: seconds to answer. [default: 300]"
    ),
)
_prompt = click.option("--prompt-tokens", type=opt.TOKENS, help="Part of --ctx. [default: half of it]")
_tolerance = click.option(
    "--tolerance", type=float, default=0.05, show_default=True, help="How far off the plan may be."
)
_json = click.option("--json", "as_json", is_flag=True, help="One JSON document.")


@click.command()
@_model
@click.option("--ctx", type=opt.TOKENS, default=4096, show_default=True, help="Prompt and generated tokens.")
@click.option("--concurrency", type=opt.WHOLE, default=1, show_default=True, help="Requests at once.")
@click.option(
    "--engine",
    default="transformers",
    show_default=True,
    help="transformers, vllm, or llama.cpp (a .gguf file).",
)
@_prompt
@_dtype
@_attn
@_asked
@opt.offline_option
@_tolerance
@_json
def shadow(*, as_json: bool, offline: bool | None, **options: Any) -> int:
    """
    Ask the engine's own code at full size without a GPU, and compare it with the plan.

    transformers needs [validate] here; vLLM is asked in the Python that has it, llama.cpp through its library.
    """
    from vram_planner.cli.show import emit
    from vram_planner.report.data import as_json as json_text
    from vram_planner.report.validation import asked_text, shadow_text
    from vram_planner.validate.shadow_run import Shadowed
    from vram_planner.validate.shadow_run import shadow as run

    with Steps() as steps:
        found = run(**options, offline=bool(offline), tell=steps)
    text = shadow_text if isinstance(found, Shadowed) else asked_text
    emit(json_text(found.to_dict()) if as_json else text(found))
    return 0 if found.held else _DRIFTED


@click.command()
@_model
@click.option("--ctx", type=opt.TOKENS, default=1024, show_default=True, help="Prompt and generated tokens.")
@click.option(
    "--concurrency", default="auto", show_default=True, help="A number, or auto: ramp up to what fits."
)
@click.option("--device", default="cuda", show_default=True, help="cuda, or cpu for a small model.")
@click.option(
    "--gpu",
    default="0",
    show_default=True,
    metavar="N[,N…]|all",
    help="NVML's number of the GPU, several as in 0,1, or all.",
)
@click.option(
    "--parallel",
    type=click.Choice(["device_map", "tp", "each"]),
    default="device_map",
    show_default=True,
    help="Over several GPUs: deal the layers out, or run on each by itself. tp is refused, with the reason.",
)
@click.option("--random-weights", is_flag=True, help="From the configuration alone: no weight file is read.")
@click.option("--most", type=opt.WHOLE, help="Ramp no further. [default: 256, on the CPU 8]")
@click.option(
    "--ttft", "ttft_s", type=float, metavar="S", help="Keep the first token within so many seconds."
)
@click.option("--tpot", "tpot_s", type=float, metavar="S", help="Keep each further token within so many.")
@click.option(
    "--headroom", type=float, default=0.05, show_default=True, help="Share of the memory that stays free."
)
@click.option("--memory-limit", metavar="SIZE", help="Use no more than this, as in 8GiB.")
@click.option(
    "--time-limit",
    "step_limit_s",
    type=float,
    default=300,
    show_default=True,
    help="Seconds that one step may take.",
)
@click.option("--no-save", is_flag=True, help="Keep no calibration.")
@_prompt
@_dtype
@_attn
@opt.offline_option
@_tolerance
@_json
def live(
    *,
    as_json: bool,
    offline: bool | None,
    concurrency: str,
    memory_limit: str | None,
    no_save: bool,
    parallel: str,
    **options: Any,
) -> int:
    """Load the model here, measure it part by part, and ramp up to what fits (needs [validate])."""
    from vram_planner.cli.show import emit, warn
    from vram_planner.report.data import as_json as json_text
    from vram_planner.report.validation import each_text, live_text
    from vram_planner.units import parse_size
    from vram_planner.validate.live_gpus import LivedEach, live_each
    from vram_planner.validate.live_run import live as live_on

    run: Callable[..., Any] = live_each if parallel == "each" else live_on
    with Steps() as steps:
        found = run(
            **options,
            parallel=parallel,
            concurrency=count_of(concurrency),
            memory_limit_bytes=None if memory_limit is None else parse_size(memory_limit),
            save=not no_save,
            offline=bool(offline),
            tell=steps,
        )
    for line in found.warnings:
        warn(line)
    text = each_text if isinstance(found, LivedEach) else live_text
    emit(json_text(found.to_dict()) if as_json else text(found))
    if isinstance(found, LivedEach) and found.missed:
        return found.missed[0].exit_status
    return 0 if found.held else _DRIFTED


def count_of(text: str) -> int | None:
    """`--concurrency`: None for auto."""
    if text.strip().lower() == "auto":
        return None
    if text.isdecimal():
        return int(text)
    raise RequestError(f"--concurrency {text[:20]!r} is no number", hint="as in 4, or auto")
