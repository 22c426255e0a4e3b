"""Explain a number of a table by the cells behind it, report on a cell, and compare two cells.

from pld_grid import explain

explanation = explain.why("table03", "MobileNet-v4 Small (conv)", "PLD")
explanation.cells[0].provenance.commit
explain.diff("055dcd927eff1e4f", "06bdaece4d5bb651").fields
"""

from pld_grid.explain.cell_report import CellReport
from pld_grid.explain.difference import Difference, diff
from pld_grid.explain.explanation import Explanation, why, why_cell
from pld_grid.explain.json_output import to_dict
from pld_grid.explain.terminal_view import print_result

__all__ = ["CellReport", "Difference", "Explanation", "diff", "print_result", "to_dict", "why", "why_cell"]
