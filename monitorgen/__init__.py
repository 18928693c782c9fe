"""monitorgen: monitoring as code for LLM serving, where every rule, alert and panel carries a proof."""

__version__ = "0.1.0"
