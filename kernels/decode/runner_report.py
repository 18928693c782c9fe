"""What a run was like for its users: latencies, rates, goodput; as plain data, a table, a picture."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from monitorgen.kernels.counters import RunnerCounters
from monitorgen.kernels.decode.runner_backends import Served
from monitorgen.kernels.decode.workload_config import Slo

WIDTH, LEFT, RIGHT, ROW, TOP = 760, 110, 24, 44, 46
COLOURS = ("#1f6fb4", "#b4441f", "#3a8f3a", "#7a4fa3", "#8a6d00")


@dataclass(frozen=True, slots=True)
class Latencies:
    """One backend's run: seconds of each request's first token and of all gaps between tokens; rates per
    second of the time from the first arrival to the last token."""

    backend: str
    first: tuple[float, ...]
    gaps: tuple[float, ...]
    tokens: int
    seconds: float
    met: int

    @property
    def tokens_per_second(self) -> float:
        """Tokens that requests got, a second."""
        return self.tokens / self.seconds

    @property
    def goodput(self) -> float:
        """Requests that kept the SLO, a second."""
        return self.met / self.seconds

    def plain(self) -> dict[str, Any]:
        """As it goes into JSON; times in seconds."""
        return {
            "requests": len(self.first), "tokens": self.tokens, "seconds": self.seconds,
            "tokens_per_second": self.tokens_per_second, "requests_met_slo": self.met,
            "goodput_requests_per_second": self.goodput, "ttft_seconds": list(self.first),
            "inter_token_seconds": list(self.gaps), "ttft_quantiles": quantiles(self.first),
            "inter_token_quantiles": quantiles(self.gaps),
        }  # fmt: skip


def measured(backend: str, served: Sequence[Served], slo: Slo, counters: RunnerCounters) -> Latencies:
    """A backend's latencies, counted into `counters` too.

    A request keeps the SLO if its first token came in time and its mean gap is no longer than allowed.
    """
    met = 0
    for one in served:
        counters.first_token(one.ttft)
        for gap in one.gaps:
            counters.next_token(gap)
        mean = statistics.fmean(one.gaps) if one.gaps else 0.0
        good = one.ttft * 1e3 <= slo.ttft_ms and mean * 1e3 <= slo.inter_token_ms
        counters.finished(good)
        met += good
    start = min(one.request.arrival for one in served)
    return Latencies(
        backend,
        tuple(one.ttft for one in served),
        tuple(gap for one in served for gap in one.gaps),
        sum(len(one.tokens) for one in served),
        max(one.times[-1] for one in served) - start,
        met,
    )


def quantiles(samples: Sequence[float]) -> dict[str, float]:
    """p50, p90, p99 by nearest rank; empty for no samples."""
    ordered = sorted(samples)
    return {
        f"p{percent}": ordered[math.ceil(percent / 100 * len(ordered)) - 1]
        for percent in ((50, 90, 99) if ordered else ())
    }


def table(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Lines: a backend each, times in ms. `found` holds what goes into JSON."""
    head = (
        f"{'backend':<10} {'tokens':>7} {'tokens/s':>9} {'ttft p50':>9} {'p99':>8} {'gap p50':>8} {'p99':>8} "
        f"{'goodput':>8} {'equal':>7} {'ties':>5} {'wrong':>6} {'logits off':>10}"
    )
    lines = [head]
    for name, row in found.items():
        first, gap, parity = row["ttft_quantiles"], row["inter_token_quantiles"], row["parity"]
        error = row["logit_error"]
        lines.append(
            f"{name:<10} {row['tokens']:>7} {row['tokens_per_second']:>9,.0f} {first['p50'] * 1e3:>9.2f} "
            f"{first['p99'] * 1e3:>8.2f} {_ms(gap, 'p50'):>8} {_ms(gap, 'p99'):>8} "
            f"{row['goodput_requests_per_second']:>8.2f} {parity['equal']:>7} {parity['near_ties']:>5} "
            f"{parity['different']:>6} {'-' if error is None else f'{error:.1e}':>10}"
        )
    return lines


def notes(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Lines about what differed and yet is no fault: near ties, and log-probabilities that a server told."""
    lines = []
    for name, row in found.items():
        if ties := row["parity"]["near_ties"]:
            share = row["parity"]["margin"]
            lines.append(f"{name}: {ties} near ties, the widest at {share:.2f} of what rounding explains")
        if (error := row["logprob_error"]) is not None:
            lines.append(f"{name}: log-probabilities of its tokens differ by {error:.1e} at most")
    return lines


def _ms(found: Mapping[str, float], name: str) -> str:
    return f"{found[name] * 1e3:.2f}" if found else "-"


def picture(found: Sequence[Latencies], slo: Slo) -> str:
    """An SVG of first tokens and gaps: a row a backend, every sample a dot, medians and the SLO as lines."""
    panels = (
        ("Time to first token", [(one.backend, one.first) for one in found], slo.ttft_ms),
        ("Time between tokens", [(one.backend, one.gaps) for one in found], slo.inter_token_ms),
    )
    each = TOP + ROW * len(found) + 34
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{each * 2}" '
        f'viewBox="0 0 {WIDTH} {each * 2}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{each * 2}" fill="#ffffff"/>',
    ]
    for at, (title, rows, limit) in enumerate(panels):
        parts += _panel(title, rows, limit, each * at)
    return "\n".join([*parts, "</svg>", ""])


def _panel(title: str, rows: Sequence[tuple[str, Sequence[float]]], limit_ms: float, top: float) -> list[str]:
    """One panel: a logarithmic axis of ms, since a stall and a step lie decades apart."""
    samples = [seconds * 1e3 for _, row in rows for seconds in row] or [1.0]
    low = math.floor(math.log10(max(min(samples), 1e-6)))
    high = max(math.ceil(math.log10(max(*samples, limit_ms))), low + 1)
    scale = (WIDTH - LEFT - RIGHT) / (high - low)

    def place(value_ms: float) -> float:
        return LEFT + scale * (math.log10(max(value_ms, 10.0**low)) - low)

    first, bottom = top + TOP, top + TOP + ROW * len(rows)
    parts = [f'<text x="{LEFT}" y="{top + 24}" font-size="14" font-weight="bold">{title}, ms</text>']
    for power in range(low, high + 1):
        x = place(10.0**power)
        parts += [
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{first}" y2="{bottom}" stroke="#ddd"/>',
            f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle" fill="#666">{10.0**power:g}</text>',
        ]
    for row, (name, values) in enumerate(rows):
        middle, colour = first + ROW * row + ROW / 2, COLOURS[row % len(COLOURS)]
        parts.append(f'<text x="{LEFT - 8}" y="{middle + 4}" text-anchor="end">{escape(name)}</text>')
        span = max(len(values) - 1, 1)
        parts += [
            f'<circle cx="{place(value * 1e3):.1f}" cy="{middle - 12 + 24 * at / span:.1f}" r="1.8" '
            f'fill="{colour}" fill-opacity="0.6"/>'
            for at, value in enumerate(values)
        ]
        if values:
            x = place(statistics.median(values) * 1e3)
            parts.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{middle - 17}" y2="{middle + 17}" stroke="{colour}" '
                f'stroke-width="2"/>'
            )
    x = place(limit_ms)
    parts += [
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{first - 6}" y2="{bottom}" stroke="#222" '
        f'stroke-dasharray="4 3"/>',
        f'<text x="{x:.1f}" y="{first - 9}" text-anchor="middle" fill="#222">SLO</text>',
    ]
    return parts
