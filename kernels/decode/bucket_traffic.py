"""What drives the bucketed decoder: requests that keep coming, and an engine's batches as its steps."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from monitorgen.kernels.decode.bucket_decoder import BucketDecoder
from monitorgen.kernels.decode.engine_types import Batch, EngineRequest, RequestOutput, Scheduled
from monitorgen.kernels.decode.scheduler import BlockPool
from monitorgen.kernels.workload import UsageError


@dataclass(frozen=True, slots=True)
class Mix:
    """Sizes of the requests: prompts and answers are drawn evenly from 1 (a quarter of) to the longest."""

    prompt_tokens: int
    max_tokens: int
    vocabulary: int
    seed: int

    def __post_init__(self) -> None:
        if min(self.prompt_tokens, self.max_tokens) < 1:
            raise UsageError(
                f"--prompt-tokens {self.prompt_tokens} and --max-tokens {self.max_tokens}: give 1 or more"
            )


class Traffic:
    """Requests at random moments, `rate` a second on average (a Poisson process), for ever.

    Rate 0 means that a request is always due.
    """

    def __init__(self, mix: Mix, rate: float, start: float) -> None:
        self._mix, self._rate = mix, rate
        self._dice = random.Random(mix.seed)
        self._next = start
        self.made = 0

    def due(self, now: float) -> bool:
        """Whether a request has arrived by now and was not taken yet."""
        return now >= self._next

    def wait(self, now: float) -> float:
        """Seconds until the next one arrives."""
        return max(0.0, self._next - now)

    def take(self) -> EngineRequest:
        """The next request."""
        mix, dice = self._mix, self._dice
        length = dice.randint(1, mix.prompt_tokens)
        prompt = tuple(dice.randrange(mix.vocabulary) for _ in range(length))
        tokens = dice.randint(max(1, mix.max_tokens // 4), mix.max_tokens)
        self.made += 1
        self._next += dice.expovariate(self._rate) if self._rate else 0.0
        return EngineRequest(f"request-{self.made}", prompt, tokens)


class DecoderExecutor:
    """Runs our engine's batches on the bucketed decoder: its block tables are the decoder's page tables.

    A prompt that the scheduler cuts into chunks is computed whole with its last chunk, when its blocks are
    all there: the schedule, and with it the batch sizes, are the engine's own.
    """

    def __init__(self, decoder: BucketDecoder) -> None:
        self._decoder = decoder
        self._prompts: dict[str, list[int]] = {}  # tokens of chunks that wait for their last one
        self._pages: dict[str, int] = {}

    def execute(self, batch: Batch) -> Mapping[str, int]:
        """Prefill the prompts that end in this batch, then decode one token of every other request."""
        for gone in (*batch.finished, *batch.preempted):
            self._decoder.release(gone)
            self._prompts.pop(gone, None)
            self._pages.pop(gone, None)
        sampled: dict[str, int] = {}
        decoding: list[str] = []
        for share in batch.scheduled:
            if self._decoder.holds(share.request_id):
                self._grow(share)
                decoding.append(share.request_id)
            else:
                prompt = self._prompts.setdefault(share.request_id, [])
                prompt += share.tokens
                if share.samples:
                    self._decoder.admit(share.request_id)
                    self._grow(share)
                    del self._prompts[share.request_id]
                    sampled[share.request_id] = self._decoder.prefill(share.request_id, prompt)
        if decoding:
            sampled.update(zip(decoding, self._decoder.decode(decoding), strict=True))
        return sampled

    def _grow(self, share: Scheduled) -> None:
        if self._pages.get(share.request_id) != len(share.blocks):
            self._decoder.set_pages(share.request_id, share.blocks)
            self._pages[share.request_id] = len(share.blocks)


class Shadow:
    """Decodes beside vLLM, with its batches: the requests that got a token in a step are our batch too.

    Both read the tokens that vLLM chose, so one difference does not lead to others; `agreed` of `compared`
    tokens were also ours. Pages come from a pool of our own.
    """

    def __init__(self, decoder: BucketDecoder, pages: int) -> None:
        self._decoder = decoder
        self._pool = BlockPool(pages + 1)
        self._tables: dict[str, list[int]] = {}
        self._prompts: dict[str, tuple[int, ...]] = {}
        self._limits: dict[str, int] = {}
        self.compared = 0
        self.agreed = 0

    def expect(self, request: EngineRequest) -> None:
        """Remember a request that vLLM was given."""
        self._prompts[request.request_id] = request.prompt_token_ids
        self._limits[request.request_id] = len(request.prompt_token_ids) + request.max_tokens

    def follow(self, outputs: Iterable[RequestOutput]) -> None:
        """Do what vLLM has done in a step."""
        told = [output for output in outputs if output.new_token_ids]
        going = [output for output in told if self._decoder.holds(output.request_id)]
        if going:
            ours = self._decoder.decode([output.request_id for output in going])
            self._compare(ours, going)
        for output in told:
            if output not in going:
                self._compare([self._start(output.request_id)], [output])
        for output in told:
            if output.finish_reason is not None:
                self._end(output.request_id)

    def _start(self, request_id: str) -> int:
        need = -(-self._limits[request_id] // self._decoder.cache.page_size)
        table = self._tables[request_id] = self._pool.take(need)
        self._decoder.admit(request_id)
        self._decoder.set_pages(request_id, [page - 1 for page in table])  # the pool has a null block 0
        return int(self._decoder.prefill(request_id, self._prompts[request_id]))

    def _compare(self, ours: list[int], outputs: list[RequestOutput]) -> None:
        theirs = [int(output.new_token_ids[-1]) for output in outputs]
        self.compared += len(theirs)
        self.agreed += sum(a == b for a, b in zip(ours, theirs, strict=True))
        self._decoder.force([output.request_id for output in outputs], theirs)

    def _end(self, request_id: str) -> None:
        self._decoder.release(request_id)
        self._pool.give(self._tables.pop(request_id))
        del self._prompts[request_id], self._limits[request_id]
