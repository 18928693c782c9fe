"""Running an arm of a workload as the program that it is."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from monitorgen.bench.targets import Target, find
from monitorgen.errors import InputError, ToolMissing
from monitorgen.kernels.workload import UsageError

EXTRAS = {"torch": "workloads", "vllm": "vllm", "transformers": "workloads", "safetensors": "workloads"}


def module_of(name: str, arm: str | None, targets: Sequence[Target]) -> str:
    """The module of an arm. Raises InputError for unknown names, and for several arms with none named."""
    target, arms = find(name, targets)
    if arm is not None:
        if arm not in target.arms:
            raise InputError(f"{target.name} has no arm {arm!r}", hint=f"it has {', '.join(target.arms)}")
        if arm not in arms:
            raise InputError(f"{name} is not the arm {arm!r}", hint="name the arm once")
        arms = (arm,)
    if len(arms) > 1:
        names = " or ".join(f"{one}_{target.name}" for one in arms)
        raise InputError(f"{target.name} has several arms", hint=f"run {names}")
    return target.arms[arms[0]]


def run_program(name: str, arm: str | None, flags: Sequence[str], targets: Sequence[Target]) -> int:
    """Run an arm's command with its flags; its exit code. ToolMissing when an extra is not installed."""
    module = module_of(name, arm, targets)
    try:
        program = importlib.import_module(module)
        code: int = program.main(list(flags))
    except UsageError as error:
        raise InputError(str(error)) from None
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in EXTRAS:
            raise
        raise ToolMissing(
            f"{name} needs {missing}, which is not installed",
            hint=f"pip install 'monitorgen[{EXTRAS[missing]}]'",
        ) from None
    return code
