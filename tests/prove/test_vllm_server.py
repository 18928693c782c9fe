"""Starting vLLM: its arguments, its environment, its own words when it fails. A real one is in tests/live."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from monitorgen.errors import ToolMissing
from monitorgen.prove.processes import ProcessError
from monitorgen.prove.vllm_server import (
    VllmOptions,
    cache_folder,
    root_cause,
    serve_vllm,
    tiny_model,
    vllm_python,
)

ENGINE = "(EngineCore pid=7) ERROR 11-22 19:29:37 [core.py:133] "


@pytest.mark.parametrize(
    ("log", "wanted"),
    [
        (
            "usage: x\napi_server.py: error: unrecognized arguments: --y",
            "api_server.py: error: unrecognized arguments: --y",
        ),
        (
            f"{ENGINE}Traceback (most recent call last):\n{ENGINE}ValueError: too little cache\n"
            "(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above.",
            "ValueError: too little cache",
        ),
        (
            "RuntimeError: Engine core initialization failed.",
            "RuntimeError: Engine core initialization failed.",
        ),
        ("torch.OutOfMemoryError: no memory", "torch.OutOfMemoryError: no memory"),
        ("INFO all is well\nUserWarning: careful", ""),
        ("", ""),
    ],
)
def test_the_first_cause_is_told_not_its_consequence(log: str, wanted: str) -> None:
    assert root_cause(log) == wanted


def value(arguments: tuple[str, ...], flag: str) -> str | None:
    return arguments[arguments.index(flag) + 1] if flag in arguments else None


def test_plain_options_leave_the_rest_to_vllm() -> None:
    arguments = VllmOptions().arguments(Path("/m"), 81)
    assert value(arguments, "--model") == "/m"
    assert value(arguments, "--port") == "81"
    assert value(arguments, "--host") == "127.0.0.1"
    for flag in (
        "--speculative-config",
        "--num-gpu-blocks-override",
        "--max-num-queued-reqs",
        "--enforce-eager",
    ):
        assert flag not in arguments


def test_every_option_reaches_vllm() -> None:
    options = VllmOptions(
        ngram=3,
        ngram_lookup=(1, 4),
        gpu_blocks=24,
        max_queued=5,
        max_num_seqs=8,
        eager=True,
        flags=("--x", "1"),
    )
    arguments = options.arguments(Path("/m"), 81)
    speculation = json.loads(value(arguments, "--speculative-config") or "")
    assert speculation == {"method": "ngram", "num_speculative_tokens": 3} | {
        "prompt_lookup_min": 1,
        "prompt_lookup_max": 4,
    }
    assert value(arguments, "--num-gpu-blocks-override") == "24"
    assert value(arguments, "--max-num-queued-reqs") == "5"
    assert value(arguments, "--max-num-seqs") == "8"
    assert "--enforce-eager" in arguments
    assert arguments[-2:] == ("--x", "1")


def test_nothing_is_fetched_or_reported(tmp_path: Path) -> None:
    environment = VllmOptions(kv_cache_gib=2).environment(tmp_path)
    assert environment["HF_HUB_OFFLINE"] == environment["VLLM_NO_USAGE_STATS"] == "1"
    assert environment["VLLM_CPU_KVCACHE_SPACE"] == "2"
    assert Path(environment["VLLM_CACHE_ROOT"]).is_relative_to(tmp_path)
    assert "VLLM_SERVER_DEV_MODE" not in environment
    assert VllmOptions(dev_mode=True).environment(tmp_path)["VLLM_SERVER_DEV_MODE"] == "1"


def test_the_interpreter_is_the_environments_choice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MONITORGEN_VLLM_PYTHON", str(tmp_path / "none"))
    with pytest.raises(ToolMissing, match="cannot be run"):
        vllm_python()
    for code, wanted in ((0, True), (1, False)):
        fake = tmp_path / f"python{code}"
        fake.write_text(f"#!/bin/sh\nexit {code}\n")
        fake.chmod(0o755)
        monkeypatch.setenv("MONITORGEN_VLLM_PYTHON", str(fake))
        if wanted:
            assert vllm_python() == fake
        else:
            with pytest.raises(ToolMissing, match="has no vLLM"):
                vllm_python()


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "monitorgen"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "monitorgen"


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    """An interpreter that makes a model as ours does, and then serves nothing but an error."""
    path = tmp_path / "python"
    path.write_text(
        f"#!{sys.executable}\n"
        "import pathlib, sys\n"
        "if sys.argv[1] == '-m':\n"
        "    sys.exit('ValueError: no such device')\n"
        "folder = pathlib.Path(sys.argv[2])\n"
        "folder.mkdir()\n"
        "(folder / 'config.json').write_text('{}')\n"
        "print(sys.argv[1])\n"
    )
    path.chmod(0o755)
    return path


def test_the_model_is_made_once_and_whole(fake: Path, tmp_path: Path) -> None:
    folder = tiny_model(fake, tmp_path / "cache")
    assert (folder / "config.json").exists()
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [folder.name]
    assert tiny_model(Path("/nowhere/python"), tmp_path / "cache") == folder


def test_a_model_that_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'ModuleNotFoundError: No module named torch'\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(ProcessError, match="cannot be made: ModuleNotFoundError"):
        tiny_model(broken, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_server_that_does_not_start_is_told_in_its_words(fake: Path, tmp_path: Path) -> None:
    with (
        pytest.raises(ProcessError, match="vLLM does not start: ValueError: no such device"),
        serve_vllm(VllmOptions(), workdir=tmp_path, python=fake, cache=tmp_path / "cache"),
    ):
        pytest.fail("it must not start")
