"""A run for people: a table for the terminal, a page in Markdown; and what one run says beside another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monitorgen.bench.result import BenchRun, Result, tolerance

Row = Sequence[str]
HEAD = ("target", "arm", "device", "median ms", "spread", "speedup", "share of roofline")


def rows(run: BenchRun) -> list[Row]:
    """A row an arm."""
    found: list[Row] = []
    for one in run.results:
        for name, arm in one.arms.items():
            speedup = one.speedup(name)
            share = arm.roofline.get("roofline_share")
            found.append(
                (
                    one.name,
                    name,
                    arm.device,
                    f"{arm.median_ms:.4g}",
                    f"{arm.sigma:.1%}",
                    f"{speedup:.2f}x" if speedup else "",
                    f"{share:.1%}" if share is not None else "",
                )
            )
    return found


def table(head: Row, body: Sequence[Row]) -> str:
    """Aligned columns; numbers on the right."""
    widths = [max(len(row[column]) for row in (head, *body)) for column in range(len(head))]
    right = [bool(body) and all(_numeric(row[column]) for row in body) for column in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if flush else cell.ljust(width)
            for cell, width, flush in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in (head, *body)
    )


def _numeric(cell: str) -> bool:
    return not cell or cell[0].isdigit() or cell[0] in "+-."


def verdicts(run: BenchRun) -> list[str]:
    """A line for each target on whether its arms may be compared at all."""
    said = []
    for one in run.results:
        if one.error:
            arm = f" ({one.error['arm']})" if one.error.get("arm") else ""
            said.append(f"{one.name}{arm}: {one.error['text']}")
        elif one.rivals and one.differences:
            more = f" and {len(one.differences) - 1} more" if len(one.differences) > 1 else ""
            said.append(f"{one.name}: the arms disagree, so no speedup: {one.differences[0]}{more}")
        elif one.rivals and len(one.arms) > 1:
            said.append(
                f"{one.name}: the arms agree on {one.compared} results"
                if one.compared
                else f"{one.name}: the arms offer no results to compare"
            )
    return said


def metric_rows(result: Result) -> list[Row]:
    """What the arms counted, side by side."""
    names = list(dict.fromkeys(name for arm in result.arms.values() for name in arm.metrics))
    return [(name, *(_number(arm.metrics.get(name)) for arm in result.arms.values())) for name in names]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.6g}" if abs(value) < 1e15 else f"{value:.4g}"


def markdown(run: BenchRun, gates: Sequence[str] = ()) -> str:
    """The whole run as a page beside its artifacts."""
    by = run.provenance
    parts = [
        f"# Bench run of {by.timestamp}",
        f"{by.hardware_key}, commit {by.git_commit[:12] or 'unknown'}{' with changes' if by.dirty else ''}, "
        f"profile {by.profile_name}, {by.iterations} iterations after {by.warmup_iterations} to warm up. "
        "Times are medians; spread is that of one iteration.",
        _markdown_table(HEAD, rows(run)),
    ]
    if lines := [*verdicts(run), *gates]:
        parts.append("\n".join(f"- {line}" for line in lines))
    if run.ceilings:
        parts.append("## Ceilings, measured in this run")
        parts.append(
            _markdown_table(("ceiling", "value"), [(k, f"{v:,.4g}") for k, v in run.ceilings.items()])
        )
    for one in run.results:
        if one.arms:
            parts += _markdown_target(one)
    return "\n\n".join(parts) + "\n"


def _markdown_target(one: Result) -> list[str]:
    parts = [f"## {one.name}", f"![samples]({one.name}/samples.svg)"]
    if counted := metric_rows(one):
        parts.append(_markdown_table(("counted", *one.arms), counted))
    for name, arm in one.arms.items():
        if arm.roofline:
            shares = ", ".join(f"{key} {value:.4g}" for key, value in arm.roofline.items())
            parts.append(f"{name}: {shares}")
        if arm.operators:
            shown = [(op["name"], f"{op['calls']:.4g}", f"{op['self_us']:.4g}") for op in arm.operators]
            parts.append(_markdown_table((f"{name}: operator", "calls a step", "us a step"), shown))
        if arm.trace:
            parts.append(f"Chrome trace of {name}: [{arm.trace}]({one.name}/{arm.trace})")
    return parts


def _markdown_table(head: Row, body: Sequence[Row]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def summary(run: BenchRun, gates: Sequence[str], folder: str) -> dict[str, Any]:
    """The run without its samples, for programs."""
    return {
        "folder": folder,
        "provenance": vars(run.provenance),
        "ceilings": run.ceilings,
        "gates": list(gates),
        "targets": [
            {
                "name": one.name,
                "ok": one.ok,
                "error": one.error or None,
                "compared": one.compared,
                "differences": one.differences,
                "arms": {
                    name: {
                        "median_ms": arm.median_ms,
                        "spread": arm.sigma,
                        "speedup": one.speedup(name),
                        "metrics": arm.metrics,
                        "roofline": arm.roofline,
                        "peak_device_bytes": arm.peak_device_bytes,
                    }
                    for name, arm in one.arms.items()
                },
            }
            for one in run.results
        ],
    }


def against(old: BenchRun, new: BenchRun) -> tuple[list[Row], list[str]]:
    """Two runs: a row an arm that both have, and what makes them unlike.

    A change counts when it is beyond both runs' spread; results of the same flags must be the same.
    """
    notes = [
        f"{what} differs: {one or 'unknown'}, and {other or 'unknown'}"
        for what, one, other in (
            ("hardware", old.provenance.hardware_key, new.provenance.hardware_key),
            ("profile", old.provenance.profile_name, new.provenance.profile_name),
        )
        if one != other
    ]
    before = {one.name: one for one in old.results}
    body: list[Row] = []
    for now in new.results:
        was = before.pop(now.name, None)
        if was is None:
            notes.append(f"{now.name} is in the second run only")
            continue
        for name in was.arms.keys() & now.arms.keys():
            one, other = was.arms[name], now.arms[name]
            change, noise = other.median_ms / one.median_ms - 1, tolerance(one.sigma, other.sigma)
            verdict = (
                "slower" if change > noise else "faster" if change < -noise / (1 + noise) else "the same"
            )
            if one.flags != other.flags:
                verdict += ", other flags"
            elif one.digest != other.digest:
                verdict += ", OTHER RESULTS"
            body.append(
                (
                    now.name,
                    name,
                    f"{one.median_ms:.4g}",
                    f"{other.median_ms:.4g}",
                    f"{change:+.1%}",
                    f"{noise:.1%}",
                    verdict,
                )
            )
    notes += [f"{name} is in the first run only" for name in before]
    return sorted(body, key=tuple), notes
