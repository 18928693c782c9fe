"""`monitorgen report`: ledgers put together, shown, and written."""

from __future__ import annotations

from pathlib import Path

import click

from monitorgen.cli.options import report_option


@click.command()
@click.argument("ledgers", nargs=-1, required=True, metavar="LEDGER.json...", type=click.Path(path_type=Path))
@report_option("-o", "--out", "outs")
@click.option(
    "--require",
    "levels",
    multiple=True,
    type=click.Choice(["static", "simulated", "live"]),
    help="Exit 1 if anything is unproven at this level, too. Repeatable.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print nothing; the files and the exit code say all.")
def report(ledgers: tuple[Path, ...], outs: tuple[Path, ...], levels: tuple[str, ...], quiet: bool) -> None:
    """Put the ledgers of several runs of one bundle together, show what comes of it, and write it.

    What one run proved is proven; what failed in one has failed, and makes the exit code 1.
    """
    from monitorgen.prove.ledger_file import read_ledger
    from monitorgen.prove.merge import merge
    from monitorgen.prove.report_ledger import print_report
    from monitorgen.prove.saved import prepare_reports, write_reports

    prepare_reports(outs)
    merged = merge([read_ledger(path) for path in ledgers], [str(path) for path in ledgers])
    write_reports(merged, outs)
    if not quiet:
        print_report(merged)
    raise SystemExit(merged.exit_code(levels))
