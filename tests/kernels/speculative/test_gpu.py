"""On a CUDA device: graphs and fused kernels decode what the target chooses, without a sync in a step."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the workloads' extra is not installed")
sys.path.insert(0, str(Path(__file__).parent))

from monitorgen.kernels.workload import WORKLOADS  # noqa: E402

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
(WORKLOAD,) = (workload for workload in WORKLOADS if workload.name == "speculative_decoding")
FLAGS = ["--device", "cuda", "--pair", "tiny", "--batch", "3", "--tokens", "48"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tmp_path_factory.mktemp("models")


@pytest.mark.parametrize("method", ["draft-model", "ngram"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_all_arms_are_the_targets_choices(method: str, dtype: str, models: Any) -> None:
    outcomes = {}
    for arm in WORKLOAD.arms:
        run: Any = WORKLOAD.prepare(
            arm, [*FLAGS, "--method", method, "--dtype", dtype, "--models", str(models)]
        )
        run.step()
        assert run.parity().holds
        outcomes[arm] = run.outcome()
        run.close()
    assert all(outcome == outcomes["plain"] for outcome in outcomes.values())


def test_a_step_never_waits_for_the_device(models: Any) -> None:
    run: Any = WORKLOAD.prepare("optimized", [*FLAGS, "--models", str(models)])
    run.loop.reset()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run.loop.step(0, run.loop.k)
        run.loop.step(1, run.loop.k)
    finally:
        torch.cuda.set_sync_debug_mode("default")
        run.close()
