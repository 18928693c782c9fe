"""`monitorgen kv-cache`: how many tokens and requests fit into a GPU's memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from monitorgen.kvcache import Budget, Plan

SHAPE = (
    "layers", "hidden", "heads", "kv_heads", "head_dim", "v_head_dim", "mla_dim", "window", "sliding_layers",
    "state_layers", "state_bytes",
)  # fmt: skip
COUNT = click.IntRange(1, 10_000)
TOKENS = click.IntRange(1, 1 << 32)
DIM = click.IntRange(1, 1 << 24)
DTYPES = ("fp32", "fp16", "bf16", "fp8", "fp8_ds_mla", "int8", "fp4", "int4", "custom")

EXAMPLES = """How many tokens and requests fit into the KV cache, counted in blocks as vLLM counts them.

\b
  monitorgen kv-cache --config path/to/model --gpu-mem-gb 80 --tp 2
  monitorgen kv-cache --layers 32 --kv-heads 8 --head-dim 128 --tokens 131072 --kv-mem 40GiB
  monitorgen kv-cache --layers 80 --hidden 8192 --tokens 4096 --batch 8 --dtype fp8 \\
      --gpu-mem-gb 192 --kv-overhead-frac 0.10 --reserve-activations-gb 40

The shape comes from --config (a model folder, its config.json, or a YAML file of layers) or from the flags.
--layers and --hidden alone mean a K and a V as wide as the hidden state, which is right only for models
that share no KV heads. Sizes: a bare number is in GB (10^9 bytes); 40GiB and 512MiB are taken too."""


def _size(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Bytes of a size as people write it; a bare number is in GB."""
    from monitorgen.errors import InputError
    from monitorgen.kvcache import parse_size

    if value is None:
        return None
    try:
        return parse_size(value)
    except InputError as error:
        raise click.BadParameter(str(error), ctx, param) from None


@click.command("kv-cache", help=EXAMPLES)
@click.option(
    "--config", type=click.Path(path_type=Path), help="Model folder, config.json, or YAML file of layers."
)
@click.option("--layers", type=COUNT, help="Layers of the model.")
@click.option("--hidden", type=DIM, help="Hidden size.")
@click.option("--heads", type=COUNT, help="Query heads; with --hidden it gives the head size.")
@click.option("--kv-heads", type=COUNT, help="KV heads, before they are split over GPUs.")
@click.option("--head-dim", type=DIM, help="Elements of a head.")
@click.option("--v-head-dim", type=DIM, help="Elements of a head's V where they differ.")
@click.option(
    "--mla-dim", type=DIM, help="MLA: elements of the latent, rotary part included (DeepSeek: 576)."
)
@click.option("--window", type=TOKENS, help="Tokens that sliding window layers see.")
@click.option(
    "--sliding-layers", type=COUNT, help="Layers with that window; all when only --window is given."
)
@click.option("--state-layers", type=COUNT, help="Mamba or linear attention layers.")
@click.option("--state-bytes", metavar="SIZE", callback=_size, help="Bytes of the state of such a layer.")
@click.option(
    "--tokens", type=TOKENS, help="Tokens of a request, prompt and answer; the model's most by default."
)
@click.option(
    "--batch", type=click.IntRange(1, 1 << 24), default=1, show_default=True, help="Requests at a time."
)
@click.option(
    "--dtype", type=click.Choice(DTYPES), default="bf16", show_default=True, help="How K and V are kept."
)
@click.option("--bytes-per-elem", type=click.FloatRange(0, 16, min_open=True), help="With --dtype custom.")
@click.option("--scale-group", type=DIM, help="int8, int4: elements that share a scale; a head by default.")
@click.option("--gpu-mem-gb", "gpu", metavar="SIZE", callback=_size, help="Memory of one GPU.")
@click.option(
    "--kv-mem",
    "kv",
    metavar="SIZE",
    callback=_size,
    help="Memory of one GPU for the KV cache alone, instead.",
)
@click.option(
    "--gpu-memory-utilization",
    "utilization",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    show_default=True,
    help="Share of it that may be used; vLLM's own default is 0.92.",
)
@click.option(
    "--kv-overhead-frac",
    "overhead",
    type=click.FloatRange(0, 10),
    default=0.0,
    show_default=True,
    help="What allocators lose, as a share of the cache.",
)
@click.option(
    "--reserve-activations-gb",
    "reserve",
    metavar="SIZE",
    callback=_size,
    default="0",
    help="Of each GPU, for activations.",
)
@click.option(
    "--weights-gb",
    "weights",
    metavar="SIZE",
    callback=_size,
    help="Weights of the whole model; by default the model folder's.",
)
@click.option(
    "--block-size", type=click.IntRange(1, 65536), default=16, show_default=True, help="Tokens in a block."
)
@click.option(
    "--tp", type=click.IntRange(1, 1024), default=1, show_default=True, help="Tensor parallel GPUs."
)
@click.option("--pp", type=click.IntRange(1, 1024), default=1, show_default=True, help="Pipeline stages.")
@click.option(
    "--in-flight-tokens",
    type=TOKENS,
    default=8192,
    show_default=True,
    help="Tokens scheduled and not settled: --max-num-batched-tokens, twice with async scheduling.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def kv_cache(**flags: Any) -> None:
    """See EXAMPLES."""
    from monitorgen.errors import InputError
    from monitorgen.kvcache import ElementType, Serving, check_fits, plan_of

    model = _model(flags)
    serving = Serving(
        ElementType(flags["dtype"], flags["bytes_per_elem"] or 0.0, flags["scale_group"] or 0),
        block_tokens=flags["block_size"], tp=flags["tp"], pp=flags["pp"], in_flight=flags["in_flight_tokens"],
    )  # fmt: skip
    plan = plan_of(model, serving)
    tokens, batch = flags["tokens"] or model.max_tokens, flags["batch"]
    if not tokens:
        raise InputError("--tokens is missing: how long is a request at most?")
    budget = _budget(flags, plan)
    memory = budget.cache_bytes(serving.tp * serving.pp) if budget else 0
    if budget:
        check_fits(plan, memory, tokens, batch)
    told = _told(plan, budget, memory, tokens, batch)
    if flags["as_json"]:
        click.echo(json.dumps(told, indent=2))
    else:
        _print(told, plan)


def _model(flags: dict[str, Any]) -> Any:
    from monitorgen.errors import InputError
    from monitorgen.kvcache.read import Numbers, flat_model, read_model

    given = {name: flags[name] for name in SHAPE if flags[name] is not None}
    if flags["config"] is None:
        return flat_model(Numbers(**given))
    if given:
        names = ", ".join("--" + name.replace("_", "-") for name in given)
        raise InputError(f"--config says what {names} would say", hint="give one or the other")
    return read_model(flags["config"])


def _budget(flags: dict[str, Any], plan: Plan) -> Budget | None:
    from monitorgen.errors import InputError
    from monitorgen.kvcache import Budget

    if flags["gpu"] is not None and flags["kv"] is not None:
        raise InputError("--gpu-mem-gb and --kv-mem are two ways to say the same", hint="give one of them")
    if flags["gpu"] is None and flags["kv"] is None:
        if flags["weights"] or flags["reserve"]:
            raise InputError(
                "--weights-gb and --reserve-activations-gb are taken off --gpu-mem-gb, which is missing"
            )
        return None
    weights = flags["weights"] if flags["weights"] is not None else plan.model.weight_bytes
    return Budget(
        gpu=flags["gpu"] or 0, kv=flags["kv"] or 0, weights=weights, reserve=flags["reserve"],
        utilization=flags["utilization"], overhead=flags["overhead"],
    )  # fmt: skip


def _told(plan: Plan, budget: Budget | None, memory: int, tokens: int, batch: int) -> dict[str, Any]:
    """Everything that is worth knowing, by name with its unit; of one GPU, the one that needs most."""
    overhead = 1 + (budget.overhead if budget else 0.0)
    told: dict[str, Any] = {
        "model": plan.model.name,
        "layers": _layer_counts(plan),
        "dtype": plan.serving.element.name,
        "tensor_parallel": plan.serving.tp,
        "pipeline_parallel": plan.serving.pp,
        "tokens": tokens,
        "batch": batch,
        "token_bytes": plan.token_bytes,
        "groups": len(plan.groups),
        "block_tokens": min(cache.block_tokens for cache in plan.caches.values()),
        "block_bytes": plan.block_bytes,
        "request_blocks": plan.request_blocks(tokens),
        "request_bytes": plan.request_bytes(tokens),
        "batch_bytes": int(plan.request_bytes(tokens) * batch * overhead),
    }
    if budget:
        told |= {
            "cache_bytes": memory,
            "blocks": plan.blocks(memory),
            "vllm_tokens": plan.vllm_tokens(memory, tokens),
            "requests": plan.requests(memory, tokens),
            "longest_tokens_at_batch": plan.longest(memory, batch),
        }
    return told


def _layer_counts(plan: Plan) -> dict[str, int]:
    kinds = [layer.kind for layer in plan.model.layers]
    return {kind: kinds.count(kind) for kind in dict.fromkeys(kinds) if kind != "none"}


def _print(told: dict[str, Any], plan: Plan) -> None:
    from rich.console import Console
    from rich.table import Table

    from monitorgen.kvcache import gib

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column(style="dim")
    tokens, batch = told["tokens"], told["batch"]
    kinds = ", ".join(f"{count} {kind}" for kind, count in told["layers"].items())
    gpus = plan.serving.tp * plan.serving.pp
    where = "on each GPU" if gpus > 1 else ""
    table.add_row("layers", str(len(plan.model.layers)), kinds)
    table.add_row(
        "a token", gib(told["token_bytes"]), f"{told['dtype']}, layers that keep every token {where}".strip()
    )
    table.add_row(
        "a block",
        gib(told["block_bytes"]),
        f"{told['block_tokens']} tokens, {told['groups']} groups share the pool",
    )
    table.add_row(
        "a request", gib(told["request_bytes"]), f"{tokens:,} tokens, {told['request_blocks']:,} blocks"
    )
    table.add_row(f"{batch:,} of them", gib(told["batch_bytes"]), "overhead included")
    if "blocks" in told:
        table.add_row("the cache", gib(told["cache_bytes"]), f"{told['blocks']:,} blocks {where}".strip())
        table.add_row("fits", f"{told['requests']:,} requests", f"of {tokens:,} tokens at the same time")
        table.add_row("", f"{told['longest_tokens_at_batch']:,} tokens", f"in each of {batch:,} requests")
        table.add_row("vLLM says", f"{told['vllm_tokens']:,} tokens", f"with --max-model-len {tokens}")
    Console(soft_wrap=True, highlight=False).print(table)
