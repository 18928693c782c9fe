"""The library of mutations lies beside its test: this folder is where its modules are imported from."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
