"""The same requests through each backend, and whether all decode what native FlexAttention chooses.

`monitorgen workload run run_vllm_decoder --config configs/flex_attention.yaml`. A file says which model,
which requests, when they come and what decodes them (see `workload_config`). With `--vllm-url` a vLLM server
that serves the same model takes part. Exit code 1 if tokens or logits differ from the reference's by more
than rounding explains.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import click
import torch

from monitorgen.kernels.attention.flexdecoding_ops import check_group
from monitorgen.kernels.command import check_writable, parse, run
from monitorgen.kernels.counters import DecodeCounters, RunnerCounters
from monitorgen.kernels.decode import runner_report as report
from monitorgen.kernels.decode.config import SHAPES, Config
from monitorgen.kernels.decode.device import check_fits
from monitorgen.kernels.decode.native_flex import NativeFlex
from monitorgen.kernels.decode.options import resolve
from monitorgen.kernels.decode.parity import Parity, compare_chosen
from monitorgen.kernels.decode.runner_backends import Backend, DecoderBackend, Served
from monitorgen.kernels.decode.runner_vllm import EngineBackend, HttpBackend, ServerError, find_server
from monitorgen.kernels.decode.stepper import logits_tolerance
from monitorgen.kernels.decode.vllm_engine import model_folder
from monitorgen.kernels.decode.weights import Weights, make_weights
from monitorgen.kernels.decode.workload_config import (
    Arrivals,
    Request,
    WorkloadConfig,
    find_config,
    load_config,
    make_requests,
)
from monitorgen.kernels.export import Telemetry, exporting, prom_options
from monitorgen.kernels.workload import Outcome, UsageError


def check(config: WorkloadConfig, vllm_url: str | None) -> tuple[torch.device, Config, torch.dtype]:
    """Device, shape and type of a workload. Raises UsageError for what cannot be run, before any work."""
    flags = {"model": config.model, "device": config.device, "dtype": config.dtype}
    device, shape, dtype = resolve(flags)
    sizes = config.decoder
    if sizes.context > shape.positions:
        raise UsageError(f"decoder.context: {sizes.context}; {shape.name} has {shape.positions} positions")
    if "triton" in sizes.backends and device.type != "cuda":
        raise UsageError("decoder.backends: triton needs a CUDA device; take it out, or run on one")
    if "flex" in sizes.backends:
        check_group(shape.heads, shape.kv_heads)
    if (vllm_url or "vllm" in sizes.backends) and config.model in ("auto", *SHAPES):
        raise UsageError(
            f"model: {config.model} has random weights, which no vLLM serves; give a checkpoint's folder"
        )
    longest = config.requests.prompt_tokens[1] + config.requests.new_tokens[1]
    if vllm_url and 0 < (most := find_server(vllm_url).max_model_len) < longest:
        raise UsageError(
            f"--vllm-url {vllm_url}: requests of up to {longest} tokens, its max_model_len is {most}"
        )
    cache = (sizes.slots + 1) * (sizes.context + sizes.block) * shape.token_numbers
    check_fits(
        f"{shape.name} with a cache of {sizes.slots} x {sizes.context} tokens",
        (shape.parameters + cache) * dtype.itemsize, device, "take fewer slots or a shorter context",
    )  # fmt: skip
    return device, shape, dtype


def names_of(config: WorkloadConfig, vllm_url: str | None) -> list[str]:
    """The backends that take part."""
    return [*config.decoder.backends, *(["vllm-http"] if vllm_url else [])]


def make_backend(
    name: str, config: WorkloadConfig, weights: Weights, vllm_url: str | None, counters: DecodeCounters
) -> Backend:
    """A backend, warmed up. Raises UsageError for one that cannot run here."""
    if name == "vllm-http":
        return HttpBackend(find_server(str(vllm_url)))
    if name == "vllm":
        return EngineBackend(model_folder(config.model), config)
    return DecoderBackend(name, weights, config.decoder, counters)


def parity_of(
    served: Sequence[Served], native: NativeFlex, backend: Backend, logits_of: int
) -> tuple[Parity, float | None]:
    """All tokens against what the native path chooses after the same ones, and the largest relative norm by
    which all logits of one of the first requests differ from its own; None where a backend has no logits."""
    weights, total, apart = native.weights, Parity(), []
    for one in served:
        prompt = list(one.request.prompt)
        logits = native.logits(prompt + one.tokens[:-1], len(prompt) - 1)  # [T, V]
        total += compare_chosen(
            logits, one.tokens, weights.dtype, len(weights.layers),
            f"{backend.name}, request {one.request.number}: ",
        )  # fmt: skip
        if one.request.number < logits_of and (mine := backend.logits(one)) is not None:
            apart.append((mine - logits).norm() / logits.norm())
    # torch's maximum keeps a nan, Python's would lose it.
    return total, float(torch.stack(apart).max()) if apart else None


def logprob_error(served: Sequence[Served], native: NativeFlex) -> float | None:
    """The largest difference of a token's log-probability from the native path's; None if none are told."""
    apart = []
    for one in served:
        if not one.logprobs:
            continue
        prompt = list(one.request.prompt)
        said = native.logits(prompt + one.tokens[:-1], len(prompt) - 1).log_softmax(-1).cpu()
        mine = said.gather(-1, torch.tensor(one.tokens)[:, None])[:, 0]
        apart.append((mine - torch.tensor(one.logprobs)).abs())
    return float(torch.cat(apart).max()) if apart else None


@dataclass(slots=True)
class Result:
    """What was found: by backend, what goes into JSON, and what is drawn."""

    found: dict[str, dict[str, Any]] = field(default_factory=dict)
    latencies: list[report.Latencies] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def run_all(
    config: WorkloadConfig, weights: Weights, vllm_url: str | None, decode: DecodeCounters,
    runners: Mapping[str, RunnerCounters],
) -> Result:  # fmt: skip
    """Serve the requests with each backend in turn, and hold each against the native path."""
    result, requests = Result(), make_requests(config, weights.config.vocab)
    native = NativeFlex(weights, config.decoder.context, config.decoder.window)
    for name, counters in runners.items():
        try:
            with closing(make_backend(name, config, weights, vllm_url, decode)) as backend:
                _judge(backend, backend.serve(requests), native, config, counters, result)
        except ServerError as failed:
            result.problems.append(f"{name}: {failed}")
    return result


def _judge(
    backend: Backend, served: Sequence[Served], native: NativeFlex, config: WorkloadConfig,
    counters: RunnerCounters, result: Result,
) -> None:  # fmt: skip
    """Add to a result what one backend's users saw, and how far it agrees with the native path."""
    weights, name = native.weights, backend.name
    latencies = report.measured(name, served, config.slo, counters)
    parity, error = parity_of(served, native, backend, config.parity.logits_of)
    tolerance = logits_tolerance(weights.dtype, len(weights.layers))
    counters.compared(parity.equal, parity.near_ties, parity.different)
    if parity.first:
        result.problems.append(parity.first)
    if error is not None and not error <= tolerance:
        result.problems.append(
            f"{name}: logits differ by {error:.3g} of their norm, {tolerance:.3g} is allowed"
        )
    result.latencies.append(latencies)
    result.found[name] = {
        **latencies.plain(), "parity": dataclasses.asdict(parity), "logit_error": error,
        "logprob_error": logprob_error(served, native), "generated": [one.tokens for one in served],
    }  # fmt: skip


def weights_of(config: WorkloadConfig, device: torch.device, shape: Config, dtype: torch.dtype) -> Weights:
    """The weights that a workload names."""
    model = config.model if config.model != "auto" else shape.name
    return make_weights(model, device=device, dtype=dtype, seed=config.seed)


OPTIONS = (
    click.option(
        "--config", "config_file", default="configs/flex_attention.yaml", show_default=True,
        help="The workload: a YAML file, or the name of a bundled one.",
    ),
    click.option("--vllm-url", help="A vLLM server that serves the same model: http://HOST:PORT."),
    click.option("--model", help="A checkpoint's folder or a shape, instead of the file's."),
    click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Instead of the file's."),
    click.option("--json", "json_file", type=click.Path(), help="Write what was found to a file."),
    click.option("--plot", "plot_file", type=click.Path(), help="Draw latencies into an SVG file."),
)  # fmt: skip


def configured(flags: Mapping[str, Any]) -> WorkloadConfig:
    """The workload that the flags name."""
    config = load_config(find_config(flags["config_file"]))
    changes = {name: flags[name] for name in ("model", "device") if flags[name]}
    return replace(config, **changes)


def _bare(**flags: Any) -> int:
    """Serve a workload with each backend; report latencies, goodput, and parity with native FlexAttention."""
    check_writable(json=flags["json_file"], plot=flags["plot_file"])
    config, url = configured(flags), flags["vllm_url"]
    device, shape, dtype = check(config, url)
    decode = DecodeCounters(shape.name)
    runners = {name: RunnerCounters(shape.name, name) for name in names_of(config, url)}
    prom = {"port": flags["prom_port"], "duration": flags["prom_duration"], "host": flags["prom_host"]}
    with exporting(Telemetry([decode], runners=list(runners.values())), **prom):
        result = run_all(config, weights_of(config, device, shape, dtype), url, decode, runners)
        _tell(config, shape, device, dtype, result, flags)
    return 1 if result.problems else 0


def _tell(
    config: WorkloadConfig, shape: Config, device: torch.device, dtype: torch.dtype, result: Result,
    flags: Mapping[str, Any],
) -> None:  # fmt: skip
    click.echo(
        f"{shape.name} in {dtype} on {device}: {config.requests.count} requests, {config.arrivals.process}, "
        f"{config.decoder.slots} rows, window {config.decoder.window or 'none'}; times in ms"
    )
    for line in (*report.table(result.found), *report.notes(result.found)):
        click.echo(line)
    verdict = "holds" if not result.problems else "fails"
    click.echo(f"accuracy parity with native FlexAttention {verdict}")
    for line in result.problems:
        click.echo(line, err=True)
    if flags["json_file"]:
        told = {
            "workload": "run_vllm_decoder", "model": shape.name, "device": str(device), "dtype": str(dtype),
            "torch": torch.__version__, "config": dataclasses.asdict(config), "parity": verdict,
            "logits_tolerance": logits_tolerance(dtype, shape.layers), "backends": result.found,
        }  # fmt: skip
        Path(flags["json_file"]).write_text(json.dumps(told) + "\n", "utf-8")
    if flags["plot_file"]:
        Path(flags["plot_file"]).write_text(report.picture(result.latencies, config.slo), "utf-8")


def _command() -> click.Command:
    callback: Any = prom_options(_bare)
    for option in reversed(OPTIONS):
        callback = option(callback)
    made: click.Command = click.command(context_settings={"max_content_width": 110})(callback)
    return made


command = _command()


class RunnerRun:
    """The workload to be timed: all requests at once, through the last backend of the file."""

    def __init__(self, config: WorkloadConfig) -> None:
        device, shape, dtype = check(config, None)
        self.device: Literal["cpu", "cuda"] = "cuda" if device.type == "cuda" else "cpu"
        self.config = replace(config, arrivals=Arrivals("at_once"))
        self.counters = DecodeCounters(shape.name)
        weights = weights_of(config, device, shape, dtype)
        self.backend = make_backend(config.decoder.backends[-1], config, weights, None, self.counters)
        self.requests: list[Request] = make_requests(self.config, shape.vocab)
        self.served: list[Served] = []
        self.bytes_moved = self.flops = 0.0

    def step(self) -> None:
        """Serve all requests; tokens reach the host at every step, so that this waits for the device."""
        self.served = self.backend.serve(self.requests)

    def outcome(self) -> Outcome:
        """The tokens of every request."""
        return Outcome(exact={"tokens": [one.tokens for one in self.served]})

    def metrics(self) -> Mapping[str, float]:
        """What the decoder counted."""
        found: dict[str, float] = self.counters.summary()
        return found

    def close(self) -> None:
        """Close the backend."""
        self.backend.close()


def prepare(flags: Sequence[str]) -> RunnerRun:
    """The workload ready to be timed. Raises UsageError for flags or files that cannot be run."""
    return RunnerRun(configured(parse(command, flags, "run_vllm_decoder")))


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code, 1 if parity fails."""
    code: int = run(command, argv, "run_vllm_decoder")
    return code


if __name__ == "__main__":
    sys.exit(main())
