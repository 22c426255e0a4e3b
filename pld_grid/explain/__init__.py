"""Explain: the cells behind a number of a table, all that is known about a cell, and what tells two cells apart.

from pld_grid import explain

found = explain.why("table03", "MobileNet-v4 Small (conv)", "PLD")
found.accounts[0].provenance.commit
explain.diff("055dcd927eff1e4f", "06bdaece4d5bb651").fields
"""

from pld_grid.explain.account import Account, Choice, MlflowRun
from pld_grid.explain.difference import ABSENT, Difference, FieldDifference, MetricDifference, diff, differing
from pld_grid.explain.library import Library, Use
from pld_grid.explain.plain import plain
from pld_grid.explain.terminal import print_difference, print_explanation
from pld_grid.explain.why import Explanation, Number, why, why_cell

__all__ = [
    "ABSENT", "Account", "Choice", "Difference", "Explanation", "FieldDifference", "Library", "MetricDifference",
    "MlflowRun", "Number", "Use", "diff", "differing", "plain", "print_difference", "print_explanation", "why",
    "why_cell",
]  # fmt: skip
