"""The polling loops: one strands what an idle step leaves, the other leaves nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from monitorgen.kernels.decode import (
    baseline_v1_engine_loop,
    optimized_v1_engine_loop,
)
from monitorgen.kernels.decode.engine_core import ArithmeticExecutor, EngineCore
from monitorgen.kernels.decode.engine_types import EngineConfig, EngineRequest, Gate, VirtualClock
from monitorgen.kernels.decode.polling import YIELD_SECONDS, poll_until_done, poll_until_idle
from monitorgen.kernels.workload import WORKLOADS, UsageError

IDLE = {
    # what makes a step idle: (flags, requests stranded at least, blocks stranded at least)
    "seats full of last tokens": (["--remote", "0"], 8, 0),
    "remote KV on its way": (["--no-async-scheduling", "--requests", "5", "--remote", "5"], 5, 5),
    "grammars being compiled": (
        ["--no-async-scheduling", "--requests", "5", "--remote", "0", "--grammar", "5"],
        5,
        0,
    ),
    "paused with requests kept": (["--no-async-scheduling", "--remote", "0", "--pause-after", "5"], 12, 4),
}


@pytest.mark.parametrize("case", IDLE)
def test_the_baseline_strands_what_the_right_loop_answers(case: str) -> None:
    flags, requests, blocks = IDLE[case]
    runs = {
        "baseline": baseline_v1_engine_loop.prepare(flags),
        "v1": optimized_v1_engine_loop.prepare(flags),
    }
    for run in runs.values():
        run.step()
    stranded, right = runs["baseline"].metrics(), runs["v1"].metrics()
    assert stranded["stranded_requests"] >= requests
    assert stranded["stranded_kv_blocks"] >= blocks
    assert stranded["answered"] + stranded["stranded_requests"] == stranded["requests"]
    assert (right["stranded_requests"], right["stranded_kv_blocks"], right["worker_states_left"]) == (0, 0, 0)
    assert right["answered"] == right["kv_reclaimed_of_requests"] == right["requests"]
    assert runs["baseline"].outcome() == runs["v1"].outcome()


def test_without_an_idle_step_both_loops_do_the_same() -> None:
    flags = ["--requests", "3", "--remote", "0"]
    runs = [baseline_v1_engine_loop.prepare(flags), optimized_v1_engine_loop.prepare(flags)]
    for run in runs:
        run.step()
    assert runs[0].outcome() == runs[1].outcome()
    assert len(runs[0].outcome().exact["tokens before the first idle step"]) == 3
    assert [run.metrics()["answered"] for run in runs] == [3, 3]


def waiting_engine(seconds: float) -> tuple[EngineCore, VirtualClock]:
    clock = VirtualClock()
    core = EngineCore(EngineConfig(async_scheduling=False), ArithmeticExecutor(clock))
    core.add_request(EngineRequest("far", (1, 2, 3), 2, gate=Gate("remote_kv", seconds, clock)))
    return core, clock


def test_an_idle_step_yields_for_a_millisecond_and_no_longer() -> None:
    core, clock = waiting_engine(0.0505)
    served = poll_until_done(core, clock)
    assert served.idle_with_work == 51
    assert served.seconds == pytest.approx(51 * YIELD_SECONDS + 2 * 0.02 + YIELD_SECONDS)


def test_a_transfer_that_never_arrives_is_given_up_and_reported() -> None:
    core, clock = waiting_engine(1e9)
    served = poll_until_done(core, clock, patience=2.0)
    assert (served.stranded_requests, served.stranded_blocks) == (1, 1)
    assert served.seconds == pytest.approx(2.0, abs=0.01)


def test_a_loop_on_an_engine_without_requests_ends() -> None:
    core, clock = EngineCore(EngineConfig(), ArithmeticExecutor(VirtualClock())), VirtualClock()
    assert poll_until_done(core, clock).polls == 0
    assert poll_until_idle(core, clock).polls == 1


def test_the_command_tells_both_loops_and_writes_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "loops.json"
    assert optimized_v1_engine_loop.main(["--mode", "both", "--json", str(file)]) == 0
    said = capsys.readouterr().out
    loops = {row["loop"]: row for row in json.loads(file.read_text())["loops"]}
    for name in ("baseline", "v1"):
        assert f"answered {loops[name]['answered']} of 12" in said
    assert loops["baseline"]["stranded_requests"] > 0
    assert loops["baseline"]["stranded_kv_blocks"] > 0
    assert loops["v1"]["stranded_requests"] == loops["v1"]["stranded_kv_blocks"] == 0


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--requests", "0"], "--requests 0"),
        (["--requests", "2", "--remote", "3"], "--remote 3"),
        (["--prompt-tokens", "512"], "--prompt-tokens 512 does not fit --max-model-len 512"),
        (["--num-blocks", "8"], "8 KV blocks of 16 tokens do not hold one request"),
        (["--engine", "vllm"], "--engine vllm"),
        (["--mode", "all"], "'all' is not one of"),
        (["--nonsense"], "No such option"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    flags: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert baseline_v1_engine_loop.main(flags) == 2
    captured = capsys.readouterr()
    assert says in captured.err
    assert len(captured.err.splitlines()) == 1
    assert not captured.out


@pytest.mark.parametrize("flags", [["--mode", "both"], ["--engine", "vllm"], ["--model", "x"], ["--nope"]])
def test_a_timed_run_refuses_what_it_cannot_time(flags: list[str]) -> None:
    with pytest.raises(UsageError):
        optimized_v1_engine_loop.prepare(flags)


def test_the_workload_is_listed_with_both_arms() -> None:
    (workload,) = [w for w in WORKLOADS if w.name == "v1_engine_loop"]
    run = workload.prepare("optimized", ["--requests", "2", "--remote", "0"])
    run.step()
    assert run.metrics()["answered"] == 2
