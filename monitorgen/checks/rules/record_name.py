"""The form of recorded names."""

from __future__ import annotations

import re
from collections.abc import Iterator

from monitorgen.checks.context import Context
from monitorgen.checks.finding import Finding
from monitorgen.checks.registry import check

_FORM = re.compile(r"[a-z][a-z0-9_]*:[a-zA-Z_][a-zA-Z0-9_]*:[a-z][a-z0-9_]*")
#: Names that were documented before the convention, and stay as they were written.
DOCUMENTED = ("vllm:decode_",)


@check("record-name")
def record_name(context: Context) -> Iterator[Finding]:
    """Recorded names have the form level:metric:operations, or are documented ones (vllm:decode_*)."""
    engines = {engine for engine in context.catalogs if engine != "prometheus"}
    for subject in context.records:
        name = subject.rule.record
        if context.families(name):
            yield subject.finding(f"{name} is a metric of an engine, and recorded too", "rename it")
        elif name.startswith(DOCUMENTED):
            continue
        elif not _FORM.fullmatch(name) or name.partition(":")[0] in engines:
            yield subject.finding(
                f"{name} is not level:metric:operations", "such as model:vllm_ttft_seconds:p90_5m"
            )
