"""The profile: what a person writes, typed, with a place in every error."""

from monitorgen.profile.load import Loaded, builtin_folder, builtin_names, load_profile
from monitorgen.profile.model import Alert, Count, PanelSpec, Profile, Ratio, Signal
from monitorgen.profile.quantity import Quantity, comparable, in_unit, parse_quantity, parse_seconds

__all__ = [
    "Alert",
    "Count",
    "Loaded",
    "PanelSpec",
    "Profile",
    "Quantity",
    "Ratio",
    "Signal",
    "builtin_folder",
    "builtin_names",
    "comparable",
    "in_unit",
    "load_profile",
    "parse_quantity",
    "parse_seconds",
]
