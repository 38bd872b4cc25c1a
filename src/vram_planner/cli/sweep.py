"""`vram-plan sweep`: plans of a whole product of models, formats, cards, contexts and concurrencies."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from vram_planner.cli import options as opt
from vram_planner.errors import RequestError

if TYPE_CHECKING:
    from vram_planner.planning.sweep_table import Table

_NONE_FITS = 3
_SHOWN = 60
_ALL = "all"


@click.command()
@click.option("--model", "models", multiple=True, metavar="MODEL",
              help="As for a plan; may be repeated. 'all': every model of the catalogue.")  # fmt: skip
@click.option("--quant", "quants", multiple=True, metavar="FORMAT",
              help="May be repeated. 'stored' is the model as it is. [default: stored]")  # fmt: skip
@click.option("--gpu", "gpus", multiple=True, metavar="NAME",
              help="'RTX 4090', '2x H100'; may be repeated. 'all': every card, one of each.")  # fmt: skip
@click.option("--ctx", "contexts", type=opt.TOKENS, multiple=True, help="May be repeated.")
@click.option("--concurrency", "concurrencies", type=opt.WHOLE, multiple=True, help="May be repeated.")
@click.option("--prompt-tokens", type=opt.TOKENS, help="Of --ctx. [default: half of --ctx]")
@click.option("--speed", is_flag=True, help="Times too, which takes longer.")
@opt.engine_options
@click.option("--tp", type=opt.WHOLE, help="Tensor parallel size. [default: the GPUs of --gpu]")
@click.option("--pp", type=opt.WHOLE, help="Pipeline parallel size. [default: 1]")
@click.option("--dp", type=opt.WHOLE, help="Data parallel replicas. [default: 1]")
@click.option("--ep", is_flag=True, default=None, help="Deal out whole experts (expert parallel).")
@click.option("--dtype", help="auto, bfloat16, float16 or float32. [default: auto, as stored]")
@click.option("--kv-dtype", help="auto, fp8, int8, q8_0, q4_0, ... [default: auto]")
@opt.tuning_options
@opt.format_option
@opt.catalogue_option
@opt.offline_option
def sweep(
    output: str,
    *,
    catalogue: str | None,
    models: tuple[str, ...],
    quants: tuple[str, ...],
    speed: bool,
    **options: Any,
) -> int:
    """
    Plan every combination of models, formats, GPUs, contexts and concurrencies (needs [sweep]: numpy).

    \b
    vram-plan sweep --model 7b --model 32b --gpu "RTX 4090" --gpu "2x H100" --ctx 8192 --concurrency 16
    vram-plan sweep --model all --gpu all --ctx 8K --concurrency 1 --concurrency 64 --format csv

    Each cell is what the plain command says, without calibration. Exit status: 0 something fits, 3 nothing does.
    """  # noqa: D301  \b is the very character by which click keeps these lines apart
    if catalogue is not None:
        from vram_planner.model_profiles.own_catalogue import use_catalogue

        use_catalogue(catalogue)
    from vram_planner.planning.sweep import sweep as answer

    gpus, contexts = options.pop("gpus"), options.pop("contexts")
    concurrencies = options.pop("concurrencies")
    needed = {"--model": models, "--gpu": gpus, "--ctx": contexts, "--concurrency": concurrencies}
    missing = next((name for name, given in needed.items() if not given), None)
    if missing is not None:
        raise RequestError(
            f"{missing} is missing", hint="a sweep needs --model, --gpu, --ctx and --concurrency"
        )
    options.pop("calibration")
    with click.progressbar(
        length=1, label="planning", file=sys.stderr, hidden=not sys.stderr.isatty()
    ) as bar:

        def tell(done: int, steps: int) -> None:
            bar.length = steps
            bar.update(done - bar.pos)

        table = answer(
            _models(models),
            gpus,
            (contexts, concurrencies),
            quants=[None if name == "stored" else name for name in dict.fromkeys(quants or ("stored",))],
            speed=speed,
            tell=tell,
            **{name: value for name, value in options.items() if value is not None},
        )
    _show(table, output)
    return 0 if table.any_fits else _NONE_FITS


def _models(models: tuple[str, ...]) -> list[str]:
    from vram_planner.model_profiles.resolve import model_names

    named: dict[str, None] = {}
    for model in models:
        named.update(dict.fromkeys(model_names() if model == _ALL else [model]))
    return list(named)


def _show(table: Table, output: str) -> None:
    from vram_planner.cli.show import emit
    from vram_planner.report.data import as_json
    from vram_planner.report.sweep import csv_lines, sweep_text

    if output == "csv":
        for line in csv_lines(table):
            emit(line)
    elif output == "json":
        emit(as_json({"schema_version": 1, "columns": list(table.columns), "rows": table.to_rows()}))
    else:
        emit(sweep_text(table, most=_SHOWN if output == "table" else None))
