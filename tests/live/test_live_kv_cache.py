"""KV cache sizing against vLLM's own functions, over random models: uniform, windowed, hybrid, latent."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from monitorgen.errors import InputError
from monitorgen.kvcache import ElementType, Layer, Model, Plan, Serving, State, plan_of

CASES = 200
CHILD = Path(__file__).with_name("vllm_kv_cache.py")
GIB = 1024**3

pytestmark = pytest.mark.live


def vllm_python() -> str:
    """The interpreter that has vLLM: the one that `make live` names, or this one."""
    return os.environ.get("MONITORGEN_VLLM_PYTHON") or sys.executable


def random_layers(dice: random.Random) -> list[dict[str, Any]]:
    """The layers of a model that could be: one kind, or two or three, evenly or oddly mixed."""
    heads, size = dice.choice([1, 2, 4, 8, 16, 32]), dice.choice([64, 96, 128, 256])
    plain = {"kv_heads": heads, "k_dim": size, "v_dim": size, "window": 0, "state_bytes": 0}
    v_dim = dice.choice([size, size, size, 64, 192])
    window = dice.choice([128, 512, 1000, 1024, 4096])
    other = {**plain, "kv_heads": dice.choice([heads, heads, heads, 2 * heads])}
    latent = {"kind": "mla", "kv_heads": 1, "k_dim": dice.choice([320, 576]), "v_dim": 0, "window": 0}
    kinds: dict[str, dict[str, Any]] = {
        "full": {**plain, "kind": "full", "v_dim": v_dim},
        "full2": {**other, "kind": "full"},
        "sliding": {**other, "kind": "sliding", "window": window, "v_dim": v_dim},
        "sliding2": {**other, "kind": "sliding", "window": window + 1},
        "chunked": {**plain, "kind": "chunked", "window": dice.choice([2048, 8192]), "v_dim": v_dim},
        "mla": {**latent, "state_bytes": 0},
        "state": {**plain, "kind": "state", "state_bytes": dice.choice([96, 1000, 4096, 65536]) * 1024},
        "none": {**plain, "kind": "none"},
    }
    mixture = dice.choice(
        [
            ["full"], ["full"], ["sliding"], ["mla"], ["full", "full2"], ["full", "sliding"],
            ["full", "sliding"], ["full", "sliding", "sliding2"], ["full", "chunked"], ["full", "state"],
            ["full", "state"], ["mla", "state"], ["mla", "sliding"], ["full", "none"],
            ["full", "sliding", "state"], ["sliding", "sliding2"], ["state", "full", "none"],
        ]
    )  # fmt: skip
    count = dice.randint(4, 64)
    pattern = [name for name in mixture for _ in range(dice.randint(1, 4))]
    names = [pattern[number % len(pattern)] for number in range(count)]
    if dice.random() < 0.3:
        dice.shuffle(names)
    return [kinds[name] for name in names]


def cases() -> list[dict[str, Any]]:
    """Random models and ways to serve them, the same in every run."""
    dice = random.Random(20261122)
    found = []
    for _ in range(CASES):
        layers = random_layers(dice)
        has_state = any(layer["kind"] == "state" for layer in layers)
        has_mla = any(layer["kind"] == "mla" for layer in layers)
        dtypes = ["bf16", "fp16", "fp8"] if has_state else ["bf16", "fp8", "fp8", "int8", "int4", "fp4"]
        dtypes += ["fp8_ds_mla"] if all(layer["kind"] == "mla" for layer in layers) else []
        found.append(
            {
                "layers": layers,
                "dtype": dice.choice(dtypes),
                "block": dice.choice([16, 16, 32, 64, 128] if not has_mla else [64, 128]),
                "tp": dice.choice([1, 1, 2, 4, 8]),
                "pp": dice.choice([1, 1, 1, 2, 3, 4]),
                "tokens": dice.choice([1, 513, 4096, 32768, 131072, dice.randint(2, 300_000)]),
                "in_flight": dice.choice([512, 2048, 8192, 16384]),
                "memory": int(dice.uniform(1, 160) * GIB),
            }
        )
    return found


def ours(case: dict[str, Any]) -> Plan:
    """Our plan of a case."""
    layers = [
        Layer("state", state=State(layer["state_bytes"]))
        if layer["kind"] == "state"
        else Layer(layer["kind"], layer["kv_heads"], layer["k_dim"], layer["v_dim"], layer["window"])
        for layer in case["layers"]
    ]
    serving = Serving(
        ElementType(case["dtype"]), case["block"], tp=case["tp"], pp=case["pp"], in_flight=case["in_flight"]
    )
    return plan_of(Model(tuple(layers)), serving)


def test_as_vllm_says() -> None:
    table = cases()
    done = subprocess.run(
        [vllm_python(), CHILD],
        input=json.dumps(table),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=os.environ | {"VLLM_LOGGING_LEVEL": "ERROR"},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    answers = json.loads(done.stdout)
    assert len(answers) == CASES
    served = refused = unservable = hybrid = 0
    for number, (case, said) in enumerate(zip(table, answers, strict=True)):
        where = (number, case["dtype"], sorted({layer["kind"] for layer in case["layers"]}))
        if said.get("error") == "NotImplementedError":
            with pytest.raises(InputError, match="do not divide"):
                ours(case)
            unservable += 1
            continue
        plan = ours(case)
        hybrid += len(plan.groups) > 1
        if "error" in said:  # not even one request fits beside the null block
            assert plan.requests(case["memory"], case["tokens"]) == 0, where
            refused += 1
            continue
        assert plan.requests(case["memory"], case["tokens"]) >= 1, where
        assert plan.blocks(case["memory"]) == said["blocks"], where
        assert plan.request_bytes(case["tokens"]) == said["request_bytes"], where
        assert plan.vllm_tokens(case["memory"], case["tokens"]) == said["tokens"], where
        served += 1
    # Or else the models were not what they were meant to be.
    assert served > CASES * 0.6, (served, refused, unservable)
    assert refused > 0
    assert hybrid > CASES * 0.3
