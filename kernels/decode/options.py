"""The options that decode workloads share, and what they are turned into: a device, weights, ops."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click
import torch

from monitorgen.kernels.decode.config import SHAPES, Config
from monitorgen.kernels.decode.device import check_fits, choose_device
from monitorgen.kernels.decode.loop import StepFunction
from monitorgen.kernels.decode.model import Ops, decode_step
from monitorgen.kernels.decode.torch_ops import TorchOps
from monitorgen.kernels.decode.weights import DTYPES, Weights, config_of, make_weights
from monitorgen.kernels.workload import UsageError

Command = TypeVar("Command", bound=Callable[..., Any])
OPS = ("auto", "torch", "compile", "triton", "triton-pdl")


def model_options(command: Command) -> Command:
    """`--model`, `--device`, `--dtype` and `--seed`."""
    options = (
        click.option(
            "--model",
            default="auto",
            show_default="1b on cuda, tiny on cpu",
            help=f"A Hugging Face checkpoint's folder, or random weights of a shape: {', '.join(SHAPES)}.",
        ),
        click.option(
            "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True
        ),
        click.option(
            "--dtype",
            type=click.Choice(["auto", *DTYPES]),
            default="auto",
            show_default="bf16 on cuda, fp32 on cpu",
        ),
        click.option("--seed", type=int, default=0, show_default=True, help="Of weights, trace and prompts."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def ops_option(command: Command) -> Command:
    """`--ops`: what computes a step."""
    option = click.option(
        "--ops",
        type=click.Choice(OPS),
        default="auto",
        show_default="triton on cuda (for one row on Hopper triton-pdl), torch on cpu",
        help="What computes a step; pdl: with programmatic dependent launch.",
    )
    return option(command)


def resolve(flags: Mapping[str, Any]) -> tuple[torch.device, Config, torch.dtype]:
    """Device, shape and type that the flags name. Raises UsageError for those that cannot be."""
    device = choose_device(flags["device"])
    on_cuda = device.type == "cuda"
    model = flags["model"] if flags["model"] != "auto" else "1b" if on_cuda else "tiny"
    dtype = flags["dtype"] if flags["dtype"] != "auto" else "bf16" if on_cuda else "fp32"
    return device, config_of(model), DTYPES[dtype]


def build_weights(flags: Mapping[str, Any], reserve: int, positions: int) -> Weights:
    """The weights that the flags name, once it is sure that they and `reserve` more bytes fit.

    `positions` is the longest context. Raises UsageError if something does not fit.
    """
    device, config, dtype = resolve(flags)
    if positions > config.positions:
        raise UsageError(f"a context of {positions} tokens: {config.name} has {config.positions} positions")
    check_fits(
        f"{config.name} in {dtype}",
        config.parameters * dtype.itemsize + reserve,
        device,
        "take --model tiny, fewer requests or shorter prompts",
    )
    name = flags["model"] if flags["model"] != "auto" else config.name
    return make_weights(name, device=device, dtype=dtype, seed=flags["seed"])


def build_ops(flags: Mapping[str, Any], weights: Weights, rows: int) -> tuple[Ops, StepFunction]:
    """What computes a step for batches of up to `rows`, and the step function to call.

    Raises UsageError for Triton where it cannot run.
    """
    on_cuda = weights.device.type == "cuda"
    name = flags["ops"] if flags["ops"] != "auto" else default_ops(weights.device, rows)
    if name.startswith("triton"):
        if not on_cuda:
            raise UsageError(f"--ops {name} needs --device cuda")
        if importlib.util.find_spec("triton") is None:
            raise UsageError(f"--ops {name}: Triton is not installed; take --ops torch")
        try:
            from monitorgen.kernels.decode.triton_ops import Split, TritonOps
        except ImportError as error:  # the launch control of Hopper came with Triton 3.4
            raise UsageError(
                f"--ops {name}: this Triton does not serve ({error}); take --ops torch"
            ) from None

        split = Split(chunk=flags["chunk"]) if flags.get("chunk") else None
        return TritonOps(weights, rows, split=split, pdl=name.endswith("pdl")), decode_step
    return TorchOps(weights), compiled_step(weights) if name == "compile" else decode_step


def default_ops(device: torch.device, rows: int) -> str:
    """What is fastest for batches of up to `rows`.

    Programmatic dependent launch (Hopper, 9.0) hides the launches of one row's short kernels: 988 tokens/s
    against 942 on an H100. With more rows it cost more than it brought there (5,001 against 10,779 at 16).
    """
    if device.type != "cuda":
        return "torch"
    hopper = torch.cuda.get_device_capability(device) >= (9, 0)
    return "triton-pdl" if rows == 1 and hopper else "triton"


def compiled_step(weights: Weights) -> StepFunction:
    """`model.decode_step` compiled by torch, without graphs of its own: capturing them is ours."""
    # Every batch size is a compilation of its own; past torch's limit it would quietly run eagerly.
    torch._dynamo.config.recompile_limit = 256
    mode = "max-autotune-no-cudagraphs" if weights.device.type == "cuda" else None
    compiled: StepFunction = torch.compile(decode_step, dynamic=False, mode=mode)
    return compiled
