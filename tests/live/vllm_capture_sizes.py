"""Run by path with the interpreter that has vLLM: the graph sizes that vLLM's own code captures, as JSON.

Reads a list of [model, most requests, most batched tokens] from standard input.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from monitorgen.kernels.decode.vllm_sizes import capture_sizes

json.dump([asdict(capture_sizes(*case)) for case in json.load(sys.stdin)], sys.stdout)
