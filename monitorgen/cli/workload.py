"""`monitorgen workload`: bundled programs that do real decode and attention work and export live metrics."""

from __future__ import annotations

import click


@click.group()
def workload() -> None:
    """Bundled programs that do real decode and attention work and export live metrics."""


@workload.command("list")
def list_() -> None:
    """List the workloads with their arms."""
    from monitorgen.bench.report import table
    from monitorgen.bench.targets import all_targets

    rows = [(one.name, one.group, ", ".join(one.arms), one.summary) for one in all_targets()]
    click.echo(table(("workload", "group", "arms", "what"), rows))


@workload.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("name")
@click.option(
    "--arm", help="Which arm; not needed for a workload that has one, or for names such as optimized_NAME."
)
@click.argument("flags", nargs=-1, type=click.UNPROCESSED)
def run(name: str, arm: str | None, flags: tuple[str, ...]) -> None:
    """Run a workload; what stands after its NAME is its own, --help too.

    \b
    monitorgen workload run optimized_vllm_decode_graphs --prom-port 9300
    monitorgen workload run vllm_decode_graphs --arm baseline --help
    """
    from monitorgen.bench.programs import run_program
    from monitorgen.bench.targets import all_targets

    raise SystemExit(run_program(name, arm, list(flags), all_targets()))
