"""Serves what workloads count at `/metrics`: the families that `monitorgen.telemetry` declares.

They are built at scrape time, and nothing here runs in a decode loop. A scrape reads the counters' slots and
asks the allocator what it holds.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from socketserver import ThreadingMixIn
from types import FrameType
from typing import Any, NoReturn, TypeVar
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import click
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from monitorgen import telemetry
from monitorgen.kernels.counters import (
    DecodeCounters,
    KernelCounters,
    KVCacheCounters,
    RunnerCounters,
    SpeculationCounters,
)
from monitorgen.kernels.workload import UsageError

Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily
Series = Iterable[tuple[Sequence[str], float]]
Command = TypeVar("Command", bound=Callable[..., Any])

_LOCALHOST = "127.0.0.1"


def _modes(counters: DecodeCounters) -> Series:
    return [((mode,), float(mode == counters.mode)) for mode in telemetry.GRAPH_MODES]


def _known(number: float | None) -> Series:
    return [] if number is None else [((), number)]


# What a family's series are: the values of its labels after the first (the owner's name), and the number.
DECODE_VALUES: Mapping[str, Callable[[DecodeCounters], Series]] = {
    "vllm:decode_graph_mode": _modes,
    "vllm:decode_graph_captures_total": lambda c: [((), c.captures)],
    "vllm:decode_graph_recaptures_total": lambda c: [((why,), n) for why, n in c.recaptures.copy().items()],
    "vllm:decode_graph_replays_total": lambda c: [
        ((str(b),), n) for b, n in sorted(c.replays.copy().items())
    ],
    "vllm:decode_graph_capture_seconds_total": lambda c: [((), c.capture_seconds)],
    "vllm:decode_graph_pool_bytes": lambda c: [((), c.pool_bytes())],
    "vllm:decode_allocator_bytes": lambda c: [((), c.allocator_bytes())],
    "vllm:decode_kv_compactions_total": lambda c: [((), c.compactions)],
    "vllm:decode_tokens_total": lambda c: [((), c.tokens)],
    "vllm:decode_padding_tokens_total": lambda c: [((), c.padding_tokens)],
    "vllm:decode_batch_size": lambda c: [((), c.batch_size)],
}
SPECULATION_VALUES: Mapping[str, Callable[[SpeculationCounters], Series]] = {
    "vllm:spec_decode_num_drafts_total": lambda s: [((), s.drafts)],
    "vllm:spec_decode_num_draft_tokens_total": lambda s: [((), s.draft_tokens)],
    "vllm:spec_decode_num_accepted_tokens_total": lambda s: [((), s.accepted_tokens)],
    "vllm:spec_decode_num_accepted_tokens_per_pos_total": lambda s: [
        ((str(position),), count) for position, count in enumerate(s.accepted_at)
    ],
}
KERNEL_VALUES: Mapping[str, Callable[[KernelCounters], Series]] = {
    "monitorgen_kernel_calls_total": lambda k: [((), k.calls)],
    "monitorgen_kernel_bytes_total": lambda k: [((), k.bytes_per_call * k.calls)],
    "monitorgen_kernel_flops_total": lambda k: [((), k.flops_per_call * k.calls)],
    "monitorgen_kernel_roofline_ratio": lambda k: _known(k.roofline),
    "monitorgen_kernel_error_ratio": lambda k: _known(k.error),
    "monitorgen_kernel_error_limit_ratio": lambda k: _known(k.error_limit),
    "monitorgen_kernel_expected_seconds": lambda k: (
        [] if k.expected is None else [((k.expected.source,), k.expected.seconds)]
    ),
}
KV_CACHE_VALUES: Mapping[str, Callable[[KVCacheCounters], float]] = {
    "monitorgen_kv_prefix_cache_queries_total": lambda c: c.queries,
    "monitorgen_kv_prefix_cache_hits_total": lambda c: c.hits,
    "monitorgen_kv_cache_evictions_total": lambda c: c.evictions,
    "monitorgen_kv_cache_copies_total": lambda c: c.copies,
    "monitorgen_kv_cache_blocks": lambda c: c.blocks,
    "monitorgen_kv_cache_blocks_in_use": lambda c: c.blocks_in_use,
    "monitorgen_kv_cache_fragmentation_ratio": lambda c: c.fragmentation,
}
RUNNER_VALUES: Mapping[str, Callable[[RunnerCounters], Series]] = {
    "monitorgen_runner_tokens_total": lambda r: [((), r.tokens)],
    "monitorgen_runner_requests_total": lambda r: [((slo,), n) for slo, n in r.requests.items()],
    "monitorgen_runner_parity_tokens_total": lambda r: [((result,), n) for result, n in r.parity.items()],
}
RUNNER_TIMES: Mapping[str, Callable[[RunnerCounters], tuple[list[int], float]]] = {
    "monitorgen_runner_time_to_first_token_seconds": lambda r: (list(r.first_counts), r.first_seconds),
    "monitorgen_runner_inter_token_latency_seconds": lambda r: (list(r.gap_counts), r.gap_seconds),
}


class Telemetry(Collector):
    """A collector over decode loops, kernels and what else counts: every scrape reads them anew.

    A family that needs a CUDA device appears only where a loop really runs from CUDA graphs.
    """

    def __init__(
        self,
        decode: Sequence[DecodeCounters] = (),
        kernels: Sequence[KernelCounters] = (),
        caches: Sequence[KVCacheCounters] = (),
        runners: Sequence[RunnerCounters] = (),
        speculation: Sequence[SpeculationCounters] = (),
    ) -> None:
        self.decode, self.kernels, self.speculation = tuple(decode), tuple(kernels), tuple(speculation)
        self.caches, self.runners = tuple(caches), tuple(runners)

    def collect(self) -> Iterator[Family]:
        """The families that have an owner now."""
        for metric in telemetry.DECODE:
            owners = [c for c in self.decode if c.graphs or not metric.needs]
            if owners:
                yield _decode_family(metric, owners)
        for metric in telemetry.SPECULATION if self.speculation else ():
            yield _speculation_family(metric, self.speculation)
        for metric in telemetry.KERNELS if self.kernels else ():
            yield _kernel_family(metric, self.kernels)
        for metric in telemetry.KV_CACHE if self.caches else ():
            family, value = _family(metric), KV_CACHE_VALUES[metric.name]
            for cache in self.caches:
                family.add_metric([cache.model_name], value(cache))
            yield family
        for metric in telemetry.RUNNERS if self.runners else ():
            yield _runner_family(metric, self.runners)


def _decode_family(metric: telemetry.Metric, owners: Sequence[DecodeCounters]) -> Family:
    if metric.type == "histogram":
        parts = [((c.model_name,), list(c.step_counts), c.step_seconds) for c in owners]
        return _histogram(metric, parts)
    family = _family(metric)
    values = DECODE_VALUES[metric.name]
    for counters in owners:
        for labels, number in values(counters):
            family.add_metric([counters.model_name, *labels], number)
    return family


def _speculation_family(metric: telemetry.Metric, owners: Sequence[SpeculationCounters]) -> Family:
    family = _family(metric)
    values = SPECULATION_VALUES[metric.name]
    for counters in owners:
        for labels, number in values(counters):
            family.add_metric([counters.model_name, *labels], number)
    return family


def _kernel_family(metric: telemetry.Metric, owners: Sequence[KernelCounters]) -> Family:
    if metric.type == "histogram":
        return _histogram(metric, [((k.kernel,), list(k.counts), k.seconds) for k in owners])
    family = _family(metric)
    values = KERNEL_VALUES[metric.name]
    for kernel in owners:
        for labels, number in values(kernel):
            family.add_metric([kernel.kernel, *labels], number)
    return family


def _runner_family(metric: telemetry.Metric, owners: Sequence[RunnerCounters]) -> Family:
    if metric.type == "histogram":
        times = RUNNER_TIMES[metric.name]
        return _histogram(metric, [((r.model_name, r.backend), *times(r)) for r in owners])
    family = _family(metric)
    values = RUNNER_VALUES[metric.name]
    for runner in owners:
        for labels, number in values(runner):
            family.add_metric([runner.model_name, runner.backend, *labels], number)
    return family


def _family(metric: telemetry.Metric) -> CounterMetricFamily | GaugeMetricFamily:
    made = CounterMetricFamily if metric.type == "counter" else GaugeMetricFamily
    return made(metric.name, metric.help, labels=metric.labels)


def _histogram(metric: telemetry.Metric, parts: Iterable[tuple[Sequence[str], list[int], float]]) -> Family:
    """Counts of single buckets become Prometheus' cumulative ones."""
    family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
    edges = [*map(str, metric.buckets), "+Inf"]
    for owner, counts, total in parts:
        family.add_metric(owner, buckets=list(zip(edges, accumulate(counts), strict=True)), sum_value=total)
    return family


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True  # a scrape that hangs must not hold the workload's end


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class' name
        """Scrapes are not news."""


@contextmanager
def serve(collectors: Sequence[Collector], port: int, host: str = _LOCALHOST) -> Iterator[int]:
    """Serve collectors at http://host:port/metrics while the block runs; yields the port.

    They have a registry of their own. Port 0 takes a free one. Raises UsageError if the port cannot be had.
    """
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    try:
        server = _Server((host, port), _Quiet)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"--prom-port {port}: cannot listen on {host}:{port}: {reason}; 0 takes a free port"
        ) from None
    server.set_app(make_wsgi_app(registry))
    # The default poll of half a second would eat half of the second in which SIGTERM has to end us.
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True, name="exporter")
    thread.start()
    try:
        yield int(server.server_port)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Terminated(SystemExit):
    """SIGTERM came: unwinds the workload, so that it ends cleanly; the process exits with 143."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM raises Terminated in the block. Outside the main thread, where Python allows none, a no-op."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def exporting(
    *collectors: Collector, port: int | None, duration: float = 0.0, host: str = _LOCALHOST
) -> Iterator[int | None]:
    """Run a workload with its exporter: `--prom-port`, `--prom-duration` and SIGTERM as every workload does.

    Yields the port, or None if `port` is None and nothing is served. When the block is done, serving goes on
    for `duration` seconds (`inf` for ever) or until SIGTERM. If the block fails or SIGTERM comes, the
    exporter goes down at once, standard error says so, and the exception goes on. Raises UsageError for a
    duration without a port, or a port in use.
    """
    if port is None:
        if duration:
            raise UsageError(f"--prom-duration {duration:g} needs --prom-port")
        with terminable():
            yield None
        return
    with terminable(), serve(collectors, port, host) as bound:
        url = f"http://{host}:{bound}/metrics"
        click.echo(f"serving {url}", err=True)
        try:
            yield bound
        except BaseException as error:
            why = (
                "SIGTERM"
                if isinstance(error, Terminated)
                else f"the workload failed ({type(error).__name__})"
            )
            click.echo(f"exporter at {url} goes down: {why}", err=True)
            raise
        _serve_on(url, duration)


def _serve_on(url: str, duration: float) -> None:
    if not duration:
        return
    span = "until SIGTERM" if duration == float("inf") else f"{duration:g} s more"
    try:  # from the first word on: who reads it may send SIGTERM at once
        click.echo(f"work done; serving {url} {span}", err=True)
        threading.Event().wait(None if duration == float("inf") else min(duration, threading.TIMEOUT_MAX))
    except Terminated:
        # The work is done and was told, so an end by request is no failure.
        click.echo(f"exporter at {url} goes down: SIGTERM", err=True)
    except KeyboardInterrupt:
        sys.stderr.write("\n")


def prom_options(command: Command) -> Command:
    """The options `--prom-port`, `--prom-duration` and `--prom-host` of a workload's click command."""
    for option in (
        click.option(
            "--prom-host", default=_LOCALHOST, show_default=True, help="Address that the exporter listens on."
        ),
        click.option(
            "--prom-duration",
            type=click.FloatRange(min=0),
            default=0.0,
            metavar="SECONDS",
            help="Keep serving this long after the work is done, `inf` for ever; SIGTERM ends it.",
        ),
        click.option(
            "--prom-port",
            type=click.IntRange(0, 65535),
            metavar="PORT",
            help="Serve Prometheus metrics at this port; 0 takes a free one and tells which.",
        ),
    ):
        command = option(command)
    return command
