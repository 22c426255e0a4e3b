"""Loss landscapes: the paper's Figures 3 and 4 (Appendix I), computed from the losses alone.

Whatever the appendix leaves open is a parameter here and appears in the captions: the number of classes, the seed of
teacher and directions, the label, and the losses' hyperparameters, which are those of the paper's tables.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pld_grid.paper.landscapes.figure import Landscape, draw_landscapes
from pld_grid.paper.landscapes.logit_slice import REACH, Array, Slice, draw_slice, grid_steps, single_thread
from pld_grid.paper.landscapes.loss_shapes import measure_slices, shapes_csv
from pld_grid.paper.landscapes.summary_page import render_summary
from pld_grid.report.report_files import write_files
from pld_grid.train.losses import Loss, build
from pld_grid.util.errors import InputError

__all__ = ["REACH", "Slice", "draw_slice", "write_landscapes"]

COMPARED: Mapping[str, Loss] = {"DIST": build("dist"), "KD": build("kd"), "PLD": build("pld")}
TEMPERATURES: Mapping[str, Loss] = {f"PLD, T = {tau:g}": build("pld", tau=tau) for tau in (2.0, 1.0, 0.5, 0.1)}
# "KD without CE" shows that cross-entropy moves KD's minimum away from the teacher.
MEASURED: Mapping[str, Loss] = {
    "DIST": COMPARED["DIST"],
    "KD": COMPARED["KD"],
    "KD without CE": build("kd", alpha=0.0),
    **TEMPERATURES,
}
CLASS_COUNTS = (10, 100, 1000)
SLICES_PER_COUNT = 20
# A figure's logits are in memory at once: a GiB of them, and as much again for intermediate results.
MAX_LOGITS = 2**27


def write_landscapes(
    out: str | Path, *, points: int = 81, seed: int = 0, classes: int = 1000, label_rank: int = 1
) -> list[Path]:
    """Write Figures 3 and 4 (`.svg`, `.png`, `.csv`), `slices.csv` and `README.md` into a folder.

    Args:
        out: The folder.
        points: A figure's resolution per side.
        seed: The slice of the figures; the measurements use SLICES_PER_COUNT seeds from this one on.
        classes: The number of classes of the figures; the measurements use CLASS_COUNTS too.
        label_rank: The label's rank in the teacher's ranking; measurements omit class counts below it.

    Returns:
        The files whose content changed; other files are not touched.

    Raises:
        InputError: See `draw_slice` and `grid_steps`; or there are more than MAX_LOGITS, or a file cannot be written.
    """
    figure_slice, steps = draw_slice(classes, seed, label_rank), grid_steps(points)
    if points**2 * classes > MAX_LOGITS:
        raise InputError(f"{points} x {points} points of {classes} classes are more than {MAX_LOGITS} logits")
    counts = sorted({classes, *(count for count in CLASS_COUNTS if count >= label_rank)})
    slices = [draw_slice(count, seed + i, label_rank) for count in counts for i in range(SLICES_PER_COUNT)]
    with single_thread():
        compared = evaluate_landscapes(figure_slice, COMPARED, steps)
        temperatures = evaluate_landscapes(figure_slice, TEMPERATURES, steps)
        shapes = measure_slices(slices, MEASURED)
    files = draw_landscapes("figure3", compared) | draw_landscapes("figure4", temperatures, shared=True)
    files["slices.csv"] = shapes_csv(shapes).encode()
    files["README.md"] = render_summary(figure_slice, COMPARED, compared, temperatures, shapes).encode()
    return write_files(out, files)


def evaluate_landscapes(on: Slice, losses: Mapping[str, Loss], steps: Array) -> list[Landscape]:
    """Evaluate losses on the grid of a slice, and find their minima in the square."""
    landscapes = []
    for name, loss in losses.items():
        values = on.evaluate_grid(loss, steps)
        row, column = np.unravel_index(values.argmin(), values.shape)
        minimum = on.find_minimum(loss, (steps[column], steps[row]))
        # The minimum's coordinates are rounded, so a point of the grid may be slightly lower.
        lowest = min(float(on.evaluate(loss, np.array([minimum]))[0]), float(values.min()))
        landscapes.append(Landscape(name, steps, values, minimum, lowest))
    return landscapes
