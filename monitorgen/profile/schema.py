"""The JSON Schema of profiles, made from the model."""

from __future__ import annotations

from typing import Any

from monitorgen.profile.model import Profile

# A profile that extends another may say less of these: the parent says the rest.
_PARTIAL = ("Signal", "Alert", "Scrape")
_LISTS_OR_TEXT = ("family", "where")


def profile_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a profile; editors complete and check with it."""
    schema = Profile.model_json_schema(by_alias=True)
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "monitorgen profile"
    for model in schema["$defs"].values():
        _let_lists_be_single(model.get("properties", {}))
    for name in _PARTIAL:
        model = schema["$defs"][name]
        model.pop("required", None)
        model["properties"] = {key: _or_null(spec) for key, spec in model["properties"].items()}
    for spec in schema["properties"].values():
        if isinstance(spec.get("additionalProperties"), dict):
            spec["additionalProperties"] = _or_null(spec["additionalProperties"])
    return schema


def _let_lists_be_single(properties: dict[str, Any]) -> None:
    """`family: x` is as good as `family: [x]`; so are the values under `where`."""
    for key in _LISTS_OR_TEXT:
        spec = properties.get(key, {})
        target = spec if key == "family" else spec.get("additionalProperties", {})
        if target.get("type") == "array":
            array = {k: target.pop(k) for k in ("type", "items", "minItems") if k in target}
            target["anyOf"] = [array, {"type": "string"}]


def _or_null(spec: dict[str, Any]) -> dict[str, Any]:
    """null removes what a parent profile has."""
    kept: dict[str, Any] = {key: spec[key] for key in ("description", "default", "title") if key in spec}
    rest = {key: value for key, value in spec.items() if key not in kept}
    return {**kept, "anyOf": [rest, {"type": "null"}]}
