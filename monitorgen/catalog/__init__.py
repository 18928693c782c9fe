"""Families of metrics by engine and version: what a server really exposes, and how we know.

>>> catalog = load("vllm", "0.32")
>>> catalog.families["vllm:iteration_tokens_total"].type
'histogram'
"""

from monitorgen.catalog.model import Catalog, Family
from monitorgen.catalog.nearest import nearest
from monitorgen.catalog.reference import resolve
from monitorgen.catalog.store import engines, in_range, load, recorded, versions
from monitorgen.catalog.versions import matches, version_key

__all__ = [
    "Catalog",
    "Family",
    "engines",
    "in_range",
    "load",
    "matches",
    "nearest",
    "recorded",
    "resolve",
    "version_key",
    "versions",
]
