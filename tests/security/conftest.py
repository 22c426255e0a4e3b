"""These tests train cells of `tests/train`, whose helpers lie there."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "train"))
