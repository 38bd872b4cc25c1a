"""`vram-plan validate fleet`."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from typing import Any

import click

from vram_planner.cli.progress import Steps
from vram_planner.cli.validate_runs import count_of, live
from vram_planner.errors import RequestError

# Of the options of `validate live`, those that have another meaning here.
_OWN = {"model", "gpu", "parallel", "offline", "as_json"}


@click.command()
@click.option("--model", help="An alias, org/name, or a path that every node has.")
@click.option("--inventory", is_flag=True, help="List what the nodes have; measure nothing.")
@click.option(
    "--address",
    default="auto",
    metavar="auto|HOST:PORT",
    show_default=True,
    help="The Ray cluster; auto is the one that this machine is part of.",
)
@click.option(
    "--node-limit",
    "node_limit_s",
    type=float,
    default=3600,
    show_default=True,
    help="Seconds that the checks of one node may take in all.",
)
@click.option(
    "--wait",
    "wait_s",
    type=float,
    default=60,
    show_default=True,
    help="Seconds to wait for GPUs that other Ray work has.",
)
@click.option("--offline", is_flag=True, help="The nodes ask no hub.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def fleet(*, model: str | None, inventory: bool, as_json: bool, **options: Any) -> int:
    """
    Run `validate live` on every GPU of a Ray cluster, and gather one table (needs [fleet]; [validate] on each node).

    Exit status: 0 the plan held everywhere, 3 it did not somewhere, 2 the input is wrong or there is no cluster,
    4 a node was lost or could not be measured.
    """
    from vram_planner.cli.show import emit
    from vram_planner.report.data import as_json as json_text
    from vram_planner.report.fleet import fleet_text
    from vram_planner.units import parse_size
    from vram_planner.validate.fleet_run import fleet as run

    if (model is None) != inventory:
        raise RequestError(
            "a fleet is measured with a model, or listed without", hint="give --model, or --inventory"
        )
    limit = options.pop("memory_limit")
    options |= {
        "concurrency": count_of(options["concurrency"]),
        "memory_limit_bytes": None if limit is None else parse_size(limit),
        "save": not options.pop("no_save"),
    }
    # Ray prints what befalls its nodes to stdout; the rows say it.
    with Steps() as steps, redirect_stdout(io.StringIO()):
        found = run(model, **options, tell=steps)
    emit(json_text(found.to_dict()) if as_json else fleet_text(found))
    return found.exit_status


fleet.params[1:1] = [param for param in live.params if param.name not in _OWN]
