"""`monitorgen catalog`: what engines expose, by version; record it; see what changed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from monitorgen.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from monitorgen.catalog import Catalog, Family
    from monitorgen.catalog.drift import Change, Loss

FORMAT = click.option("--format", "format_", type=click.Choice(["table", "json"]), default="table")


@click.group()
def catalog() -> None:
    """What engines expose, by version."""


@catalog.command(name="list")
@click.option("--engine", help="Only this engine.")
@FORMAT
def list_(engine: str | None, format_: str) -> None:
    """List the catalogs that are here, and what each rests on."""
    from monitorgen import catalog as room

    names = (engine,) if engine else room.engines()
    found = [room.load(name, version) for name in names for version in room.versions(name)]
    if format_ == "json":
        _print_json([_summary(one) for one in found])
        return
    table = _table("catalog", "families", "seen on the wire", "rests on")
    for one in found:
        wire = sum(family.origin == "wire" for family in one.families.values())
        table.add_row(one.reference, str(len(one.families)), str(wire), one.provenance)
    _print(table)


@catalog.command()
@click.argument("reference")
@click.argument("family", required=False)
@FORMAT
def show(reference: str, family: str | None, format_: str) -> None:
    """Show the families of a catalog (vllm@0.32, or a file), or everything about one FAMILY."""
    from monitorgen.catalog import resolve

    found = resolve(reference)
    if family:
        _show_family(found, family, format_)
    elif format_ == "json":
        rows = [_plain(one) for _, one in sorted(found.families.items())]
        _print_json({**_summary(found), "families": rows})
    else:
        table = _table("family", "type", "unit", "labels", "evidence", "needs")
        for name, one in sorted(found.families.items()):
            table.add_row(name, one.type, one.unit, _brief(one.labels), one.origin, one.needs)
        _print(table)
        click.echo(f"{found.reference}: {len(found.families)} families, {found.provenance}")


def _show_family(found: Catalog, name: str, format_: str) -> None:
    from monitorgen.catalog import nearest

    family = found.families.get(name) or found.family_of(name)
    if family is None:
        near = nearest(name, [found])
        hint = f"did you mean {', '.join(near)}?" if near else "`catalog show` without a family lists them"
        raise InputError(f"{found.reference} has no family {name!r}", hint=hint)
    if format_ == "json":
        _print_json(_plain(family))
        return
    table = _table("", "")
    for key, value in _plain(family).items():
        if isinstance(value, dict):
            value = [f"{label}: {', '.join(seen)}" for label, seen in value.items()]
            table.add_row(key, "\n".join(value))
        elif value not in ("", [], False):
            table.add_row(key, ", ".join(map(str, value)) if isinstance(value, list) else str(value))
    _print(table)


@catalog.command()
@click.argument("sources", nargs=-1, required=True, metavar="URL-OR-FILE...")
@click.option("--engine", required=True, help="The engine's name, such as vllm.")
@click.option("--version", required=True, help="The engine's version, such as 0.32.0.")
@click.option("--needs", multiple=True, metavar="FAMILY=FLAG", help="What a family needs; FAMILY may have *.")
@click.option("--timeout", type=click.FloatRange(min=0.1), default=10.0, show_default=True, help="Seconds.")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), required=True, help="The catalog file to write."
)
def capture(
    sources: tuple[str, ...], engine: str, version: str, needs: tuple[str, ...], timeout: float, out: Path
) -> None:
    """Record a catalog from a server's /metrics, or from pages that were saved; several are merged."""
    from monitorgen.catalog.capture import capture as record
    from monitorgen.catalog.store import write

    found = record(sources, engine=engine, version=version, needs=_needs(needs), timeout=timeout)
    write(found, out)
    conditional = [name for name, one in found.families.items() if one.needs.startswith("seen in ")]
    click.echo(f"{out}: {len(found.families)} families, {found.provenance}")
    for name in conditional:
        click.echo(f"  {name} {found.families[name].needs}: say why with --needs '{name}=--flag'")


def _needs(pairs: Sequence[str]) -> dict[str, str]:
    split = {pair: pair.partition("=") for pair in pairs}
    for pair, (name, _, flag) in split.items():
        if not (name and flag):
            raise InputError(f"--needs {pair!r} is not of the form FAMILY=FLAG")
    return {name: flag for name, _, flag in split.values()}


@catalog.command()
@click.argument("old")
@click.argument("new")
@click.option(
    "--rules",
    type=click.Path(path_type=Path),
    multiple=True,
    help="A rule file or dashboard: say what it loses. May be repeated.",
)
@FORMAT
@click.pass_context
def drift(context: click.Context, old: str, new: str, rules: tuple[Path, ...], format_: str) -> None:
    """Show what changes from catalog OLD to NEW. Exit code 1 if one of the --rules loses something."""
    from monitorgen.catalog import resolve
    from monitorgen.catalog.drift import compare, losses
    from monitorgen.catalog.expressions import read

    before, after = resolve(old), resolve(new)
    if before.engine != after.engine:
        raise InputError(f"{before.reference} and {after.reference} are different engines")
    changes = compare(before, after)
    expressions = [expression for path in rules for expression in read(path)]
    lost, broken = losses(expressions, before, after)
    if format_ == "json":
        _print_json(
            {
                "old": before.reference,
                "new": after.reference,
                "changes": [_change_plain(change) for change in changes],
                "lost": [_loss_plain(loss) for loss in lost],
                "unparsed": [f"{expression.origin}" for expression in broken],
            }
        )
    else:
        _print_changes(f"{before.reference} -> {after.reference}", changes)
        if rules:
            _print_losses(lost, len(expressions))
        for expression in broken:
            click.echo(
                f"{expression.origin}: {expression.item} is not PromQL, so it was not judged", err=True
            )
    if lost:
        context.exit(1)


def _print_changes(title: str, changes: Sequence[Change]) -> None:
    table = _table("change", "family", "was", "is", "note")
    for change in changes:
        table.add_row(change.kind, change.family, _brief(change.removed), _brief(change.new), change.note)
    _print(table)
    counts = {kind: sum(change.kind == kind for change in changes) for kind in (c.kind for c in changes)}
    told = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    click.echo(f"{title}: {told or 'nothing changes'}")


def _print_losses(lost: Sequence[Loss], total: int) -> None:
    for loss in lost:
        click.echo(f"{loss.origin}: {loss.item}: {loss.reason} ({loss.hint})")
    click.echo(f"{len(lost)} selectors lost in {total} expressions")


def _summary(one: Catalog) -> dict[str, Any]:
    return {
        "engine": one.engine,
        "version": one.version,
        "families": len(one.families),
        "recorded": one.recorded,
        "provenance": one.provenance,
    }


def _plain(family: Family) -> dict[str, Any]:
    return {
        "name": family.name,
        "type": family.type,
        "unit": family.unit,
        "help": family.help,
        "labels": list(family.labels),
        "values": {label: list(seen) for label, seen in family.values.items()},
        "buckets": list(family.buckets),
        "origin": family.origin,
        "needs": family.needs,
        "created": family.created,
        "series": list(family.series),
    }


def _change_plain(change: Change) -> dict[str, Any]:
    return {
        "kind": change.kind,
        "family": change.family,
        "removed": list(change.removed),
        "new": list(change.new),
        "note": change.note,
    }


def _loss_plain(loss: Loss) -> dict[str, Any]:
    return {
        "file": loss.origin.file,
        "line": loss.origin.line,
        "item": loss.item,
        "selector": loss.selector,
        "reason": loss.reason,
        "hint": loss.hint,
    }


def _brief(items: Sequence[str], most: int = 8) -> str:
    return ", ".join(items[:most]) + (f", +{len(items) - most}" if len(items) > most else "")


def _table(*columns: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, show_header=any(columns), pad_edge=False)
    for column in columns:
        table.add_column(Text(column), overflow="fold")
    return table


def _print(table: Table) -> None:
    import sys

    from rich.console import Console

    # A pipe has no width: then nothing is folded, so that grep finds whole names.
    console = Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else 1000)
    with console.capture() as printed:
        console.print(table)
    click.echo("\n".join(line.rstrip() for line in printed.get().strip("\n").split("\n")))


def _print_json(data: Any) -> None:
    click.echo(json.dumps(data, indent=2, ensure_ascii=False))
