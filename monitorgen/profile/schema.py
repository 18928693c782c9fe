"""The JSON Schema of profiles, made from the model."""

from __future__ import annotations

from typing import Any

from monitorgen.profile.model import Profile


def profile_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a profile; editors complete and check with it."""
    schema = Profile.model_json_schema(by_alias=True)
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "monitorgen profile"
    _let_lists_be_single(schema)
    return schema


def _let_lists_be_single(node: Any) -> None:
    """`family: x` is as good as `family: [x]`; and null removes what a parent profile has."""
    if isinstance(node, dict):
        for key in ("family", "where"):
            spec = node.get("properties", {}).get(key)
            if not spec:
                continue
            target = spec if key == "family" else spec.get("additionalProperties", {})
            if target.get("type") == "array":
                array = {k: target.pop(k) for k in ("type", "items", "minItems") if k in target}
                target["anyOf"] = [array, {"type": "string"}]
        for value in node.values():
            _let_lists_be_single(value)
    elif isinstance(node, list):
        for value in node:
            _let_lists_be_single(value)
