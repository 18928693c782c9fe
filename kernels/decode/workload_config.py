"""What `run_vllm_decoder` is told by a YAML file: the model, the requests, when they come, what decodes them.

Every key has a type and bounds, and nothing unknown is taken. What is wrong is said in one line with the file
and the key.
"""

from __future__ import annotations

import dataclasses
import random
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from monitorgen.kernels.workload import UsageError

Backend = Literal["torch", "math", "flex", "triton", "vllm"]
Span = tuple[int, int]


def _at_least(least: float, **values: float) -> None:
    for name, value in values.items():
        if not value >= least:
            raise UsageError(f"{name}: {value:g} must be {least:g} or more")


def _span(name: str, span: Span) -> None:
    if not 1 <= span[0] <= span[1]:
        raise UsageError(f"{name}: {list(span)} must be [least, most], from 1 on and in order")


@dataclass(frozen=True, slots=True)
class Requests:
    """How many, and the least and most tokens of their prompts and of what they decode."""

    count: int = 16
    prompt_tokens: Span = (4, 48)
    new_tokens: Span = (4, 24)

    def __post_init__(self) -> None:
        _at_least(1, count=self.count)
        _span("prompt_tokens", self.prompt_tokens)
        _span("new_tokens", self.new_tokens)


@dataclass(frozen=True, slots=True)
class Arrivals:
    """When requests come: all at once, at equal distances, or as a Poisson process; `rate` requests/s."""

    process: Literal["at_once", "constant", "poisson"] = "at_once"
    rate: float = 10.0

    def __post_init__(self) -> None:
        if not self.rate > 0:
            raise UsageError(f"rate: {self.rate:g} requests a second must be over 0")


@dataclass(frozen=True, slots=True)
class Decoder:
    """Ways to decode, and the cache: `slots` rows of `context` tokens; window 0 is none; blocks in tokens."""

    backends: tuple[Backend, ...] = ("torch", "flex")
    slots: int = 8
    context: int = 128
    window: int = 0
    block: int = 128

    def __post_init__(self) -> None:
        _at_least(1, slots=self.slots, context=self.context)
        _at_least(0, window=self.window)
        if self.block < 16 or self.block & (self.block - 1):
            raise UsageError(f"block: {self.block} must be a power of two, 16 or more")
        if not self.backends or len(set(self.backends)) != len(self.backends):
            raise UsageError(f"backends: {list(self.backends)} must name one or more, each once")
        if self.window and "triton" in self.backends:
            raise UsageError(f"backends: triton has no sliding window, and window is {self.window}")
        if self.window and "vllm" in self.backends:
            raise UsageError(f"backends: vllm takes its window from the model, and window is {self.window}")


@dataclass(frozen=True, slots=True)
class Slo:
    """What a request must keep to count as good: time to its first token, mean time between tokens."""

    ttft_ms: float = 500.0
    inter_token_ms: float = 100.0

    def __post_init__(self) -> None:
        for name, value in (("ttft_ms", self.ttft_ms), ("inter_token_ms", self.inter_token_ms)):
            if not value > 0:
                raise UsageError(f"{name}: {value:g} ms must be over 0")


@dataclass(frozen=True, slots=True)
class Parity:
    """Of how many requests logits are compared; tokens are of all."""

    logits_of: int = 4

    def __post_init__(self) -> None:
        _at_least(0, logits_of=self.logits_of)


@dataclass(frozen=True, slots=True)
class WorkloadConfig:
    """A workload: the same requests for every backend."""

    model: str = "tiny"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    seed: int = 0
    requests: Requests = field(default_factory=Requests)
    arrivals: Arrivals = field(default_factory=Arrivals)
    decoder: Decoder = field(default_factory=Decoder)
    slo: Slo = field(default_factory=Slo)
    parity: Parity = field(default_factory=Parity)

    def __post_init__(self) -> None:
        _at_least(0, seed=self.seed)
        needed = self.requests.prompt_tokens[1] + self.requests.new_tokens[1]
        if needed > self.decoder.context:
            raise UsageError(
                f"decoder.context: {self.decoder.context} places; a prompt of "
                f"{self.requests.prompt_tokens[1]} tokens and "
                f"{self.requests.new_tokens[1]} new ones need {needed}"
            )


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt, how many tokens it decodes, and seconds from the start until it comes."""

    number: int
    prompt: tuple[int, ...]
    new_tokens: int
    arrival: float


def make_requests(config: WorkloadConfig, vocab: int) -> list[Request]:
    """The requests of a workload, the same for the same seed, in the order in which they come."""
    draw, wanted, arrivals = random.Random(config.seed), config.requests, config.arrivals
    out, clock = [], 0.0
    for number in range(wanted.count):
        prompt = tuple(draw.randrange(vocab) for _ in range(draw.randint(*wanted.prompt_tokens)))
        out.append(Request(number, prompt, draw.randint(*wanted.new_tokens), clock))
        if arrivals.process == "poisson":
            clock += draw.expovariate(arrivals.rate)
        elif arrivals.process == "constant":
            clock += 1 / arrivals.rate
    return out


def bundled() -> dict[str, Path]:
    """The files that come with the package, by name without its ending."""
    folder = Path(str(resources.files("monitorgen.kernels").joinpath("configs")))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_config(text: str) -> Path:
    """A file by its path; a bundled one also as `NAME`, `NAME.yaml` or `configs/NAME.yaml`."""
    path, known = Path(text), bundled()
    if path.is_file():
        return path
    if path.parent in (Path(), Path("configs")) and path.suffix in ("", ".yaml") and path.stem in known:
        return known[path.stem]
    near = get_close_matches(path.stem, known, 1)
    hint = f"did you mean configs/{near[0]}.yaml?" if near else f"bundled: {', '.join(known)}"
    raise UsageError(f"--config {text}: no such file; {hint}")


def load_config(path: Path) -> WorkloadConfig:
    """Read a workload. Raises UsageError with the file and the key for what is wrong."""
    import yaml

    try:
        said = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise UsageError(f"{path}{where}: no YAML: {getattr(error, 'problem', None) or error}") from None
    try:
        made: WorkloadConfig = _record(WorkloadConfig, {} if said is None else said, "")
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    return made


def _record(kind: Any, said: Any, key: str) -> Any:
    """A dataclass from a mapping, every key checked."""
    if not isinstance(said, Mapping):
        raise UsageError(f"{key or 'the file'}: {said!r} must be a mapping of keys to values")
    hints = get_type_hints(kind)
    known = {one.name for one in dataclasses.fields(kind)}
    values = {}
    for name, value in said.items():
        place = f"{key}.{name}" if key else str(name)
        if name not in known:
            near = get_close_matches(str(name), known, 1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(known))}"
            raise UsageError(f"{place}: unknown key; {hint}")
        values[name] = _value(hints[name], value, place)
    try:
        return kind(**values)
    except UsageError as error:
        raise UsageError(f"{key}.{error}" if key else str(error)) from None


def _value(kind: Any, said: Any, key: str) -> Any:
    """A value of a field's type."""
    if dataclasses.is_dataclass(kind):
        return _record(kind, said, key)
    if get_origin(kind) is Literal:
        return _choice(kind, said, key)
    if get_origin(kind) is tuple or isinstance(kind, types.GenericAlias):
        inner = get_args(kind)
        if not isinstance(said, list) or (inner[-1] is not Ellipsis and len(said) != len(inner)):
            what = "a list" if inner[-1] is Ellipsis else f"a list of {len(inner)}"
            raise UsageError(f"{key}: {said!r} must be {what}")
        return tuple(_value(inner[0], item, f"{key}[{at}]") for at, item in enumerate(said))
    takes = (int, float) if kind is float else (kind,)
    if not isinstance(said, takes) or isinstance(said, bool):
        names = {int: "a whole number", float: "a number", str: "text"}
        raise UsageError(f"{key}: {said!r} must be {names[kind]}")
    return kind(said)


def _choice(kind: Any, said: Any, key: str) -> Any:
    known = get_args(kind)
    if said not in known:
        near = get_close_matches(str(said), known, 1)
        raise UsageError(
            f"{key}: {said!r} must be one of {', '.join(known)}"
            + (f"; did you mean {near[0]}?" if near else "")
        )
    return said
