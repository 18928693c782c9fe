"""Options that several verbs share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def profile_options(function: F) -> F:
    """--profile, --config and --set."""
    for option in (
        click.option(
            "--set",
            "sets",
            multiple=True,
            metavar="NAME=VALUE",
            help="Override a threshold, or any key by its dotted path. Repeatable.",
        ),
        click.option(
            "--config",
            "config",
            multiple=True,
            type=click.Path(path_type=Path, dir_okay=False),
            help="A YAML file of overrides: thresholds, metrics, or any section of a profile. Repeatable.",
        ),
        click.option(
            "-p",
            "--profile",
            "profile",
            metavar="NAME|FILE",
            help="A profile that ships with monitorgen, or a file.",
        ),
    ):
        function = option(function)
    return function
