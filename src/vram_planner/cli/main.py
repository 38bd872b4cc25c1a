"""The command `vram-plan`."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

import click

from vram_planner._version import __version__
from vram_planner.cli import options as opt
from vram_planner.errors import PlannerError

_DOES_NOT_FIT = 3
_WRONG_INPUT = 2
_LATER = ("size", "simulate", "sweep", "compare", "validate")


class _PlanByDefault(click.Group):
    """`vram-plan --model …` is `vram-plan plan --model …`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put `plan` in front where the first word is one of its options."""
        if args and args[0].startswith("-") and args[0] not in ("--help", "-h", "--version"):
            args = ["plan", *args]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands of this file, and those that are loaded when they are asked for."""
        return [*super().list_commands(ctx), *_LATER]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load the larger commands on demand: the plain command does without their imports."""
        if cmd_name in _LATER:
            found: click.Command = getattr(import_module(f"vram_planner.cli.{cmd_name}"), cmd_name)
            return found
        return super().get_command(ctx, cmd_name)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Show the options of `plan` too: they are those of the plain command."""
        plan_command = self.commands["plan"]
        rows = [
            record for p in plan_command.get_params(ctx) if (record := p.get_help_record(ctx)) is not None
        ]
        with formatter.section("Options of the plain command"):
            formatter.write_dl(rows)
        self.format_commands(ctx, formatter)


@click.group(
    cls=_PlanByDefault, no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, prog_name="vram-plan")
def cli() -> None:
    """
    Say how much GPU memory a language model needs to be served, how many requests then run at once, on what.

    \b
    vram-plan --model 7b --ctx 8192 --concurrency 16
    vram-plan --model 32b --ctx 16384 --concurrency 8 --gpu "2x RTX 4090"

    Exit status: 0 answered, 3 it does not fit, 2 the input is wrong, 4 it cannot be measured here.
    """  # noqa: D301  \b is the very character by which click keeps these lines apart


@cli.command()
@opt.workload_options
@opt.engine_options
@opt.hardware_options
@opt.precision_options
@opt.tuning_options
@opt.format_option
@click.option("--explain", is_flag=True, help="Every part as a formula with its numbers, and its source.")
@opt.catalogue_option
@opt.offline_option
def plan(output: str, *, explain: bool, catalogue: str | None, **options: Any) -> int:
    """Plan the memory of a model under a workload."""
    _use_catalogue(catalogue)
    from vram_planner.cli.show import show_plan
    from vram_planner.planning.estimate import estimate
    from vram_planner.planning.request import PlanRequest

    request = PlanRequest.of(**options)
    answer = estimate(request)
    show_plan(request, answer, output, explain=explain)
    return _DOES_NOT_FIT if answer.fits is False else 0


@cli.command()
@click.argument("pattern", required=False)
@opt.format_option
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@opt.catalogue_option
@opt.offline_option
def models(
    pattern: str | None, output: str, catalogue: str | None, *, as_json: bool, offline: bool | None
) -> int:
    """List the models of the catalogue; explain the one that PATTERN names."""
    _use_catalogue(catalogue)
    from vram_planner.cli.show import show_models

    show_models(pattern, "json" if as_json else output, offline=bool(offline))
    return 0


def _use_catalogue(path: str | None) -> None:
    if path is not None:
        from vram_planner.model_profiles.own_catalogue import use_catalogue

        use_catalogue(path)


@cli.command()
@click.argument("pattern", required=False)
@opt.format_option
def gpus(pattern: str | None, output: str) -> int:
    """List the accelerators of the catalogue; explain the one that PATTERN names, `auto` for this machine's."""
    from vram_planner.cli.show import show_gpus

    show_gpus(pattern, output)
    return 0


def main(args: list[str] | None = None) -> None:
    """Run the command; the one place that turns errors into `error:`, `hint:` and an exit status."""
    try:
        status = cli.main(args, prog_name="vram-plan", standalone_mode=False)
    except PlannerError as error:
        _complain(str(error), error.hint)
        status = error.exit_status
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else error.format_message())
        status = 0
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "vram-plan"
        _complain(error.format_message(), f"see {where} --help")
        status = _WRONG_INPUT
    except click.Abort:
        _complain("interrupted", "nothing was left running")
        status = 130
    except BrokenPipeError:
        # The reader has gone (`| head`): silence the flush at exit too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    sys.exit(status if isinstance(status, int) else 0)


def _complain(message: str, hint: str) -> None:
    click.echo(f"error: {_printable(message)}\nhint: {_printable(hint)}", err=True)


def _printable(text: str) -> str:
    """One line without control characters: what was typed may hold anything."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


if __name__ == "__main__":
    main()
