"""`monitorgen prove`: every item of a profile's bundle, down to live metrics."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING

import click

from monitorgen.cli.options import access_of, access_options, profile_options

if TYPE_CHECKING:
    from monitorgen.build import Built

FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("bundle", required=False, type=click.Path(path_type=Path))
@profile_options
@click.option(
    "--replay/--no-replay",
    default=None,
    help="Recordings of a real vLLM, played back. On where vLLM is watched and no other source is given.",
)
@click.option(
    "--workload/--no-workload",
    default=None,
    help="The bundled workloads whose metrics the profile reads: a decode loop, an attention kernel. "
    "On where torch is installed, unless --prometheus is given.",
)
@click.option(
    "--vllm",
    metavar="[MODEL]",
    is_flag=False,
    flag_value="",
    help="A real vLLM, started here and put under load; a tiny random model where none is named.",
)
@click.option(
    "--scrape",
    multiple=True,
    metavar="[JOB=]URL",
    help="An endpoint of your own, only ever read. Repeatable.",
)
@click.option(
    "--prometheus",
    metavar="URL",
    help="A Prometheus, Mimir, Thanos or VictoriaMetrics that runs already is asked, and not changed.",
)
@access_options
@click.option("--alerts/--no-alerts", default=True, help="Provoke every alert. On by default.")
@click.option(
    "--time-scale",
    default=60.0,
    show_default=True,
    type=click.FloatRange(1),
    help="Alerts run with every duration divided by this.",
)
@click.option("--live-only", is_flag=True, help="Leave the static and simulated proofs to `check`.")
@click.option(
    "--require",
    multiple=True,
    type=click.Choice(["static", "simulated", "live"]),
    help="Exit with 1 if anything is unproven at this level. Repeatable.",
)
@click.option("--prometheus-bin", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--seconds",
    default=80.0,
    show_default=True,
    type=click.FloatRange(10, 3600),
    help="Wait for values at most so long.",
)
@click.option(
    "--report",
    "reports",
    multiple=True,
    type=FILE,
    help="Where the ledger goes: .json, .xml (JUnit) or .html. Repeatable.",
)
def prove(
    bundle: Path | None,
    profile: str | None,
    config: tuple[Path, ...],
    sets: tuple[str, ...],
    replay: bool | None,
    workload: bool | None,
    vllm: str | None,
    scrape: tuple[str, ...],
    prometheus: str | None,
    alerts: bool,
    time_scale: float,
    live_only: bool,
    require: tuple[str, ...],
    prometheus_bin: Path | None,
    seconds: float,
    reports: tuple[Path, ...],
    **access: object,
) -> None:
    """Prove a profile, or a written BUNDLE by what its profile means, down to live metrics.

    A real Prometheus runs the rules over servers that it scrapes; every rule and every panel is asked for
    its values. A second one runs them in quick motion, where every alert is provoked, fires, reaches a real
    Alertmanager and a receiver, and resolves. What could not be proven is listed with the reason.
    """
    gc.enable()  # this one runs for long
    from monitorgen.build import build
    from monitorgen.profile import load_profile
    from monitorgen.prove.check import profile_of
    from monitorgen.prove.leaving import clean_exit
    from monitorgen.prove.preflight import preflight_all
    from monitorgen.prove.prometheus_api import PrometheusClient
    from monitorgen.prove.report_live import print_proven, say
    from monitorgen.prove.run import prove_profile
    from monitorgen.prove.saved import LedgerFile
    from monitorgen.prove.session import Options, vllm_options
    from monitorgen.prove.workload import workload_python

    click.get_current_context().with_resource(clean_exit())
    name = profile or (profile_of(bundle) if bundle else "optimized")
    loaded = load_profile(name, config=config, sets=sets)
    built = build(loaded)
    files = [LedgerFile(path) for path in reports or (Path("dist") / f"{loaded.name}.ledger.json",)]
    for file in files:
        file.prepare()
    server_access = access_of(access)
    checked = preflight_all(scrape, server_access, built.bundle.scrape_jobs)
    running = PrometheusClient(prometheus, access=server_access) if prometheus else None
    options = Options(
        seconds=seconds,
        time_scale=time_scale,
        alerts=alerts,
        replay=_replays(built, scrape or running or vllm is not None) if replay is None else replay,
        vllm=None if vllm is None else vllm_options(vllm),
        workload=workload_python() if (running is None if workload is None else workload) else None,
        sources=tuple(one.source for one in checked if one.ok),
        binary=prometheus_bin,
    )
    outcome = prove_profile(
        built, options, checked, folder=bundle, running=running, live_only=live_only, files=files, say=say
    )
    print_proven(outcome, files, require)
    raise SystemExit(outcome.exit_code(require))


def _replays(built: Built, others: object) -> bool:
    """Whether recordings are played back by default: they are of vLLM, and for want of something better."""
    return not others and any(job.engine == "vllm" for job in built.bundle.scrape_jobs)
