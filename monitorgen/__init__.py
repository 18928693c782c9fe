"""monitorgen: monitoring as code for LLM serving, where every rule, alert and panel carries a proof."""

from pathlib import Path as _Path

__version__ = "0.1.0"

# In a checkout that nobody installed, kernels, templates and profiles lie beside this package, not in it.
_beside = _Path(__file__).resolve().parent.parent
if (_beside / "kernels" / "workload.py").is_file():
    __path__.append(str(_beside))
