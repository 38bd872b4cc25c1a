"""`vram-plan simulate`: percentiles of a server under traffic."""

from __future__ import annotations

from typing import Any

import click

from vram_planner.cli import options as opt
from vram_planner.cli.size import NUMBER, SECONDS
from vram_planner.errors import RequestError

_BROKEN = 3
_PER = {"": 1.0, "s": 1.0, "min": 60.0, "h": 3600.0}


class Rate(click.ParamType[float]):
    """2, 2/s, 90/min or 5000/h, as requests a second."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read a rate; RequestError for what is none."""
        number, _, unit = str(value).partition("/")
        if unit.strip() not in _PER:
            raise RequestError(
                f"cannot read the rate {str(value)[:40]!r}", hint="as in --rate 2/s, 90/min or 5000/h"
            )
        return float(NUMBER.convert(number, param, ctx)) / _PER[unit.strip()]


_load_options = opt.grouped(
    click.option("--model", metavar="MODEL", help="As for a plan."),
    click.option("--gpu", metavar="NAME", help="As for a plan: 'RTX 4090', '2x H100'."),
    click.option(
        "--workload", metavar="NAME|FILE",
        help="chat, code, documents, reasoning, rag, agent; or a CSV or JSONL file of prompt_tokens, output_tokens.",
    ),
    click.option("--prompt-tokens", metavar="LENGTHS", help="512, or lognormal:median=500,p90=2000 (two of median, mean, and p90 or sigma)."),
    click.option("--output-tokens", metavar="LENGTHS", help="Likewise."),
    click.option("--max-tokens", type=opt.TOKENS,
                 help="What clients ask for at most: SGLang and TensorRT-LLM keep room for it. [default: the longest output]"),
    click.option("--ctx", type=opt.TOKENS, help="Longest request, cut to it. [default: the workload's longest]"),
    click.option("--rate", type=Rate(), metavar="R", help="Requests a second, at random times: 2/s, 90/min."),
    click.option("--burstiness", type=NUMBER, default=1.0, show_default=True, metavar="B",
                 help="Of --rate: 1 is Poisson, less comes in bunches; gaps vary by 1/√B of their mean."),
    click.option("--users", type=opt.WHOLE, help="In place of --rate: people who wait for their answers."),
    click.option("--think-time", "think_s", type=SECONDS, default=0.0, metavar="TIME",
                 help="Mean time from an answer to the user's next request. [default: 0]"),
    click.option("--prefix-hit", type=NUMBER, metavar="SHARE",
                 help="Of each prompt, found in the prefix cache. [default: the workload's, else 0]"),
    click.option("--ttft", "ttft_s", type=SECONDS, metavar="TIME", help="First token within, as in 1s."),
    click.option("--tpot", "tpot_s", type=SECONDS, metavar="TIME", help="Each further token within, as in 50ms."),
    click.option("--percentile", type=NUMBER, default=95.0, show_default=True, help="At which limits hold."),
    click.option("--requests", type=opt.WHOLE, default=1000, show_default=True, help="Watched in each run."),
    click.option("--runs", type=opt.WHOLE, default=5, show_default=True, help="Independent ones."),
    click.option("--seed", type=opt.WHOLE, default=0, show_default=True, help="The same seed, the same answer."),
)  # fmt: skip
_layout_options = opt.grouped(
    click.option("--gpu-count", type=opt.WHOLE, help="How many of them."),
    click.option("--tp", type=opt.WHOLE, help="Tensor parallel size. [default: the GPUs of --gpu]"),
    click.option("--pp", type=opt.WHOLE, help="Pipeline parallel size. [default: 1]"),
    click.option(
        "--dp", type=opt.WHOLE, help="Data parallel replicas, each with an even share. [default: 1]"
    ),
    click.option("--ep", is_flag=True, default=None, help="Deal out whole experts (expert parallel)."),
)
_engine_settings = opt.grouped(
    click.option("--gpu-memory-utilization", type=float, metavar="F", help="[default: the engine's]"),
    click.option("--max-num-seqs", type=opt.WHOLE, help="[default: the engine's, by card]"),
    click.option("--max-num-batched-tokens", type=opt.TOKENS, help="[default: the engine's, by card]"),
    click.option("--block-size", type=opt.WHOLE, help="Tokens a KV block. [default: the engine's]"),
    click.option("--slots", type=opt.WHOLE, help="llama.cpp: parallel slots. [default: 1]"),
)


@click.command()
@_load_options
@opt.engine_options
@_layout_options
@opt.precision_options
@_engine_settings
@opt.format_option
@opt.catalogue_option
@opt.offline_option
def simulate(output: str, *, catalogue: str | None, **options: Any) -> int:
    """
    Simulate a server under traffic: percentiles of latency, what the cache needs, and what binds.

    \b
    vram-plan simulate --model 7b --gpu "RTX 4090" --workload chat --rate 2/s --ttft 1s --tpot 50ms
    vram-plan simulate --model 32b --quant awq --gpu l40s --workload lengths.csv --users 200 --think-time 30s

    Exit status: 0 answered, 3 a limit is broken or requests outrun the server, 2 the input is wrong.
    """  # noqa: D301  \b is the very character by which click keeps these lines apart
    if catalogue is not None:
        from vram_planner.model_profiles.own_catalogue import use_catalogue

        use_catalogue(catalogue)
    from vram_planner.cli.show import emit, warn
    from vram_planner.planning.simulate import simulate as answer
    from vram_planner.planning.simulate_request import request_of
    from vram_planner.report.data import as_json, rows_csv
    from vram_planner.report.simulation import simulation_markdown, simulation_table

    model, gpu = options.pop("model"), options.pop("gpu")
    if model is None or gpu is None:
        missing = "--model" if model is None else "--gpu"
        raise RequestError(f"{missing} is missing", hint="as in --model 7b --gpu 'RTX 4090'")
    asked = {name: value for name, value in options.items() if value is not None}
    found = answer(request_of(model, gpu=gpu, **asked))
    for line in found.plan.warnings:
        warn(line)
    if output == "json":
        emit(as_json(found.to_dict()))
    elif output == "csv":
        emit(rows_csv(found.to_rows()))
    else:
        emit(simulation_markdown(found) if output == "markdown" else simulation_table(found))
    return 0 if found.met else _BROKEN
