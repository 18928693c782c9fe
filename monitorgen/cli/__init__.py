"""The command line. Verbs are loaded when called, so that --help imports click and nothing heavier."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import signal
import sys
from importlib import import_module

import click

from monitorgen import __version__

# Verb -> (module that holds a command of that name, one line of help)
VERBS: dict[str, tuple[str, str]] = {
    "build": (
        "monitorgen.cli.build",
        "Write the bundle of a profile: rules, alerts, dashboards, tests, runbooks.",
    ),
    "check": ("monitorgen.cli.check", "Prove a bundle statically and in simulated time."),
    "prove": ("monitorgen.cli.prove", "Prove a bundle live, on recordings of a real vLLM played back."),
    "report": ("monitorgen.cli.report", "Put ledgers together; write them as a page, JUnit XML or JSON."),
    "catalog": ("monitorgen.cli.catalog", "What engines export: list, show, capture, drift."),
    "profile": ("monitorgen.cli.profile", "Profiles: list, show, new, schema."),
    "workload": ("monitorgen.cli.workload", "Bundled workloads that export live metrics: list, run."),
    "bench": ("monitorgen.cli.bench", "Time the workloads: list-targets, run, compare."),
    "kv-cache": ("monitorgen.cli.kv_cache", "How many tokens and requests fit into a GPU's KV cache."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs, in the order of use."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a verb."""
        if cmd_name not in VERBS:
            return None
        module = import_module(VERBS[cmd_name][0])
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of verbs, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in VERBS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Offer the nearest verb for an unknown one."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib

            near = difflib.get_close_matches(args[0], VERBS, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"{error.message.rstrip('.')}.{hint}", ctx) from None


@click.group(
    cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(__version__, prog_name="monitorgen")
def cli() -> None:
    """Monitoring as code for LLM serving: rules, alerts and dashboards, each one proven."""


def script() -> None:
    """The console script: `main`, then out at once.

    Python would take its modules apart one by one first, a tenth of what `build` takes. All that matters is
    closed by now: what is left to do is to print what was said.
    """
    try:
        main()
    except SystemExit as ended:
        with contextlib.suppress(BrokenPipeError, ValueError):  # the reader has gone; `main` closed it
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(ended.code if isinstance(ended.code, int) else 0)


def main() -> None:
    """The program: errors of ours become one message and their exit code, never a traceback.

    It ends with SystemExit, which leaves the process to its caller.
    """
    # pydantic looks through the metadata of all installed packages for plugins that we do not use: 30 ms.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")
    # Runs are short and keep nearly all they make: looking for cyclic garbage only takes time.
    gc.disable()
    try:
        try:
            code = cli.main(standalone_mode=False)
        finally:
            sys.stdout.flush()  # here a full disk is still an error that can be told
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Abort:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # we are leaving already
        click.echo("interrupted", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except BrokenPipeError:
        # The reader (head, less) has gone; that is no error of ours.
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still in its buffer
        click.echo(f"error: cannot write all of the output: {error.strerror}", err=True)
        sys.exit(1)
    except Exception as error:
        from monitorgen.errors import MonitorgenError

        if not isinstance(error, MonitorgenError):
            raise
        click.echo(click.style("error: ", fg="red", bold=True, reset=True) + str(error), err=True)
        sys.exit(error.exit_code)
