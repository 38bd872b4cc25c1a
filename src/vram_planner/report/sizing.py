"""The answer of `size` as people read it: what was asked, the options, the one to look at first, how to start it."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING

from tabulate import tabulate

from vram_planner.planning.sizing_request import EXPECTED
from vram_planner.units import format_gib

if TYPE_CHECKING:
    from vram_planner.planning.performance import Band
    from vram_planner.planning.sizing_option import Option
    from vram_planner.planning.sizing_refused import Refused
    from vram_planner.planning.sizing_request import SizeRequest
    from vram_planner.planning.sizing_result import Sizing

_WIDTH = 100
_SHOWN = 10
_SHOWN_MISSES = 5
_SYMBOLS = {"USD": "$", "EUR": "€", "GBP": "£"}
_MAKERS = ("NVIDIA GeForce ", "NVIDIA ", "AMD Instinct ", "AMD ")
_LONGEST_MODEL, _LONGEST_CARD, _TIGHT = 16, 18, 5


def sizing_table(sizing: Sizing) -> str:
    """The whole answer."""
    blocks = [_headline(sizing)]
    if sizing.options:
        blocks += [_options(sizing), _best(sizing)]
    else:
        blocks.append(_none(sizing))
    if sizing.refused:
        blocks.append("\n".join(_wrapped(f"left out: {line}") for line in sizing.refused))
    blocks.append(_wrapped(f"not modelled: {'; '.join(sizing.not_modelled)}"))
    return "\n\n".join(blocks)


def _headline(sizing: Sizing) -> str:
    request = sizing.request
    limits = [
        f"{name} {limit * 1000:g} ms" if limit < 1 else f"{name} {limit:g} s"
        for name, limit in (("first token", request.ttft_s), ("each further one", request.tpot_s))
        if limit is not None
    ]
    return "\n".join(
        (
            _wrapped(f"{_load(request)}, of {request.prompt:,} prompt + {request.output:,} generated tokens"),
            _wrapped(f"limits: {', '.join(limits) or 'none'}; {_room(request)}{_spare(request)}"),
            _wrapped(
                f"{', '.join(sizing.models)} on {sizing.engine}, {', '.join(name or 'as stored' for name in request.quants)};"
                f" {sizing.cards} {'kind of card' if sizing.cards == 1 else 'kinds of cards'} looked at"
            ),
        )
    )


def _room(request: SizeRequest) -> str:
    if request.room == EXPECTED:
        return f"room in the cache for the {request.held:,} tokens that one holds on average, of up to {request.ctx:,}"
    return f"room in the cache for {request.ctx:,} tokens of each"


def _spare(request: SizeRequest) -> str:
    spare = request.spare
    told = [f"{spare.share:.0%} more load"] if spare.share else []
    told += [f"{format_gib(spare.n_bytes)} GiB to spare on each GPU"] if spare.n_bytes else []
    return f"; head-room: {' and '.join(told)}" if told else ""


def _load(request: SizeRequest) -> str:
    if request.rate is not None:
        return f"{request.rate:g} requests a second"
    if request.think_s:
        return f"{request.users:,} users, {request.think_s:g} s between an answer and the next request"
    return f"{request.users:,} users who always have a request in flight (no think time)"


def _options(sizing: Sizing) -> str:
    shown = list(enumerate(sizing.options, 1))[:_SHOWN]
    if sizing.best is not None and (at := sizing.options.index(sizing.best)) >= _SHOWN:
        shown.append((at + 1, sizing.best))
    several = _several(sizing)
    money = _SYMBOLS.get(sizing.request.prices.currency, sizing.request.prices.currency)
    headers = [
        "",
        "GPUs",
        "layout",
        *several,
        *([] if several else ["room"]),
        "TTFT s",
        "TPOT ms",
        f"{money}/h",
    ]
    headers += [*([] if several else [f"{money}/Mtok"]), "carries"]
    # The heads are a row like others: tabulate pads true heads by two columns each, which the width has no room for.
    table = tabulate(
        [headers, *(_row(rank, option, several) for rank, option in shown)],
        tablefmt="plain",
        colalign=("left",) * (3 + len(several)) + ("right",) * (len(headers) - 3 - len(several)),
        disable_numparse=True,
    )
    rest, count = len(sizing.options) - len(shown), len(sizing.options)
    sure = sum(option.surely for option in sizing.options)
    unit = "users" if sizing.request.users else "requests/s"
    what = "limits" if sizing.request.ttft_s or sizing.request.tpot_s else "load"
    held = f"{sure} of {count} options hold the {what} at the high end of every band (best..high)"
    if sure < count:
        held = f"{held}; those with a ? by the best estimate alone"
    legend = [
        _wrapped(held),
        _wrapped(
            f"* no other is cheaper, faster and roomier; carries: {unit} up to which all limits hold, and"
            f" what breaks first{_across(sizing)}"
        ),
        *([f"{rest} more: --format json, csv or markdown"] if rest else []),
    ]
    return "\n".join((table, *legend))


def _across(sizing: Sizing) -> str:
    return (
        "; @: over nodes, at so many Gb/s a GPU" if any(option.network for option in sizing.options) else ""
    )


def _several(sizing: Sizing) -> list[str]:
    """The columns that tell models and formats apart, where there are several."""
    models = {option.model for option in sizing.options}
    quants = {option.quant for option in sizing.options}
    return [*(["model"] if len(models) > 1 else []), *(["format"] if len(quants) > 1 else [])]


def _row(rank: int, option: Option, several: list[str], *, whole: bool = False) -> list[str]:
    mark = f"{'*' if option.pareto else ' '}{' ' if option.surely else '?'}"
    tight = _TIGHT if len(several) > 1 else 0
    told = {
        "model": option.model if whole else _model(option, _LONGEST_MODEL - tight),
        "format": option.quant,
    }
    cost, tokens = option.cost_per_hour, option.cost_per_million_tokens
    return [
        f"{rank}{mark}",
        f"{option.gpus} × {_short(option.gpu, None if whole else _LONGEST_CARD - tight)}",
        _layout(option),
        *(told[name] for name in several),
        *([] if several and not whole else [_figure(option.at_once)]),
        f"{_seconds(option.ttft_s.best)}..{_seconds(option.ttft_s.high)}",
        f"{option.tpot_s.best * 1000:.0f}..{option.tpot_s.high * 1000:.0f}",
        "" if cost is None else f"{cost:,.2f}",
        *([] if several and not whole else ["" if tokens is None else f"{tokens.best:,.2f}"]),
        f"{_figure(option.carries)} {_BREAKS.get(option.breaks_first, option.breaks_first)}",
    ]


_BREAKS = {"KV room": "KV", "max_num_seqs": "seqs"}


def _model(option: Option, most: int) -> str:
    name = option.model.rsplit("/", 1)[-1]
    return name if len(name) <= most else f"…{name[1 - most :]}"


def _short(gpu: str, most: int | None = None) -> str:
    for maker in _MAKERS:
        gpu = gpu.removeprefix(maker)
    gpu = gpu.replace(" Blackwell", "")
    return gpu if most is None or len(gpu) <= most else f"{gpu[: most - 1]}…"


def _layout(option: Option) -> str:
    parts = [
        f"{option.replicas}×" if option.replicas > 1 else "",
        f"tp{option.tp}" if option.tp > 1 else "",
        f"pp{option.pp}" if option.pp > 1 else "",
        f"dp{option.dp}" if option.dp > 1 else "",
        "ep" if option.dp > 1 else "",
        f"dpa{option.attention_dp}" if option.attention_dp > 1 else "",
        f"@{option.network_bits_per_s / 1e9:.4g}" if option.network_bits_per_s else "",
    ]
    return " ".join(part for part in parts if part) or "1"


def _seconds(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"  # noqa: PLR2004  two digits below ten


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"  # noqa: PLR2004  decimals below ten


def _best(sizing: Sizing) -> str:
    option, request = sizing.best, sizing.request
    if option is None:
        return ""
    rank = sizing.options.index(option) + 1
    kind = "cheapest" if option.cost_per_hour is not None else "fewest cards"
    sure = " that holds at the high end too" if option.surely else " by the best estimate"
    nodes = f" on {option.nodes} nodes" if option.nodes > 1 else ""
    link = f", joined by {option.link}" if option.link else ""
    unit = "users" if request.users else "requests/s"
    double = "holds" if option.survives_double else "does not hold"
    lines = [
        _wrapped(f"{kind}{sure}: {rank}, {option.gpus} × {option.gpu}{nodes}{link}"),
        _line("model", f"{option.model} in {option.quant}"),
        *_cost_lines(option),
        _line(
            "in flight",
            f"{_figure(option.in_flight)} on average; {_figure(option.at_once_worst)} of {request.ctx:,} tokens have"
            f" room, {_figure(option.at_once_expected)} of the {request.held:,} to expect;"
            f" {format_gib(option.headroom_bytes)} GiB to spare on the fullest GPU ({option.verdict})",
        ),
        _line(
            "speed",
            f"first token in {_whole_band(option.ttft_s, 1, 2)} s, then {_whole_band(option.tpot_s, 1000, 0)} ms a"
            f" token; {_whole_band(option.tokens_per_s, 1, 0)} tokens/s in all",
        ),
        _line(
            "head-room",
            f"{option.load_headroom:+.0%}: {option.breaks_first} breaks first, at {_figure(option.carries)} {unit};"
            f" twice the load {double}",
        ),
    ]
    lines += [_line("start" if not index else "", f"{start.where}: {start.command}")
              for index, start in enumerate(option.launch)]  # fmt: skip
    return "\n".join(lines)


def _cost_lines(option: Option) -> list[str]:
    found = []
    if option.cost_per_hour is not None and option.cost_per_million_tokens is not None:
        found.append(
            _line(
                "cost",
                f"{option.cost_per_hour:,.2f} {option.currency} an hour, {option.cost_per_month:,.0f} a month,"
                f" {_whole_band(option.cost_per_million_tokens, 1, 2)} a million generated tokens"
                f" ({option.cost_source})",
            )
        )
    else:
        found.append(_line("cost", "no price known: give one with --prices FILE"))
    if option.power_w is not None:
        found.append(_line("power", f"{option.power_w / 1000:,.1f} kW, the cards' rated power"))
    return found


def _none(sizing: Sizing) -> str:
    lines = ["no option holds the limits", "nearest, and why each is refused:"]
    shown = sizing.nearest[:_SHOWN_MISSES]
    lines += [
        _wrapped(f"  {each.gpus:,} × {_short(each.gpu)}, {_ranks(each)}, {each.quant}: {each.reason}")
        for each in shown
    ]
    rest = len(sizing.nearest) - len(shown)
    if rest > 0:
        lines.append(f"  and {rest} more kinds of cards")
    ways = dict.fromkeys(_WAYS_OUT[each.why] for each in shown if each.why in _WAYS_OUT)
    return "\n".join([*lines, *([_wrapped(f"try {', or '.join(ways)}")] if ways else [])])


_WAYS_OUT = {
    "memory": "--quant, a shorter --ctx or --kv-dtype fp8",
    "TTFT": "a longer --ttft, a shorter --prompt-tokens or --quant",
    "TPOT": "a longer --tpot or --quant",
    "max_gpus": "fewer --users, --quant or more --max-gpus",
    "headroom": "less --headroom or more --max-gpus",
}


def _ranks(refused: Refused) -> str:
    sizes = {"tp": refused.tp, "pp": refused.pp, "dp": refused.dp, "dp-attention": refused.attention_dp}
    return " ".join(f"{name} {size}" for name, size in sizes.items() if size > 1 or name == "tp")


def _whole_band(band: Band, scale: float, digits: int) -> str:
    best, low, high = (f"{value * scale:,.{digits}f}" for value in (band.best, band.low, band.high))
    return best if low == high else f"{best} ({low}-{high})"


def _line(name: str, words: str) -> str:
    return fill(
        f"  {name:<10} {words}", width=_WIDTH, subsequent_indent=" " * 13, break_on_hyphens=False,
        break_long_words=False,
    )  # fmt: skip


def _wrapped(words: str) -> str:
    return fill(words, width=_WIDTH, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False)


def sizing_markdown(sizing: Sizing) -> str:
    """Every option as a Markdown table, under what was asked."""
    money = sizing.request.prices.currency
    table = tabulate(
        [
            _row(rank, option, ["model", "format"], whole=True)
            for rank, option in enumerate(sizing.options, 1)
        ],
        headers=["", "GPUs", "layout", "model", "format", "room", "TTFT s", "TPOT ms", f"{money}/h",
                 f"{money}/Mtok", "carries"],
        tablefmt="github",
        disable_numparse=True,
    )  # fmt: skip
    body = table if sizing.options else _none(sizing)
    return f"{_headline(sizing)}\n\n{body}"
