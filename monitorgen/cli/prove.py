"""`monitorgen prove`: the live proof."""

from __future__ import annotations

import gc
from pathlib import Path

import click

from monitorgen.cli.options import profile_options


@click.command()
@profile_options
@click.option(
    "--prometheus-bin",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The Prometheus to run.",
)
@click.option(
    "--seconds",
    default=80.0,
    show_default=True,
    type=click.FloatRange(10, 3600),
    help="Wait at most so long.",
)
@click.option(
    "--report", type=click.Path(path_type=Path, dir_okay=False), help="Where the ledger is written, as JSON."
)
def prove(
    profile: str | None,
    config: tuple[Path, ...],
    sets: tuple[str, ...],
    prometheus_bin: Path | None,
    seconds: float,
    report: Path | None,
) -> None:
    """Prove a profile live: a real Prometheus runs its rules over recordings of a real vLLM, played back.

    Rules and panels whose families the recorded server does not export are listed with the reason, and so are
    alerts, which `check` provokes in simulated time.
    """
    gc.enable()  # this one runs for long
    from monitorgen.build import build
    from monitorgen.profile import load_profile
    from monitorgen.prove.embedded import prove_replayed
    from monitorgen.prove.report_live import print_live

    loaded = load_profile(profile or "optimized", config=config, sets=sets)
    result = prove_replayed(
        build(loaded),
        seconds=seconds,
        binary=prometheus_bin,
        progress=lambda text: click.echo(text, err=True),
    )
    path = report or Path("dist") / f"{loaded.name}.ledger.json"
    result.save(path)
    print_live(result.ledger)
    for error in result.report.errors:
        click.echo(f"rule error: {error}", err=True)
    click.echo(f"ledger: {path}")
    raise SystemExit(1 if result.failed else 0)
