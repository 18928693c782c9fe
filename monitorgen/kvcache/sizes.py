"""Bytes as people write them: 80 (GB), 80GB, 40GiB, 512MiB."""

from __future__ import annotations

import math
import re

from monitorgen.errors import InputError

UNITS = {
    "": 10**9, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip
MOST = 1 << 60
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([a-z]*)", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Bytes of a size; a bare number is in GB (10^9 bytes). Raises InputError for what is none."""
    match = _SIZE.fullmatch(text.strip())
    if match is None or match[2].lower() not in UNITS:
        raise InputError(f"{text!r} is no size", hint="write 80 (GB), 80GB, 40GiB or 512MiB")
    size = float(match[1]) * UNITS[match[2].lower()]
    if not math.isfinite(size) or size > MOST:
        raise InputError(f"{text!r} is more memory than there is")
    return int(size)
