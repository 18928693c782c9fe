"""FlexAttention decoding over a paged KV cache: shared prefixes computed once, and every logit checked.

`python -m monitorgen.kernels.attention.kv_cache_integration_example` serves requests that begin with the same
system prompt: prompts in chunks, then a token at a time for all that run, some of them continued in two ways.
The logits of each step are compared with a float64 model that has no cache and no pages.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor
from torch.nn.functional import rms_norm

from monitorgen.kernels.attention import masks, score_mods
from monitorgen.kernels.attention.flex_attention_native import TOLERANCES, relative_error
from monitorgen.kernels.attention.flex_reference import reference
from monitorgen.kernels.attention.masks import Mask
from monitorgen.kernels.attention.paged_attn_common import PagedCache
from monitorgen.kernels.attention.paged_kv import QUERIES, PagedKV, PagedView, attend
from monitorgen.kernels.attention.score_mods import ScoreMod
from monitorgen.kernels.command import run
from monitorgen.kernels.counters import DecodeCounters, KVCacheCounters
from monitorgen.kernels.decode.device import choose_device
from monitorgen.kernels.export import Telemetry, exporting, prom_options
from monitorgen.kernels.workload import UsageError

EPSILON = 1e-5  # of the norms: torch's own depends on the type, and would tell float32 from float64


@dataclass(frozen=True, slots=True)
class Model:
    """Layers of attention alone, with random weights: enough for each layer's keys to depend on all before.

    `qkv` [E, (Hq + 2 Hkv) D] and `out` [Hq D, E] of each layer, `embed` [V, E], which is the head too.
    """

    heads: int
    kv_heads: int
    head: int
    embed: Tensor
    qkv: tuple[Tensor, ...]
    out: tuple[Tensor, ...]

    def project(self, layer: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [..., E] -> q [..., Hq, D], k and v [..., Hkv, D]."""
        mixed = rms_norm(x, x.shape[-1:], eps=EPSILON) @ self.qkv[layer]
        mixed = mixed.view(*x.shape[:-1], -1, self.head)
        q, k, v = torch.split(mixed, [self.heads, self.kv_heads, self.kv_heads], -2)
        return q, k, v

    def logits(self, x: Tensor) -> Tensor:
        """x [..., E] -> [..., V]."""
        return rms_norm(x, x.shape[-1:], eps=EPSILON) @ self.embed.T

    def double(self) -> Model:
        """The same weights in float64."""
        qkv, out = tuple(w.double() for w in self.qkv), tuple(w.double() for w in self.out)
        return Model(self.heads, self.kv_heads, self.head, self.embed.double(), qkv, out)


def make_model(
    layers: int, heads: int, kv_heads: int, head: int, vocab: int, device: torch.device, dtype: torch.dtype
) -> Model:
    """Random weights, the same on every device."""
    generator = torch.Generator().manual_seed(0)
    width = heads * head

    def weight(rows: int, columns: int) -> Tensor:
        made = torch.randn(rows, columns, generator=generator) / math.sqrt(rows)
        return made.to(device, dtype)

    qkv = tuple(weight(width, (heads + 2 * kv_heads) * head) for _ in range(layers))
    out = tuple(weight(width, width) for _ in range(layers))
    return Model(heads, kv_heads, head, weight(vocab, width) * math.sqrt(vocab / width), qkv, out)


def dense_logits(model: Model, tokens: Sequence[int], mask: Mask, mod: ScoreMod | None) -> Tensor:
    """Logits [S, V] in float64 after each token of a sequence, all computed anew: the reference."""
    model = model.double()
    x = model.embed[torch.tensor(tokens, device=model.embed.device)]
    for layer, out in enumerate(model.out):
        q, k, v = (part.transpose(0, 1).unsqueeze(0) for part in model.project(layer, x))
        attended, _ = reference(q, k, v, mask, mod)
        x = x + attended[0].transpose(0, 1).flatten(1) @ out
    return model.logits(x)


class Engine:
    """Computes what the books of a cache say: prompts in chunks, then one token a step for a whole batch."""

    def __init__(
        self, model: Model, cache: PagedCache, mask: Mask, mod: ScoreMod | None, *, batch: int, width: int,
        chunk: int = QUERIES,
    ) -> None:  # fmt: skip
        device, dtype = model.embed.device, model.embed.dtype
        self.model, self.cache, self.chunk, self.batch = model, cache, chunk, batch
        self.layers = [PagedKV.empty(cache, model.kv_heads, model.head, device, dtype) for _ in model.qkv]
        self.views = {
            "prefill": PagedView(cache, 1, chunk, width, mask, device),
            "decode": PagedView(cache, batch, 1, width, mask, device),
        }
        self.mods = {name: mod and view.score_mod(mod) for name, view in self.views.items()}

    def prefill(self, name: Hashable, cached: int) -> Tensor:
        """Compute a new sequence's tokens from `cached` on; the logits [V] after its last one."""
        tokens = self.cache.tokens(name)
        logits = torch.empty(0)
        for start in range(cached, len(tokens), self.chunk):
            part = tokens[start : start + self.chunk]
            # Chunks have one length, so that nothing is compiled anew; what stands behind the end is ignored.
            padded = [*part, *[0] * (self.chunk - len(part))]
            slots = self._slots(name, range(start, start + len(part)))
            self.views["prefill"].update([name], [start], [start + len(part)])
            x = self._forward("prefill", torch.tensor([padded]), slots)
            logits = self.model.logits(x[0, len(part) - 1])
        return logits

    def decode(self, names: Sequence[Hashable], tokens: Sequence[int]) -> Tensor:
        """Append a token to each sequence and compute it; the logits [B, V] after it."""
        slots = []
        for name, token in zip(names, tokens, strict=True):
            slot = self.cache.append(name, token)
            if slot.copied is not None:
                for layer in self.layers:
                    layer.copy(slot.copied, slot.block)
            slots.append(slot.block * self.cache.block_size + slot.offset)
        lengths = [self.cache.length(name) for name in names]
        self.views["decode"].update(names, [length - 1 for length in lengths], lengths)
        column = torch.tensor([*tokens, *[0] * (self.batch - len(tokens))]).unsqueeze(1)
        x = self._forward("decode", column, torch.tensor(slots))
        return self.model.logits(x[: len(names), 0])

    def _slots(self, name: Hashable, positions: range) -> Tensor:
        table, size = self.cache.table(name), self.cache.block_size
        return torch.tensor([table[p // size] * size + p % size for p in positions])

    @torch.no_grad()
    def _forward(self, kind: str, tokens: Tensor, slots: Tensor) -> Tensor:
        """The layers on tokens [B, T], the first len(slots) of which are real -> [B, T, E]."""
        model, view = self.model, self.views[kind]
        device, block_mask = model.embed.device, view.block_mask
        slots = slots.to(device)
        x = model.embed[tokens.to(device)]
        for layer, (pages, out) in enumerate(zip(self.layers, model.out, strict=True)):
            q, k, v = model.project(layer, x)
            pages.write(slots, k.flatten(0, 1)[: len(slots)], v.flatten(0, 1)[: len(slots)])
            attended = attend(q.transpose(1, 2), pages, view, block_mask, self.mods[kind])
            x = x + attended.transpose(1, 2).flatten(2) @ out
        return x


@dataclass(slots=True)
class Request:
    """A prompt, how many tokens to add to it, and in how many ways; what came of it."""

    name: str
    prompt: list[int]
    new: int
    ways: int = 1
    logits: dict[str, list[Tensor]] = field(default_factory=dict)
    tokens: dict[str, list[int]] = field(default_factory=dict)

    def blocks(self, size: int) -> int:
        """Blocks that it takes at most, when all ways have ended."""
        return self.ways * -(-(len(self.prompt) + self.new) // size)


def make_requests(count: int, system: int, prompt: int, new: int, vocab: int, seed: int) -> list[Request]:
    """Requests that share a system prompt; each third one is continued in two ways."""
    generator = torch.Generator().manual_seed(seed)

    def numbers(how_many: int) -> list[int]:
        found: list[int] = torch.randint(vocab, (how_many,), generator=generator).tolist()
        return found

    start = numbers(system)
    tails = torch.randint(1, prompt + 1, (count,), generator=generator).tolist()
    return [
        Request(f"request {n}", start + numbers(tail), new, 2 if n % 3 == 2 else 1)
        for n, tail in enumerate(tails)
    ]


def serve(engine: Engine, requests: Sequence[Request], counters: DecodeCounters) -> None:
    """Run all requests to their end, as many at once as have room until then."""
    waiting = deque(requests)
    running: dict[str, Request] = {}
    cache = engine.cache
    promised: dict[str, int] = {}
    while waiting or running:
        while waiting:
            ahead = waiting[0]
            need = ahead.blocks(cache.block_size)
            full = sum(promised.values()) + need > len(cache.users)
            if full or len(running) + ahead.ways > engine.batch:
                break
            waiting.popleft()
            promised[ahead.name] = need
            running |= _start(engine, ahead)
        started = time.perf_counter()
        names = list(running)
        step = engine.decode(names, [running[name].tokens[name][-1] for name in names])
        chosen = step.argmax(-1).tolist()  # waits for the device
        counters.step(len(names), engine.batch, time.perf_counter() - started)
        for name, logits, token in zip(names, step, chosen, strict=True):
            request = running[name]
            request.logits[name].append(logits)
            request.tokens[name].append(token)
            if len(request.tokens[name]) > request.new:
                cache.free(name)
                del running[name]
                if request not in running.values():
                    del promised[request.name]


def _start(engine: Engine, request: Request) -> dict[str, Request]:
    """Compute a request's prompt; its ways begin with the best token, the second best, and so on."""
    cache, first = engine.cache, request.name
    cached = cache.add(first, request.prompt)
    logits = engine.prefill(first, cached)
    best = logits.topk(request.ways).indices.tolist()
    names = [first, *(f"{first}, way {n + 2}" for n in range(request.ways - 1))]
    for name, token in zip(names, best, strict=True):
        if name != first:
            cache.fork(first, name)
        request.logits[name], request.tokens[name] = [logits], [token]
    return dict.fromkeys(names, request)


def verify(
    engine: Engine, requests: Sequence[Request], mask: Mask, mod: ScoreMod | None
) -> tuple[float, int]:
    """The largest relative error of any step's logits against float64, and how many were compared."""
    worst, compared = 0.0, 0
    for request in requests:
        for name, steps in request.logits.items():
            tokens = request.prompt + request.tokens[name]
            expected = dense_logits(engine.model, tokens, mask, mod)[len(request.prompt) - 1 : -1]
            for logits, wanted in zip(steps, expected, strict=True):
                worst, compared = max(worst, relative_error(logits, wanted)), compared + 1
    return worst, compared


def execute(flags: Mapping[str, Any], books: KVCacheCounters, steps: DecodeCounters) -> dict[str, Any]:
    """Serve the requests that the flags ask for, and check them. Raises UsageError for what cannot be."""
    size, heads, device = flags["block_size"], flags["heads"], choose_device(flags["device"])
    if size not in (16, 32, 64, 128):
        raise UsageError(f"--block-size {size}: 16, 32, 64 or 128")
    if heads % flags["kv_heads"]:
        raise UsageError(f"--kv-heads {flags['kv_heads']}: --heads {heads} is no multiple of it")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    requests = make_requests(
        flags["requests"], flags["system"], flags["prompt"], flags["new"], 256, flags["seed"]
    )
    most = max(request.blocks(size) for request in requests)
    if most > flags["blocks"] or max(request.ways for request in requests) > flags["batch"]:
        raise UsageError(
            f"--blocks {flags['blocks']}, --batch {flags['batch']}: a request needs {most} and 2"
        )
    mask = masks.sliding_window(flags["window"]) if flags["window"] else masks.causal()
    mod = score_mods.parse(flags["score_mod"], heads=heads, cap=30.0, gain=1.5, device=device)
    model = make_model(flags["layers"], heads, flags["kv_heads"], flags["head_dim"], 256, device, dtype)
    cache = PagedCache(flags["blocks"], size, books)
    width = max(-(-(len(request.prompt) + request.new) // size) for request in requests)
    engine = Engine(model, cache, mask, mod, batch=flags["batch"], width=width)
    serve(engine, requests, steps)
    error, compared = verify(engine, requests, mask, mod)
    # Every layer rounds what it adds.
    most_error = TOLERANCES[dtype] * 2 * flags["layers"]
    return {
        "error": error, "tolerance": most_error, "compared": compared, "ok": error <= most_error,
        "metrics": books.summary(), "device": device.type, "torch": torch.__version__,
        "tokens": [request.tokens for request in requests],
    }  # fmt: skip


def _count(name: str, default: int, help_: str) -> Any:
    return click.option(name, type=click.IntRange(1), default=default, show_default=True, help=help_)


OPTIONS = (
    _count("--requests", 9, "Requests; each third one is continued in two ways."),
    _count("--system", 40, "Tokens of the prompt that all begin with."),
    _count("--prompt", 24, "Most tokens of a request's own prompt."),
    _count("--new", 12, "Tokens decoded for a request."),
    _count("--blocks", 16, "Blocks of the cache."),
    click.option("--block-size", default=16, show_default=True, help="Tokens of a block: 16, 32, 64 or 128."),
    _count("--batch", 4, "Sequences decoded at once."),
    _count("--layers", 2, "Layers of the model."),
    _count("--heads", 4, "Query heads."),
    _count("--kv-heads", 2, "KV heads."),
    _count("--head-dim", 32, "Elements of a head."),
    click.option("--window", type=click.IntRange(1), help="Sliding window.  [default: causal]"),
    click.option(
        "--score-mod",
        default="alibi",
        show_default=True,
        help=f"{', '.join(score_mods.NAMES)}, with + between.",
    ),
    click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True),
    click.option("--seed", type=int, default=0, show_default=True),
    click.option("--json", "json_file", type=click.Path(), help="Write the result to a file."),
)


def _bare(**flags: Any) -> int:
    """Decode requests over a paged KV cache with FlexAttention, and compare every logit with float64."""
    books, steps = KVCacheCounters("kv_cache_integration"), DecodeCounters("kv_cache_integration")
    prom = {"port": flags["prom_port"], "duration": flags["prom_duration"], "host": flags["prom_host"]}
    with exporting(Telemetry([steps], caches=[books]), **prom):
        found = execute(flags, books, steps)
        click.echo(
            f"{'ok' if found['ok'] else 'WRONG'}: {found['compared']} steps, error {found['error']:.1e}; "
            + ", ".join(f"{name} {number:g}" for name, number in found["metrics"].items())
        )
        if flags["json_file"]:
            Path(flags["json_file"]).write_text(json.dumps(found) + "\n", "utf-8")
    return 0 if found["ok"] else 1


def _make_command() -> click.Command:
    callback: Any = prom_options(_bare)
    for option in reversed(OPTIONS):
        callback = option(callback)
    made: click.Command = click.command(context_settings={"max_content_width": 110})(callback)
    return made


command = _make_command()


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code, 1 if any logit differs from the reference."""
    code: int = run(command, argv, "kv_cache_integration_example")
    return code


if __name__ == "__main__":
    sys.exit(main())
