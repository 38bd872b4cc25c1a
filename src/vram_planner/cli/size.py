"""`vram-plan size`: which cards, how many, in what layout, at what cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from vram_planner.cli import options as opt
from vram_planner.errors import RequestError
from vram_planner.units import parse_seconds

if TYPE_CHECKING:
    from vram_planner.planning.sizing_result import Sizing

_NONE_HOLDS = 3


class Seconds(click.ParamType[float]):
    """50ms, 1s, 0.05 or 2min."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ARG002
        """Read a time; SizeError for what cannot be read."""
        return parse_seconds(value)


class Number(click.ParamType[float]):
    """A number above or at zero; the request checks its range."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ARG002
        """Read a number; RequestError for what is none."""
        try:
            return float(str(value).replace(",", "")[:40])
        except ValueError:
            name = param.opts[0] if param is not None else "the option"
            raise RequestError(f"{name} {str(value)[:40]!r} is no number", hint=f"as in {name} 2.5") from None


SECONDS, NUMBER = Seconds(), Number()

_load_options = opt.grouped(
    click.option("--model", "models", metavar="MODEL", multiple=True, help="As for a plan; may be repeated."),
    click.option("--ctx", type=opt.TOKENS, help="Tokens of the longest request, prompt and answer."),
    click.option("--workload", metavar="NAME|FILE",
                 help="As for simulate: its mean lengths, and its longest for --ctx, unless said."),
    click.option("--users", type=opt.WHOLE, help="People who use it at the same time."),
    click.option(
        "--think-time", "think_s", type=SECONDS, default=0.0, metavar="TIME",
        help="Between an answer and the user's next request. [default: 0, always a request in flight]",
    ),
    click.option("--rate", type=NUMBER, metavar="R", help="Requests a second, in place of --users."),
    click.option("--prompt-tokens", type=opt.TOKENS, help="Of the average request. [default: half of --ctx]"),
    click.option("--output-tokens", type=opt.TOKENS, help="Of the average answer. [default: the rest of --ctx]"),
    click.option("--ttft", "ttft_s", type=SECONDS, metavar="TIME", help="First token within, as in 1s."),
    click.option("--tpot", "tpot_s", type=SECONDS, metavar="TIME", help="Each further token within, as in 50ms."),
)  # fmt: skip
_choice_options = opt.grouped(
    click.option("--quant", "quants", metavar="FORMAT", multiple=True,
                 help="A format that is allowed; may be repeated. 'stored' is the model as it is. [default: stored]"),
    click.option("--gpu", "gpus", metavar="NAME", multiple=True,
                 help="A card that is allowed; may be repeated. [default: all with a rent or a list price]"),
    click.option("--node-gpus", type=opt.WHOLE, default=8, show_default=True, help="Cards in one server."),
    click.option("--inter-node", metavar="SPEED",
                 help="Between servers: 400Gb/s of each GPU, or 100Gb/s/node of each server. [default: 400Gb/s, assumed]"),
    click.option("--headroom", metavar="SHARE|SIZE", multiple=True,
                 help="At least so much left: 20% more load, 2GiB on each GPU, or both. [default: none]"),
    click.option("--room", metavar="worst|expected", default="worst", show_default=True,
                 help="In the cache, for each request: --ctx tokens, or what one holds on average."),
    click.option("--max-gpus", type=opt.WHOLE, default=256, show_default=True, help="Most cards in all."),
)  # fmt: skip
_money_options = opt.grouped(
    click.option("--prices", metavar="FILE", help="CSV or JSON: gpu, per_hour, purchase, currency, date, source."),
    click.option("--buy", is_flag=True, help="Cost of bought cards in place of rented ones."),
    click.option("--price", type=NUMBER, help="Of the one card of --gpu, with --buy. [default: its list price]"),
    click.option("--years", type=NUMBER, default=3.0, show_default=True, help="Written off over, with --buy."),
    click.option("--power-price", type=NUMBER, default=0.0, show_default=True, help="A kWh, with --buy."),
    click.option("--utilisation", type=NUMBER, default=1.0, show_default=True,
                 help="Share of the time that the load is there."),
)  # fmt: skip
_engine_settings = opt.grouped(
    click.option("--dtype", help="auto, bfloat16, float16 or float32. [default: auto, as stored]"),
    click.option("--kv-dtype", help="auto, fp8, int8, q8_0, q4_0, ... [default: auto]"),
    click.option("--gpu-memory-utilization", type=float, metavar="F", help="[default: the engine's]"),
    click.option("--max-num-seqs", type=opt.WHOLE, help="Of each replica. [default: the engine's, by card]"),
    click.option("--max-num-batched-tokens", type=opt.TOKENS, help="[default: the engine's, by card]"),
    click.option("--ep", is_flag=True, default=None, help="Deal out whole experts (expert parallel)."),
    *opt.DRAFTING,
    opt.PREFIX_HIT,
)


@click.command()
@_load_options
@_choice_options
@opt.engine_options
@_money_options
@_engine_settings
@click.option(
    "--format",
    "output",
    type=click.Choice(["table", "json", "csv", "markdown", "kubernetes"]),
    default="table",
    show_default=True,
    help="How to print it; JSON is a promise, the table is not. kubernetes: the manifest of the first choice.",
)
@opt.catalogue_option
@opt.offline_option
def size(output: str, *, catalogue: str | None, **options: Any) -> int:
    """
    Rank GPUs, counts and layouts that carry a load within its limits, with what they cost.

    \b
    vram-plan size --model 70b --users 200 --ctx 16384 --ttft 1s --tpot 50ms
    vram-plan size --model 7b --rate 5 --ctx 4096 --gpu "RTX 4090" --gpu l4 --quant stored --quant awq

    Exit status: 0 an option holds the limits by the best estimate, 3 none does, 2 the input is wrong.
    """  # noqa: D301  \b is the very character by which click keeps these lines apart
    if catalogue is not None:
        from vram_planner.model_profiles.own_catalogue import use_catalogue

        use_catalogue(catalogue)
    from vram_planner.planning.sizing import size as answer

    found = answer(_request(options))
    _show(found, output)
    return 0 if found.met else _NONE_HOLDS


def _request(options: dict[str, Any]) -> Any:
    from vram_planner.planning.prices import Buying, Prices, read_prices
    from vram_planner.planning.sizing_request import SizeRequest, of_workload

    money = {name: options.pop(name) for name in ("prices", "buy", "price", "years", "power_price")}
    own = ("models", "ctx", "users", "rate", "think_s", "prompt_tokens", "output_tokens", "ttft_s", "tpot_s",
           "gpus", "node_gpus", "max_gpus", "utilisation", "inter_node", "headroom", "room")  # fmt: skip
    asked = {name: options.pop(name) for name in own}
    workload = options.pop("workload")
    if workload is not None:
        told = {name: options.pop(name) for name in ("engine", "prefix_hit")}
        asked = of_workload(workload, {**asked, **told})
        options.update({name: asked.pop(name) for name in told})
    quants = options.pop("quants") or ("stored",)
    if money["price"] is not None and (not money["buy"] or len(asked["gpus"]) != 1):
        raise RequestError("--price is that of one card", hint="--buy --gpu NAME --price P, or --prices FILE")
    if asked["ctx"] is None:
        raise RequestError(
            "--ctx is missing", hint="tokens of the longest request, as in --ctx 16384, or --workload"
        )
    buying = None
    if money["buy"]:
        buying = Buying(years=money["years"], power_price=money["power_price"], price=money["price"])
    return SizeRequest(
        **asked,
        quants=tuple(None if name == "stored" else name for name in dict.fromkeys(quants)),
        prices=read_prices(money["prices"]) if money["prices"] else Prices(),
        buying=buying,
        options={name: value for name, value in options.items() if value is not None},
    )


def _show(found: Sizing, output: str) -> None:
    from vram_planner.cli.show import emit, warn
    from vram_planner.report.data import as_json, rows_csv
    from vram_planner.report.sizing import sizing_markdown, sizing_table

    for line in found.best.warnings if found.best else ():
        warn(line)
    if output == "json":
        emit(as_json(found.to_dict()))
    elif output == "kubernetes":
        _show_manifest(found)
    elif output == "csv":
        emit(rows_csv(found.to_rows()))
    else:
        emit(sizing_markdown(found) if output == "markdown" else sizing_table(found))


def _show_manifest(found: Sizing) -> None:
    """Of the option that the table shows below its rows; the table itself where nothing holds."""
    from vram_planner.cli.show import emit
    from vram_planner.report.kubernetes import kubernetes_yaml
    from vram_planner.report.sizing import sizing_table

    if found.best is None:
        emit(sizing_table(found))
        return
    emit(kubernetes_yaml(found.best).rstrip("\n"))
