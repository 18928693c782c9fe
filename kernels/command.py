"""How a workload's click command is run by a person, and how the harness reads the same flags."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from monitorgen.kernels.workload import UsageError


def run(command: click.Command, argv: Sequence[str] | None, name: str) -> int:
    """Run a command as a program: its exit code, 2 with one line on standard error for wrong input."""
    try:
        code = command.main(args=None if argv is None else list(argv), prog_name=name, standalone_mode=False)
    except click.ClickException as error:
        click.echo(f"{name}: {error.format_message()}", err=True)
        return 2
    except UsageError as error:
        click.echo(f"{name}: {error}", err=True)
        return 2
    except click.exceptions.Abort:
        click.echo("interrupted", err=True)
        return 130
    return code if isinstance(code, int) else 0


def check_writable(**files: str | None) -> None:
    """Raise UsageError for a file that cannot be written where its flag says: before the work, not after."""
    for flag, name in files.items():
        if name is None:
            continue
        path = Path(name)
        if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
            what = "is a folder" if path.is_dir() else f"the folder {path.parent} cannot be written to"
            raise UsageError(f"--{flag} {name}: {what}")


def parse(command: click.Command, flags: Sequence[str], name: str) -> dict[str, Any]:
    """The values of a command's options, defaults included, without running it. Raises UsageError."""
    try:
        with command.make_context(name, list(flags)) as context:
            return dict(context.params)
    except click.exceptions.Exit:
        raise UsageError(f"{name}: --help is no flag of a run") from None
    except click.ClickException as error:
        raise UsageError(f"{name}: {error.format_message()}") from None
