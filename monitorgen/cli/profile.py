"""`monitorgen profile`: list, show, new, schema."""

from __future__ import annotations

import json
from pathlib import Path

import click

from monitorgen.cli.options import profile_options


@click.group()
def profile() -> None:
    """Profiles: what a person writes."""


@profile.command("list")
def list_profiles() -> None:
    """List the profiles that ship with monitorgen."""
    from monitorgen.profile import builtin_names, load_profile

    for name in builtin_names():
        loaded = load_profile(name)
        p = loaded.profile
        click.echo(f"{name:12} {p.title} ({len(p.signals)} signals, {len(p.alerts)} alerts)")


@profile.command("show")
@click.argument("name")
@profile_options
def show(name: str, profile: str | None, config: tuple[Path, ...], sets: tuple[str, ...]) -> None:
    """Show a profile with what it extends merged in, as YAML."""
    import yaml

    from monitorgen.profile import load_profile

    loaded = load_profile(name, config=config, sets=sets)
    click.echo(yaml.safe_dump(loaded.document.data, sort_keys=False, allow_unicode=True, width=110), nl=False)


@profile.command("new")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--extends", default="optimized", show_default=True, help="The profile to start from.")
def new(file: Path, extends: str) -> None:
    """Write a commented starter profile to FILE."""
    from monitorgen.profile.starter import write_starter

    write_starter(file, extends)
    click.echo(f"{file}: edit it, then run `monitorgen build --profile {file}`")


@profile.command("schema")
@click.option("-o", "--out", type=click.Path(path_type=Path, dir_okay=False), help="Write to a file.")
def schema(out: Path | None) -> None:
    """Print the JSON Schema of profiles, for completion in editors."""
    from monitorgen.profile.schema import profile_schema

    text = json.dumps(profile_schema(), indent=2, sort_keys=True) + "\n"
    if out:
        out.write_text(text, encoding="utf-8")
        click.echo(f"{out}: name it in a profile's first line: # yaml-language-server: $schema={out}")
    else:
        click.echo(text, nl=False)
