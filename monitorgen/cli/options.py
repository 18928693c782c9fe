"""Options that several verbs share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from monitorgen.prove.access import Access

F = TypeVar("F", bound=Callable[..., Any])


def report_option(*names: str) -> Callable[[F], F]:
    """A repeatable option for files that the ledger is written to (`monitorgen.prove.saved`)."""
    return click.option(
        *(names or ("--report", "reports")),
        multiple=True,
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="Write the ledger there: .json, .xml (JUnit) or .html (a page for people). Repeatable.",
    )


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


def access_options(function: F) -> F:
    """How servers of the user are asked: bearer token, basic auth, TLS; secrets are named by their files."""
    file = click.Path(path_type=Path, exists=True, dir_okay=False)
    for option in reversed(
        (
            click.option("--bearer-token-file", type=file, help="A file with the token of --scrape."),
            click.option("--basic-auth-user", metavar="NAME", help="The user of --scrape."),
            click.option("--basic-auth-password-file", type=file, help="A file with that user's password."),
            click.option("--ca-file", type=file, help="The authority that signed the servers' certificates."),
            click.option("--cert-file", type=file, help="A client certificate."),
            click.option("--key-file", type=file, help="Its key."),
            click.option("--server-name", metavar="NAME", help="The name on the servers' certificates."),
            click.option("--insecure", is_flag=True, help="Trust any certificate."),
            click.option("--tenant", metavar="ID", help="X-Scope-OrgID, for Mimir and its like."),
        )
    ):
        function = option(function)
    return function


def access_of(given: Mapping[str, object]) -> Access:
    """The access that `access_options` gave. Raises InputError for options that exclude each other."""
    from monitorgen.prove.access import Access

    return Access(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
