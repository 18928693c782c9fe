"""KV cache sizing: how many tokens and requests fit, counted as vLLM does."""

from monitorgen.kvcache.groups import Group
from monitorgen.kvcache.layers import DTYPES, Cache, ElementType, Layer, State
from monitorgen.kvcache.plan import Budget, Model, Plan, Serving, check_fits, gib, plan_of
from monitorgen.kvcache.read import even_layers, flat_model, read_model
from monitorgen.kvcache.sizes import parse_size

__all__ = [
    "DTYPES",
    "Budget",
    "Cache",
    "ElementType",
    "Group",
    "Layer",
    "Model",
    "Plan",
    "Serving",
    "State",
    "check_fits",
    "even_layers",
    "flat_model",
    "gib",
    "parse_size",
    "plan_of",
    "read_model",
]
