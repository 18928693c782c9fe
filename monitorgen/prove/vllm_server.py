"""A real vLLM on this machine's CPU, serving a tiny random model, for the time of a proof.

vLLM runs in an interpreter of its own choice (MONITORGEN_VLLM_PYTHON, else ours); the generator never
imports it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPResponse
from importlib import resources
from pathlib import Path

from monitorgen.errors import InputError, ToolMissing
from monitorgen.prove.load import Arrival, send
from monitorgen.prove.processes import LOOPBACK, Child, ProcessError, child, free_port

PYTHON_VARIABLE = "MONITORGEN_VLLM_PYTHON"
MODEL_TIMEOUT = 180.0
_LOG_PREFIX = re.compile(r"^(?:\([^)]*\)\s*)?(?:(?:ERROR|WARNING|INFO) \S+ \S+ \[[^\]]*\]\s*)?")
_CAUSE = re.compile(r"^(?:[\w.]*(?:Error|Exception|Exit)\b|\S+\.py: error): ?.+")
_CONSEQUENCE = re.compile(r"Engine core initialization failed|Engine core proc .* died")


@dataclass(frozen=True, slots=True)
class VllmOptions:
    """How the server is started. Lengths are tokens; 0 leaves a setting to vLLM.

    `ngram` is the number of speculative tokens of n-gram speculation (0: none), drafted from the last
    `ngram_lookup` tokens, at least and at most. Few `gpu_blocks` with many requests make queues and
    preemptions; `max_queued` is the number of unfinished requests, running ones included, beyond which the
    server rejects. `dev_mode` adds vLLM's endpoints for its operator, like /pause, which aborts requests.
    `model` is a folder with a model; without it, the tiny Llama is made. `flags` are passed on as they are.
    """

    model: Path | None = None
    name: str = "tiny"
    dtype: str = "bfloat16"
    max_model_len: int = 1024
    max_num_seqs: int = 0
    kv_cache_gib: int = 1
    ngram: int = 0
    ngram_lookup: tuple[int, int] = (3, 3)
    gpu_blocks: int = 0
    max_queued: int = 0
    eager: bool = False
    dev_mode: bool = False
    flags: tuple[str, ...] = ()

    def arguments(self, model: Path, port: int) -> tuple[str, ...]:
        """The arguments of vLLM's API server."""
        arguments = ["--model", str(model), "--served-model-name", self.name, "--dtype", self.dtype]
        arguments += ["--max-model-len", str(self.max_model_len), "--host", LOOPBACK, "--port", str(port)]
        numbers = {
            "--max-num-seqs": self.max_num_seqs,
            "--num-gpu-blocks-override": self.gpu_blocks,
            "--max-num-queued-reqs": self.max_queued,
        }
        for flag, number in numbers.items():
            arguments += [flag, str(number)] if number else []
        if self.ngram:
            least, most = self.ngram_lookup
            lookup = {"prompt_lookup_min": least, "prompt_lookup_max": most}
            speculation = {"method": "ngram", "num_speculative_tokens": self.ngram, **lookup}
            arguments += ["--speculative-config", json.dumps(speculation)]
        arguments += ["--enforce-eager"] if self.eager else []
        return (*arguments, *self.flags)

    def environment(self, cache: Path) -> Mapping[str, str]:
        """The variables to add: nothing is fetched or reported, compiled code is kept in our own cache."""
        developer = {"VLLM_SERVER_DEV_MODE": "1"} if self.dev_mode else {}
        return developer | {
            "VLLM_CPU_KVCACHE_SPACE": str(self.kv_cache_gib),
            "VLLM_CACHE_ROOT": str(cache / "vllm"),
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
            "PYTHONUNBUFFERED": "1",
        }


@dataclass(frozen=True, slots=True)
class VllmServer:
    """A running server. `ready_after` is the seconds from its start until it was healthy."""

    url: str
    target: str
    name: str
    version: str
    ready_after: float
    child: Child


@contextlib.contextmanager
def serve_vllm(
    options: VllmOptions,
    *,
    workdir: Path,
    python: Path | None = None,
    cache: Path | None = None,
    timeout: float = 300.0,
) -> Iterator[VllmServer]:
    """Run vLLM inside the `with` block, warmed up; all its processes end with it.

    Raises `ToolMissing` without a vLLM, and `ProcessError` with vLLM's own words if it does not start.
    """
    interpreter = python or vllm_python()
    home = cache or cache_folder()
    model = options.model or tiny_model(interpreter, home)
    port = free_port()
    argv: list[str | Path] = [
        interpreter,
        "-m",
        "vllm.entrypoints.openai.api_server",
        *options.arguments(model, port),
    ]
    url = f"http://{LOOPBACK}:{port}"
    environment = options.environment(home)
    with child(argv, name="vLLM", log=workdir / "vllm.log", env=environment, cwd=workdir) as process:
        try:
            seconds = process.wait_until(lambda: _healthy(url), timeout=timeout, what="answering /health")
            _warm_up(port, options.name, timeout)
        except ProcessError as error:
            said = root_cause(process.tail(2000)) or error.message
            raise ProcessError(f"vLLM does not start: {said}", hint=f"log: {process.log}") from error
        yield VllmServer(url, f"{LOOPBACK}:{port}", options.name, _version(url), seconds, process)


def vllm_python() -> Path:
    """The interpreter that has vLLM: the environment's choice, else ours. Raises `ToolMissing`."""
    chosen = os.environ.get(PYTHON_VARIABLE, "")
    found = shutil.which(chosen or sys.executable)
    hint = f"pip install 'monitorgen[vllm]', or set {PYTHON_VARIABLE} to an interpreter that has vLLM"
    if found is None:
        raise ToolMissing(f"{chosen} (from {PYTHON_VARIABLE}) cannot be run", hint=hint)
    probe = "import importlib.util as u, sys; sys.exit(u.find_spec('vllm') is None)"
    if subprocess.run([found, "-c", probe], capture_output=True, check=False, timeout=60).returncode:
        raise ToolMissing(f"{found} has no vLLM", hint=hint)
    return Path(found)


def cache_folder() -> Path:
    """Where models and compiled code are kept: $XDG_CACHE_HOME/monitorgen."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / "monitorgen"


def tiny_model(python: Path, cache: Path) -> Path:
    """The folder of the tiny random Llama, made on the first call (about half a minute).

    The folder's name holds the digest of the program that makes it, so that a change makes a new model.
    """
    script = Path(str(resources.files("monitorgen.kernels").joinpath("decode", "tiny_llama.py")))
    if not script.is_file():
        raise InputError(
            "the program that makes the tiny model is not installed", hint="reinstall monitorgen"
        )
    folder = cache / f"tiny-llama-{hashlib.sha256(script.read_bytes()).hexdigest()[:12]}"
    if (folder / "config.json").is_file():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="making-") as scratch:
        made, log = Path(scratch) / "model", Path(scratch) / "log"
        with child(
            [python, script, made], name="making the tiny model", log=log, env={"HF_HUB_OFFLINE": "1"}
        ) as maker:
            try:
                code = maker.process.wait(MODEL_TIMEOUT)
            except subprocess.TimeoutExpired:
                raise ProcessError(f"the tiny model was not made within {MODEL_TIMEOUT:.0f} s") from None
            if code:
                raise ProcessError(
                    f"the tiny model cannot be made: {root_cause(maker.tail(200)) or maker.tail(3)}"
                )
        with contextlib.suppress(OSError):  # somebody else was faster: theirs is the same
            made.rename(folder)
    return folder


def root_cause(log: str) -> str:
    """The first error that vLLM's log names, later ones being its consequences; empty if it names none.

    A traceback's last line counts, with the prefixes that vLLM's processes put before it removed.
    """
    lines = [_LOG_PREFIX.sub("", line).strip() for line in log.splitlines()]
    errors = [line for line in lines if _CAUSE.match(line)]
    causes = [line for line in errors if not _CONSEQUENCE.search(line)]
    return next(iter(causes or errors), "")


def _healthy(url: str) -> bool:
    with contextlib.suppress(OSError, ValueError), _direct(f"{url}/health") as answer:
        return bool(answer.status == 200)
    return False


def _version(url: str) -> str:
    with contextlib.suppress(OSError, ValueError, KeyError), _direct(f"{url}/version") as answer:
        return str(json.loads(answer.read())["version"])
    return ""


def _direct(url: str) -> HTTPResponse:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy from the environment
    answer = opener.open(url, timeout=5.0)
    assert isinstance(answer, HTTPResponse)
    return answer


def _warm_up(port: int, model: str, timeout: float) -> None:
    """Let the first requests compile what is compiled late: a load's first tokens would wait for it."""
    prompt = "again and again and again and "
    for request in (Arrival(0.0, "completion", prompt, 8), Arrival(0.0, "chat", prompt, 24)):
        outcome = send((LOOPBACK, port), request, model, timeout)
        if outcome.status != 200 or outcome.error:
            answer = outcome.error or f"HTTP {outcome.status}"
            raise ProcessError(f"the first {request.kind} request was answered with {answer}")
