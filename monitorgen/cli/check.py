"""`monitorgen check`: static checks and simulated proofs."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import click

from monitorgen.cli.options import profile_options, report_option


@click.command()
@click.argument("bundle", required=False, type=click.Path(path_type=Path, exists=True))
@profile_options
@click.option(
    "--level",
    type=click.Choice(["static", "simulated"]),
    default="simulated",
    show_default=True,
    help="How far to go.",
)
@click.option(
    "--promtool",
    "promtools",
    multiple=True,
    help="A promtool to ask. Repeatable: one per Prometheus version.",
)
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
@report_option()
@click.option("--require", is_flag=True, help="Exit 1 if anything is unproven, too.")
@click.option(
    "--all", "everything", is_flag=True, help="List every item, not only those that ask for attention."
)
def check(
    bundle: Path | None,
    profile: str | None,
    config: tuple[Path, ...],
    sets: tuple[str, ...],
    level: str,
    promtools: tuple[str, ...],
    form: str,
    reports: tuple[Path, ...],
    require: bool,
    everything: bool,
) -> None:
    """Prove a profile's bundle, or the written BUNDLE folder, statically and in simulated time.

    With BUNDLE and a profile, the folder's own files are put to the profile's proofs. BUNDLE alone is checked
    against the profile that its manifest names.
    """
    from monitorgen.targets.grafana import drawing

    # Before the other imports: what draws imports grafanalib meanwhile. A folder's dashboards are drawn.
    with nullcontext() if bundle else drawing() as dashboards:
        from monitorgen.prove.check import check_bundle, check_profile
        from monitorgen.prove.report import print_ledger, progress_bar
        from monitorgen.prove.saved import prepare_reports, write_reports

        prepare_reports(reports)
        with progress_bar(enabled=form == "table") as progress:
            if bundle is not None:
                result = check_bundle(bundle, profile, config, sets, level, promtools, progress)
            else:
                name = profile or "optimized"
                result = check_profile(name, config, sets, level, promtools, progress, dashboards)
    write_reports(result.ledger, reports)
    if form == "json":
        click.echo(result.to_json(), nl=False)
    else:
        print_ledger(result, level=level, everything=everything)
    raise SystemExit(result.exit_code(level, require=require))
