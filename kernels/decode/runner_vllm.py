"""vLLM as one more backend: a server over HTTP, or an engine in this process where vLLM is installed."""

from __future__ import annotations

import http.client
import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from torch import Tensor

from monitorgen.kernels.decode.engine_types import EngineRequest, outputs_of
from monitorgen.kernels.decode.runner_backends import Served
from monitorgen.kernels.decode.vllm_engine import VllmEngine, VllmSizes
from monitorgen.kernels.decode.workload_config import Request, WorkloadConfig
from monitorgen.kernels.workload import UsageError

TIMEOUT = 120.0  # seconds without a byte


class ServerError(RuntimeError):
    """A server answered at first and then did not do what it was asked for: one line that says what."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where a vLLM server is, its model, and the most tokens of a request (0: it does not say)."""

    url: str
    host: str
    port: int
    path: str
    model: str
    max_model_len: int


def find_server(url: str, timeout: float = TIMEOUT) -> Server:
    """Ask a server what it serves. Raises UsageError for no URL, and for a server that does not tell."""
    parts = urlsplit(url)
    try:
        host, port = parts.hostname, parts.port or 80
    except ValueError:
        host, port = None, 0
    if parts.scheme != "http" or not host:
        raise UsageError(f"--vllm-url {url}: give http://HOST:PORT")
    path = parts.path.rstrip("/").removesuffix("/v1")
    link = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        link.request("GET", f"{path}/v1/models", headers=headers())
        answer = link.getresponse()
        status, text = answer.status, answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise UsageError(f"--vllm-url {url}: no answer: {error}") from None
    finally:
        link.close()
    if status != 200:
        hint = ": set VLLM_API_KEY to the server's key" if status in (401, 403) else ""
        raise UsageError(f"--vllm-url {url}: /v1/models answers HTTP {status}{hint}")
    try:
        first = json.loads(text)["data"][0]
        return Server(url, host, port, path, str(first["id"]), int(first.get("max_model_len") or 0))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise UsageError(f"--vllm-url {url}: /v1/models names no model") from None


def headers() -> dict[str, str]:
    """With the key that vLLM itself reads from VLLM_API_KEY, where it is set."""
    key = os.environ.get("VLLM_API_KEY", "")
    return {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}


class HttpBackend:
    """A vLLM server's completions API: prompts as token ids, greedy, streamed, token ids read back."""

    name = "vllm-http"

    def __init__(self, server: Server, timeout: float = TIMEOUT) -> None:
        self.server, self.timeout = server, timeout
        self.warm_up()

    def warm_up(self) -> None:
        """One short request as those that are timed: vLLM compiles what log-probabilities need when the
        first request asks for some, which takes seconds. Raises ServerError if it fails."""
        self.serve([Request(0, (1,), 2, 0.0)])

    def serve(self, requests: Sequence[Request]) -> list[Served]:
        """Send each request when it comes, on a connection of its own. Raises ServerError if any fails."""
        served = [Served(one) for one in requests]
        failed: list[str] = []
        started = time.perf_counter()

        def send(one: Served) -> None:
            time.sleep(max(0.0, one.request.arrival - (time.perf_counter() - started)))
            try:
                self._complete(one, started)
            except (OSError, http.client.HTTPException, ValueError, KeyError, ServerError) as error:
                failed.append(f"request {one.request.number}: {error}")

        threads = [threading.Thread(target=send, args=(one,), daemon=True) for one in served]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failed:
            raise ServerError(
                f"{self.server.url}: {len(failed)} of {len(served)} requests failed; {failed[0]}"
            )
        return served

    def _complete(self, one: Served, started: float) -> None:
        """One streamed completion; its tokens with the time at which each came."""
        body = {
            "model": self.server.model, "prompt": list(one.request.prompt),
            "max_tokens": one.request.new_tokens,
            "temperature": 0.0, "ignore_eos": True, "stream": True, "logprobs": 1,
            # Text does not tell which tokens it was made of.
            "return_tokens_as_token_ids": True,
        }  # fmt: skip
        link = http.client.HTTPConnection(self.server.host, self.server.port, timeout=self.timeout)
        try:
            link.request("POST", f"{self.server.path}/v1/completions", json.dumps(body), headers())
            answer = link.getresponse()
            if answer.status != 200:
                raise ServerError(f"HTTP {answer.status}: {answer.read(300).decode(errors='replace')}")
            for event in _events(answer):
                now = time.perf_counter() - started
                for choice in event["choices"]:
                    said = choice["logprobs"] or {"tokens": [], "token_logprobs": []}
                    ids = [int(str(token).removeprefix("token_id:")) for token in said["tokens"]]
                    one.tokens += ids
                    one.times += [now] * len(ids)
                    one.logprobs += said["token_logprobs"]
        finally:
            link.close()
        if len(one.tokens) != one.request.new_tokens:
            raise ServerError(f"{len(one.tokens)} tokens came, {one.request.new_tokens} were asked for")

    def logits(self, served: Served) -> Tensor | None:
        """vLLM tells log-probabilities of chosen tokens only."""
        return None

    def close(self) -> None:
        """Connections end with their requests."""


def _events(answer: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """The JSON of each server-sent event until [DONE]."""
    for line in answer:
        text = line.decode().strip()
        if text == "data: [DONE]":
            return
        if text.startswith("data: "):
            yield json.loads(text.removeprefix("data: "))


class EngineBackend:
    """vLLM's own engine core in this process. ModuleNotFoundError where vLLM is not installed."""

    name = "vllm"

    def __init__(self, model: Path, config: WorkloadConfig) -> None:
        names = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "auto": "auto"}
        sizes = VllmSizes(
            max_num_seqs=config.decoder.slots, max_model_len=config.decoder.context, dtype=names[config.dtype]
        )
        self.engine = VllmEngine(model, sizes)

    def serve(self, requests: Sequence[Request]) -> list[Served]:
        """Add each request when it comes, and step the engine."""
        served = {str(one.number): Served(one) for one in requests}
        waiting = sorted(requests, key=lambda one: (one.arrival, one.number))
        started = time.perf_counter()
        while waiting or self.engine.has_requests():
            now = time.perf_counter() - started
            while waiting and waiting[0].arrival <= now:
                one = waiting.pop(0)
                self.engine.add_request(EngineRequest(str(one.number), one.prompt, one.new_tokens))
            if not self.engine.has_requests():
                time.sleep(max(0.0, waiting[0].arrival - now))
                continue
            results, executed = self.engine.step()
            now = time.perf_counter() - started
            for output in outputs_of(results):
                got = served[output.request_id]
                got.tokens += output.new_token_ids
                got.times += [now] * len(output.new_token_ids)
            if not executed:
                time.sleep(0.001)
        return [served[str(one.number)] for one in requests]

    def logits(self, served: Served) -> Tensor | None:
        """The engine hands out tokens only."""
        return None

    def close(self) -> None:
        """Stop the engine."""
        self.engine.close()
