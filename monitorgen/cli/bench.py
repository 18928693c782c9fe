"""`monitorgen bench`: time the workloads. Needs click only, so that it runs where the generator does not."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from monitorgen.bench.result import BenchRun
    from monitorgen.bench.targets import Chosen

FILE = click.Path(path_type=Path)


@click.group()
def bench() -> None:
    """Time the bundled workloads, each in a process of its own.

    \b
    monitorgen bench list-targets
    monitorgen bench run --targets vllm_monitoring --profile none
    monitorgen bench run --targets decode --profile roofline --format both
    monitorgen bench compare artifacts/bench/FIRST artifacts/bench/SECOND
    """


@bench.command("list-targets")
@click.option("--group", help="Only this group.")
def list_targets(group: str | None) -> None:
    """List the targets as GROUP:NAME, with their arms."""
    from monitorgen.bench.report import table
    from monitorgen.bench.targets import all_targets
    from monitorgen.errors import InputError

    targets = all_targets()
    groups = dict.fromkeys(target.group for target in targets)
    if group is not None and group not in groups:
        raise InputError(f"no group {group!r}", hint=f"groups are {', '.join(groups)}")
    rows = [
        (f"{one.group}:{one.name}", ", ".join(one.arms), one.summary)
        for one in targets
        if group in (None, one.group)
    ]
    click.echo(table(("target", "arms", "what"), rows))


@bench.command()
@click.option(
    "-t", "--targets", required=True, help="NAME, GROUP:NAME, NAME_ARM, GROUP or all; commas between."
)
@click.option(
    "-p",
    "--profile",
    type=click.Choice(["none", "minimal", "deep_dive", "roofline"]),
    default="none",
    show_default=True,
    help="none: times. minimal: and the operators that took most. deep_dive: and a Chrome trace. "
    "roofline: and the share of ceilings that are measured in the same run.",
)
@click.option("--iterations", type=click.IntRange(1, 1_000_000), default=20, show_default=True)
@click.option(
    "--warmup", type=click.IntRange(0, 1_000_000), default=5, show_default=True, help="Iterations before."
)
@click.option(
    "-f",
    "--format",
    "format_",
    type=click.Choice(["json", "markdown", "both"]),
    default="markdown",
    show_default=True,
    help="Which report is written: report.json, which is then printed, or report.md.",
)
@click.option(
    "--target-extra-arg",
    "extra",
    multiple=True,
    metavar="NAME=FLAGS",
    help="Flags for a target or an arm, as in 'cudagraph_bucketing=--vllm-model gpt-oss-20b'. Repeatable.",
)
@click.option("--dry-run", is_flag=True, help="Say what would run, and run nothing.")
@click.option("-o", "--out", type=FILE, help="Folder of the artifacts; artifacts/bench/TIME by default.")
@click.option(
    "--timeout", type=click.FloatRange(1, 86400), default=600.0, show_default=True, help="Seconds a target."
)
@click.option(
    "--gate/--no-gate",
    default=True,
    show_default=True,
    help="Exit 1 when short of this hardware's expectations.",
)
@click.option("--expectations", type=FILE, help="Folder of expectations; kernels/expectations by default.")
@click.option("--update-expectations", is_flag=True, help="Make these results what is expected from now on.")
@click.option(
    "--allow-mixed",
    multiple=True,
    type=click.Choice(["hardware", "commit", "profile"]),
    help="Let expectations be of several of these. Repeatable.",
)
@click.option(
    "--git-commit", default="", metavar="HASH", help="The commit that is timed, where there is no git."
)
def run(**flags: Any) -> None:
    """Time targets, check that their arms agree, and hold the times to what is expected of this hardware."""
    from monitorgen.bench.session import origin, refuse_missing
    from monitorgen.bench.targets import all_targets, choose

    chosen = choose(flags["targets"], flags["extra"], all_targets())
    if flags["dry_run"]:
        _tell_plan(chosen, flags)
        return
    refuse_missing(chosen)
    source = origin(flags["git_commit"])
    if flags["update_expectations"]:
        from monitorgen.bench.expectations import refuse_commit

        refuse_commit(source.commit, source.dirty, flags["allow_mixed"])
    made, folder = _run(chosen, source, flags)
    raise SystemExit(_conclude(made, folder, flags))


def _tell_plan(chosen: list[Chosen], flags: dict[str, Any]) -> None:
    import shlex

    for one in chosen:
        for arm in one.arms:
            words = shlex.join(one.flags.get(arm, []))
            click.echo(f"{one.target.group}:{one.target.name} {arm}: {one.target.arms[arm]} {words}".rstrip())
    click.echo(
        f"profile {flags['profile']}, {flags['iterations']} iterations after {flags['warmup']} to warm up"
    )


def _run(chosen: list[Chosen], source: Any, flags: dict[str, Any]) -> tuple[BenchRun, Path]:
    from monitorgen.bench.artifacts import make_folder
    from monitorgen.bench.environment import now
    from monitorgen.bench.progress import watching
    from monitorgen.bench.runner import Settings
    from monitorgen.bench.session import run_all

    settings = Settings(flags["profile"], flags["iterations"], flags["warmup"], flags["timeout"])
    folder = make_folder(flags["out"], now())
    # A process that is told to end takes the one that it is timing along.
    before = signal.signal(signal.SIGTERM, _end)
    try:
        with watching() as progress:
            return run_all(chosen, settings, folder, source, progress), folder
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def _conclude(made: BenchRun, folder: Path, flags: dict[str, Any]) -> int:
    """Gate, write, print; the exit code."""
    from monitorgen.bench import artifacts, expectations, report
    from monitorgen.errors import InputError

    place = flags["expectations"] or expectations.default_folder()
    short: list[str] = []
    notes: list[str] = []
    if flags["gate"] and not flags["update_expectations"]:
        short, notes = expectations.gate(made, expectations.load(place, made.provenance.hardware_key))
    page = report.markdown(made, [*short, *notes]) if flags["format_"] != "json" else ""
    told = report.summary(made, short, str(folder)) if flags["format_"] != "markdown" else None
    artifacts.write(made, folder, page, told)
    if flags["format_"] == "json":
        click.echo(json.dumps(told, indent=2))
    else:
        click.echo(report.table(report.HEAD, report.rows(made)))
        for line in [*report.verdicts(made), *notes]:
            click.echo(line)
        _side_by_side(made)
    for line in short:
        click.echo(f"short of expectations: {line}", err=True)
    click.echo(f"artifacts: {folder}", err=True)
    for one in made.results:
        if one.error.get("kind") == "usage":
            raise InputError(f"{one.name} ({one.error['arm']}): {one.error['text']}")
    if flags["update_expectations"]:
        click.echo(f"expectations: {expectations.update(place, made, flags['allow_mixed'])}", err=True)
    return 1 if short or not all(one.ok for one in made.results) else 0


def _side_by_side(made: BenchRun) -> None:
    from monitorgen.bench.report import metric_rows, table

    for one in made.results:
        if counted := metric_rows(one):
            click.echo("\n" + table((one.name, *one.arms), counted))


@bench.command()
@click.argument("first", type=FILE)
@click.argument("second", type=FILE, required=False)
def compare(first: Path, second: Path | None) -> None:
    """One run: its baselines beside what is optimized, if they agree. Two runs: what has changed from FIRST
    to SECOND beyond the spread of both; exit 1 when something is slower or has other results."""
    from monitorgen.bench import report
    from monitorgen.bench.result import read_run

    old = read_run(first)
    if second is None:
        for line in report.verdicts(old):
            click.echo(line)
        click.echo(report.table(report.HEAD, report.rows(old)))
        _side_by_side(old)
        raise SystemExit(0 if all(one.ok for one in old.results) else 1)
    rows, notes = report.against(old, read_run(second))
    head = ("target", "arm", "first ms", "second ms", "change", "noise", "verdict")
    click.echo(report.table(head, rows))
    for note in notes:
        click.echo(note)
    worse = any(row[-1].startswith("slower") or "OTHER" in row[-1] for row in rows)
    raise SystemExit(1 if worse else 0)
