"""`vram-plan validate server`."""

from __future__ import annotations

from typing import Any

import click

from vram_planner.cli import options as opt
from vram_planner.cli.progress import Steps

_DRIFTED, _NOT_MEASURED = 3, 4


@click.command()
@click.argument("url")
@click.option(
    "--model", help="What it serves, if its own name for it is not enough: alias, directory, *.gguf."
)
@click.option("--ctx", type=opt.TOKENS, help="The longest request that you want of it.")
@click.option("--concurrency", type=opt.WHOLE, help="How many of those at once you want of it.")
@opt.server_options
@click.option("--load", type=opt.WHOLE, metavar="N", help="Send 1, 2, 4 … N requests at once and time them.")
@click.option("--prompt-tokens", type=opt.TOKENS, help="Of each request of the load. [default: 512]")
@click.option("--output-tokens", type=opt.TOKENS, help="Of each answer. [default: 64]")
@click.option(
    "--ttft", "ttft_s", type=float, metavar="S", help="90 % get the first token within so many seconds."
)
@click.option("--tpot", "tpot_s", type=float, metavar="S", help="90 % get each further token within so many.")
@click.option(
    "--time-limit",
    "step_limit_s",
    type=float,
    default=60,
    show_default=True,
    help="Seconds that one step of the load may take.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=float,
    default=10,
    show_default=True,
    help="Seconds that one question may take.",
)
@click.option(
    "--api-key", envvar="VRAM_PLANNER_API_KEY", show_envvar=True, help="The key, if the server wants one."
)
@click.option("--tolerance", type=float, default=0.05, show_default=True, help="How far off the plan may be.")
@click.option("--save", is_flag=True, help="Keep what it teaches: later plans on this card use it.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def server(url: str, *, as_json: bool, **options: Any) -> int:
    """
    Ask a running vLLM, SGLang, llama-server or Ollama at URL what it serves, and compare that with its plan.

    Exit status: 0 the plan held within --tolerance, 3 it or a limit that you gave did not, 2 the input is wrong,
    4 it could not be measured.
    """
    from vram_planner.cli.show import emit, warn
    from vram_planner.report.data import as_json as json_text
    from vram_planner.report.server import server_text
    from vram_planner.validate.server_run import server as run

    with Steps() as steps:
        found = run(url, **options, tell=steps)
    for line in found.warnings:
        warn(line)
    emit(json_text(found.to_dict()) if as_json else server_text(found))
    if found.held is False or (found.load is not None and not found.load.kept_limits):
        return _DRIFTED
    if found.held is None and found.load is None:
        warn(
            "nothing was compared: say --gpu for its card, --model for what it serves, or --load N to time it"
        )
        return _NOT_MEASURED
    return 0
