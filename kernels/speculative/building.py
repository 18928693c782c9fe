"""Puts an arm together from flags: models, ops, drafter, loop. All that can be wrong is said first."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from monitorgen.kernels.counters import DecodeCounters, SpeculationCounters
from monitorgen.kernels.decode.config import SHAPES, Config
from monitorgen.kernels.decode.device import check_fits, choose_device, graph_pool_bytes, held_bytes
from monitorgen.kernels.decode.graphs import cuda
from monitorgen.kernels.decode.model import Ops
from monitorgen.kernels.decode.options import build_ops, default_ops
from monitorgen.kernels.decode.sampling import Sampling
from monitorgen.kernels.decode.torch_ops import TorchOps
from monitorgen.kernels.decode.weights import DTYPES, Weights, config_of, make_weights
from monitorgen.kernels.speculative import corpus
from monitorgen.kernels.speculative.adaptive import AdaptiveK
from monitorgen.kernels.speculative.draft_model import ModelDrafter
from monitorgen.kernels.speculative.drafter import Drafter
from monitorgen.kernels.speculative.head import Head, HeadDrafter
from monitorgen.kernels.speculative.models import HEAD, PAIRS, Pair, pair_of
from monitorgen.kernels.speculative.ngram import NgramDrafter
from monitorgen.kernels.speculative.plain import Plain
from monitorgen.kernels.speculative.settings import Settings
from monitorgen.kernels.speculative.speculator import Speculator, check_room
from monitorgen.kernels.speculative.train import Say, trained
from monitorgen.kernels.speculative.verify import Verifier
from monitorgen.kernels.workload import UsageError

Arm = Literal["plain", "baseline", "optimized_math", "optimized"]
UNSEEN = 5_000_000  # added to the seed of the prompts: documents that no model was trained on


@dataclass(slots=True)
class Models:
    """A target, its draft where there is one, the prompts that are decoded, and the token that ends them."""

    target: Weights
    draft: Weights | None
    prompts: list[list[int]]
    answers: list[int]
    end: int
    context: int
    head: Head | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What `find_models` is going to load or train, and what is decoded: all of it checked."""

    device: torch.device
    dtype: torch.dtype
    pair: Pair | None  # None: checkpoints
    target: str
    draft: str  # a name in the pair, or a checkpoint's folder; empty for none
    prompts: list[list[int]]
    answers: list[int]
    context: int


def plan_models(flags: Mapping[str, Any], settings: Settings) -> Plan:
    """Check models, prompts and sizes that the flags name, without loading any. Raises UsageError."""
    device = choose_device(flags["device"])
    on_cuda = device.type == "cuda"
    _check_ops(flags["ops"], on_cuda)
    dtype = DTYPES[flags["dtype"] if flags["dtype"] != "auto" else "bf16" if on_cuda else "fp32"]
    drafted = settings.method == "draft-model"
    pair: Pair | None = None
    if flags["model"]:
        config, draft = config_of(flags["model"]), settings.draft
        if settings.method == HEAD:
            raise UsageError("method head: heads are trained for the pairs only; leave --model out")
        if drafted and not draft:
            raise UsageError("--model needs --draft: a checkpoint's folder; or take --method ngram")
        small = config_of(draft) if drafted else config
        dice = random.Random(flags["seed"])
        sizes = [dice.randint(8, 40) for _ in range(flags["batch"])]
        prompts = [[dice.randrange(config.vocab) for _ in range(size)] for size in sizes]
    else:
        name = flags["pair"] or ("1b" if on_cuda else "tiny")
        known = PAIRS[name].drafts if name in PAIRS else {}
        if known and settings.draft not in known and _is_model(settings.draft):
            _same_vocabulary(PAIRS[name].target, config_of(settings.draft))
            raise UsageError(
                f"draft {settings.draft}: a checkpoint drafts for a checkpoint; give --model too"
            )
        pair, draft = pair_of(name, settings.draft)
        config, small = pair.target, pair.drafts[draft]
        prompts = corpus.prompts(flags["batch"], flags["seed"] + UNSEEN)
    _same_vocabulary(config, small)
    answers, context = _sizes(flags, settings, prompts, (config, small))
    target = flags["model"] or config.name
    wanted = draft if drafted else HEAD if settings.method == HEAD else ""
    return Plan(device, dtype, pair, target, wanted, prompts, answers, context)


def _check_ops(name: str, on_cuda: bool) -> None:
    """Raise UsageError for ops that cannot compute a step here, before there are weights."""
    if name.startswith("triton") and not on_cuda:
        raise UsageError(f"--ops {name} needs --device cuda")
    if name == "compile":
        raise UsageError("--ops compile: speculative steps are captured, not compiled; take torch or triton")


def find_models(flags: Mapping[str, Any], settings: Settings, say: Say = lambda _: None) -> Models:
    """The models and prompts that the flags name; all is checked before it is loaded or trained.

    Checkpoints and random shapes decode random prompts, without an end. Raises UsageError.
    """
    plan, seed = plan_models(flags, settings), flags["seed"]
    where: dict[str, Any] = {"device": plan.device, "dtype": plan.dtype}
    draft: Weights | None = None
    if plan.pair is not None:
        made = trained(plan.pair, plan.draft, seed=seed, folder=flags["models"], say=say, **where)
        end = corpus.vocabulary().index(corpus.END)
        return Models(made.target, made.draft, plan.prompts, plan.answers, end, plan.context, made.head)
    names = [plan.target, plan.draft] if plan.draft else [plan.target]
    size = sum(config_of(name).parameters for name in names) * plan.dtype.itemsize
    check_fits(" and ".join(names), size, plan.device, "take smaller models")
    target = make_weights(plan.target, seed=seed, positions=plan.context, **where)
    if plan.draft:
        draft = make_weights(plan.draft, seed=seed + 1, positions=plan.context, **where)
    return Models(target, draft, plan.prompts, plan.answers, -1, plan.context)


def _is_model(name: str) -> bool:
    """Whether a name is a random shape or a checkpoint's folder."""
    return name in SHAPES or (bool(name) and Path(name).is_dir())


def _same_vocabulary(target: Config, draft: Config) -> None:
    """Raise UsageError unless the draft speaks the target's vocabulary."""
    if draft.vocab != target.vocab:
        raise UsageError(
            f"draft {draft.name} has a vocabulary of {draft.vocab} tokens, the target {target.name} one of "
            f"{target.vocab}: a draft must share the target's tokenizer"
        )


def _sizes(
    flags: Mapping[str, Any], settings: Settings, prompts: Sequence[Sequence[int]], models: Sequence[Config]
) -> tuple[list[int], int]:
    """Most tokens of each answer, and the places of a row in the cache. Raises UsageError if they are few."""
    answers = [flags["tokens"]] * len(prompts)
    need = max(map(len, prompts)) + flags["tokens"] + settings.k
    context = flags["context"] or need
    least = min(models, key=lambda config: config.positions)
    if context > least.positions:
        raise UsageError(
            f"a cache of {context} tokens a row (drafts of {settings.k} included): {least.name} has "
            f"{least.positions} positions"
        )
    check_room(prompts, answers, settings.k, context)
    return answers, context


def make_ops(arm: Arm, flags: Mapping[str, Any], weights: Weights, rows: int, *, shared: bool) -> Ops:
    """What computes an arm's steps of up to `rows`; `shared`: rows that share pages. Raises UsageError."""
    if arm in ("baseline", "optimized_math"):
        return TorchOps(weights)
    ops, _ = build_ops(flags, weights, rows)
    if shared and ops.name == "triton":
        from monitorgen.kernels.decode.triton_ops import TritonOps

        assert isinstance(ops, TritonOps)
        ops.write_first = True
    return ops


def make_sampling(settings: Settings, device: torch.device, seed: int) -> Sampling | None:
    """How tokens are drawn; None is greedy."""
    if not settings.temperature:
        return None
    generator = torch.Generator(device).manual_seed(seed)
    return Sampling(generator, settings.temperature, settings.top_k, settings.top_p)


def make_drafter(
    arm: Arm, flags: Mapping[str, Any], settings: Settings, models: Models, verifier: Verifier
) -> Drafter:
    """The drafter that the settings name; a head reads what the verifier keeps. Raises UsageError."""
    if settings.method == HEAD:
        assert models.head is not None
        sampling = make_sampling(settings, models.target.device, flags["seed"] + 1)
        return HeadDrafter(models.head, verifier, sampling)
    rows, fused = len(models.prompts), _fused(arm, flags, models)
    if settings.method == "ngram":
        if fused:
            from monitorgen.kernels.speculative.fused import FusedNgramDrafter

            return FusedNgramDrafter(settings.ngram_min, settings.ngram_max)
        return NgramDrafter(settings.ngram_min, settings.ngram_max)
    draft = models.draft
    assert draft is not None
    first = make_ops(arm, flags, draft, 2 * rows, shared=True)
    ops = make_ops(arm, flags, draft, rows, shared=False)
    sampling = make_sampling(settings, draft.device, flags["seed"] + 1)
    if fused:
        from monitorgen.kernels.speculative.fused import FusedModelDrafter

        return FusedModelDrafter(draft, first, ops, rows, models.context, sampling)
    return ModelDrafter(draft, first, ops, rows, models.context, sampling)


def make_verifier(arm: Arm, flags: Mapping[str, Any], settings: Settings, models: Models) -> Verifier:
    """The target's side of an arm. Raises UsageError."""
    weights, rows = models.target, len(models.prompts)
    ops = make_ops(arm, flags, weights, rows * (settings.k + 1), shared=True)
    sampling, keep = make_sampling(settings, weights.device, flags["seed"]), settings.method == HEAD
    if _fused(arm, flags, models):
        from monitorgen.kernels.speculative.fused import FusedVerifier

        return FusedVerifier(weights, ops, rows, settings.k, models.context, sampling, keep=keep)
    return Verifier(weights, ops, rows, settings.k, models.context, sampling, keep=keep)


def _fused(arm: Arm, flags: Mapping[str, Any], models: Models) -> bool:
    """Whether an arm runs our Triton kernels."""
    name = flags["ops"]
    if name == "auto":
        name = default_ops(models.target.device, len(models.prompts))
    return arm == "optimized" and name.startswith("triton")


def make_loop(
    arm: Arm, flags: Mapping[str, Any], settings: Settings, models: Models, counters: DecodeCounters,
    speculation: SpeculationCounters,
) -> Speculator | Plain:  # fmt: skip
    """An arm's loop, its prompts read and its graphs captured."""
    weights, rows = models.target, len(models.prompts)
    graphs = arm != "baseline" and weights.device.type == "cuda"
    sampling = make_sampling(settings, weights.device, flags["seed"])
    if graphs:
        counters.mode, counters.graphs = "full", True
    if arm == "plain":
        ops = make_ops(arm, flags, weights, rows, shared=False)
        plain = Plain(
            weights,
            ops,
            rows,
            models.context,
            end=models.end,
            graphs=graphs,
            sampling=sampling,
            counters=counters,
        )
        plain.start(models.prompts, models.answers)
        plain.capture()
        return plain
    verifier = make_verifier(arm, flags, settings, models)
    drafter = make_drafter(arm, flags, settings, models, verifier)
    made = Speculator(
        verifier, drafter, rows, models.context, end=models.end, graphs=graphs, counters=counters,
        speculation=speculation,
    )  # fmt: skip
    made.start(models.prompts, models.answers)
    if settings.adaptive:
        made.capture(range(1, settings.k + 1))
        made.adaptive = AdaptiveK(settings.k, draft_cost(made))
    made.capture()
    return made


def draft_cost(loop: Speculator, repeats: int = 5) -> float:
    """The measured time of drafting one token over that of a verification: the medians of some runs."""
    from monitorgen.kernels.decode.device import measure

    pair, k = loop.pairs[loop.longest], loop.longest
    halves = [
        sorted(measure(half, loop.device, repeats, 1))[repeats // 2] for half in (pair.draft, pair.verify)
    ]
    loop.reset()
    return float(halves[0] / k / halves[1])


def watch_memory(loop: Speculator | Plain, counters: DecodeCounters) -> None:
    """Let counters ask what the loop holds: of the allocator on CUDA, else of its tensors."""
    if loop.device.type == "cuda":
        counters.allocator_bytes = partial(cuda.memory_reserved, loop.device)
        counters.pool_bytes = graph_pool_bytes
        return
    held = list(loop.tensors())
    counters.allocator_bytes = lambda: held_bytes(held)
