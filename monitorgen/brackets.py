"""How Jinja is written in profiles and templates: [[ ]], since {{ }} belongs to Prometheus and Grafana."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, StrictUndefined


def bracketed(kind: type[Environment], *, autoescape: bool, **options: Any) -> Environment:
    """An environment of that kind with our delimiters, in which an undefined name is an error."""
    return kind(
        variable_start_string="[[",
        variable_end_string="]]",
        block_start_string="[%",
        block_end_string="%]",
        comment_start_string="[#",
        comment_end_string="#]",
        undefined=StrictUndefined,
        autoescape=autoescape,
        trim_blocks=True,
        lstrip_blocks=True,
        **options,
    )
