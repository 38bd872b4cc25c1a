"""`vram-plan compare`: models or formats side by side on one card."""

from __future__ import annotations

from typing import Any

import click

from vram_planner.cli import options as opt

_ONE_DOES_NOT_FIT = 3


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option("--gpu", required=True, metavar="NAME", help="'RTX 4090', '2x H100', 'custom:24GiB@1008GB/s'.")
@click.option(
    "--ctx",
    type=opt.TOKENS,
    required=True,
    help="Prompt + generated tokens of one request: 32768, 32K or 32k.",
)
@click.option("--concurrency", type=opt.WHOLE, default=1, show_default=True, help="Requests in flight.")
@click.option("--prompt-tokens", type=opt.TOKENS, help="Of --ctx. [default: half of --ctx]")
@click.option("--quant", "quants", metavar="FORMAT", multiple=True,
              help="Formats of each model; may be repeated. 'stored' is the model as it is. [default: stored]")  # fmt: skip
@click.option(
    "--prices", metavar="FILE", help="CSV or JSON: gpu, per_hour, purchase, currency, date, source."
)
@opt.engine_options
@click.option("--gpu-count", type=opt.WHOLE, help="How many of the card.")
@click.option("--tp", type=opt.WHOLE, help="Tensor parallel size. [default: the GPUs of --gpu]")
@click.option("--pp", type=opt.WHOLE, help="Pipeline parallel size. [default: 1]")
@click.option("--dtype", help="auto, bfloat16, float16 or float32. [default: auto, as stored]")
@click.option("--kv-dtype", help="auto, fp8, int8, q8_0, q4_0, ... [default: auto]")
@opt.tuning_options
@opt.format_option
@opt.catalogue_option
@opt.offline_option
def compare(
    models: tuple[str, ...],
    quants: tuple[str, ...],
    output: str,
    *,
    catalogue: str | None,
    prices: str | None,
    **options: Any,
) -> int:
    """
    Put models, or formats of a model, side by side on the same card; differences are against the first.

    \b
    vram-plan compare qwen2.5-7b 1.5b --gpu "RTX 4090" --ctx 8192
    vram-plan compare 32b --quant stored --quant awq --gpu "2x RTX 4090" --ctx 16384

    Exit status: 0 all fit, 3 one does not, 2 the input is wrong.
    """  # noqa: D301  \b is the very character by which click keeps these lines apart
    from vram_planner.cli.show import emit, warn
    from vram_planner.planning.compare import compare as answer
    from vram_planner.planning.prices import Prices, read_prices

    if catalogue is not None:
        from vram_planner.model_profiles.own_catalogue import use_catalogue

        use_catalogue(catalogue)
    found = answer(
        models,
        tuple(None if name == "stored" else name for name in dict.fromkeys(quants or ("stored",))),
        read_prices(prices) if prices else Prices(),
        **options,
    )
    for line in dict.fromkeys(line for side in found.sides for line in side.warnings):
        warn(line)
    from vram_planner.report.compare import comparison_table
    from vram_planner.report.data import as_json, rows_csv

    if output == "json":
        emit(as_json(found.to_dict()))
    elif output == "csv":
        emit(rows_csv(found.to_rows()))
    else:
        emit(comparison_table(found, style="github" if output == "markdown" else "plain"))
    return 0 if found.fits else _ONE_DOES_NOT_FIT
