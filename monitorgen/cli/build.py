"""`monitorgen build`: profile to files."""

from __future__ import annotations

from pathlib import Path

import click

from monitorgen.cli.options import profile_options


@click.command()
@profile_options
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where to write; dist/PROFILE by default.",
)
@click.option(
    "--check",
    "compare_only",
    is_flag=True,
    help="Write nothing; exit 1 if OUT is not what the profile gives.",
)
@click.option(
    "--force", is_flag=True, help="Replace a folder that holds files which monitorgen did not write."
)
def build(
    profile: str | None,
    config: tuple[Path, ...],
    sets: tuple[str, ...],
    out: Path | None,
    compare_only: bool,
    force: bool,
) -> None:
    """Write the bundle of a profile: rules, alerts, scrape config, dashboards, runbooks and unit tests."""
    from monitorgen.targets.grafana import drawing

    with drawing() as dashboards:  # before the other imports: what draws imports grafanalib meanwhile
        from monitorgen.build import build as build_bundle
        from monitorgen.profile import load_profile
        from monitorgen.prove.files import profile_files
        from monitorgen.prove.texts import refuse_broken_texts
        from monitorgen.targets.writer import compare, write

        loaded = load_profile(profile or "optimized", config=config, sets=sets)
        built = build_bundle(loaded)
        refuse_broken_texts(built)
        files, about = profile_files(built, dashboards)
    out = out or Path("dist") / loaded.name
    if compare_only:
        differences = compare(files, out, about=about)
        for difference in differences:
            click.echo(str(difference))
        if differences:
            click.echo(f"{out} is not what the profile {loaded.name} gives; run build and commit", err=True)
            raise SystemExit(1)
        click.echo(f"{out} is what the profile {loaded.name} gives ({len(files)} files)")
        return
    write(files, out, about=about, force=force)
    bundle = built.bundle
    panels = sum(1 for dashboard in bundle.dashboards for _ in dashboard.panels)
    click.echo(
        f"{out}: {sum(1 for _ in bundle.recording_rules)} recording rules, {len(built.alerts)} alerts, "
        f"{panels} panels, {len(bundle.runbooks)} runbooks, {len(files)} files"
    )
    if bundle.dormant:
        names = ", ".join(name for name, _ in bundle.dormant)
        click.echo(f"  dormant (removed, or reading what no engine exports): {names}", err=True)
