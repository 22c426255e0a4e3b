"""Loss landscapes: the paper's Figures 3 and 4 (Appendix I), from the losses themselves.

Everything that the appendix leaves open is a parameter here and stands in the captions: the number of classes, the
seed of teacher and directions, the label, and the losses' hyperparameters, which are those of the paper's tables.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pld_grid.errors import InputError
from pld_grid.landscapes.page import landscapes_markdown
from pld_grid.landscapes.slice import REACH, Array, Slice, coordinates, draw_slice, one_thread
from pld_grid.landscapes.survey import survey, survey_csv
from pld_grid.report.figures.canvas import Figure
from pld_grid.report.figures.landscape import Landscape, landscape_figure
from pld_grid.report.write import write_files
from pld_grid.train.losses import Loss, build

__all__ = ["REACH", "Slice", "draw_slice", "figures", "landscape", "write_landscapes"]

COMPARED: Mapping[str, Loss] = {"DIST": build("dist"), "KD": build("kd"), "PLD": build("pld")}
TEMPERATURES: Mapping[str, Loss] = {f"PLD, T = {tau:g}": build("pld", tau=tau) for tau in (2.0, 1.0, 0.5, 0.1)}
# KD's cross-entropy is what moves its minimum away from the teacher.
SURVEYED: Mapping[str, Loss] = {
    "DIST": COMPARED["DIST"], "KD": COMPARED["KD"], "KD without CE": build("kd", alpha=0.0), **TEMPERATURES,
}  # fmt: skip
CLASSES = (10, 100, 1000)
SLICES = 20
# Logits that are held at a time, all those of a square: a GiB of them, and as much again meanwhile.
MOST_LOGITS = 2**27


def write_landscapes(
    out: str | Path, *, points: int = 81, seed: int = 0, classes: int = 1000, label_rank: int = 1
) -> list[Path]:
    """Writes Figures 3 and 4 (`.svg`, `.png`, `.csv`), `slices.csv` and `README.md` into a folder.

    `points` is a figure's resolution, per side. The survey beside the figures takes SLICES seeds from `seed` on, for
    `classes` and for each of CLASSES that has a class at `label_rank`.
    Returns the files whose content changed; the others are not touched.
    Raises InputError as `draw_slice` and `coordinates` do, for more than MOST_LOGITS, and if a file cannot be written.
    """
    on, steps = draw_slice(classes, seed, label_rank), coordinates(points)
    if points**2 * classes > MOST_LOGITS:
        raise InputError(f"{points} x {points} points of {classes} classes are more than {MOST_LOGITS} logits")
    counts = sorted({classes, *(count for count in CLASSES if count >= label_rank)})
    slices = [draw_slice(count, seed + i, label_rank) for count in counts for i in range(SLICES)]
    with one_thread():
        drawn, found = figures(on, steps), survey(slices, SURVEYED)
    files = {name: data for figure in drawn for name, data in figure.files.items()}
    files["slices.csv"] = survey_csv(found).encode()
    files["README.md"] = landscapes_markdown(drawn, found).encode()
    return write_files(out, files)


def figures(on: Slice, steps: Array) -> tuple[Figure, Figure]:
    """Figures 3 and 4 of one slice."""
    compared = [landscape(on, name, loss, steps) for name, loss in COMPARED.items()]
    temperatures = [landscape(on, name, loss, steps) for name, loss in TEMPERATURES.items()]
    settings = "; ".join(f"{name} {_settings(loss)}" for name, loss in COMPARED.items())
    third = landscape_figure(
        "figure3",
        "Loss landscapes of DIST, KD and PLD",
        f"Three losses of a student whose logits are s(α, β) = t + α d₁ + β d₂. {_construction(on)} "
        f"Hyperparameters: {settings}. DIST's intra term has no batch here and is 1 everywhere. Heights and colours "
        "are losses above their minimum in the square, on a scale for each; in nats, but for DIST's correlations.",
        f"Surfaces above contour maps. {_minima(compared)}",
        compared,
        shared=False,
    )
    fourth = landscape_figure(
        "figure4",
        "PLD's landscape at four teacher temperatures",
        f"PLD on the slice of Figure 3, with the teacher's softmax at T = 2, 1, 0.5 and 0.1. {_construction(on)} "
        "Heights and colours are losses in nats above their minimum in the square, on one scale for all.",
        f"Four surfaces above contour maps. {_minima(temperatures)}",
        temperatures,
        shared=True,
    )
    return third, fourth


def landscape(on: Slice, name: str, loss: Loss, steps: Array) -> Landscape:
    """One loss on the grid of a slice, with its minimum in the square."""
    values = on.grid(loss, steps)
    row, column = np.unravel_index(values.argmin(), values.shape)
    minimum = on.lowest(loss, (steps[column], steps[row]))
    # The minimum's place is rounded: a point of the grid may lie a trifle lower.
    least = min(float(on.values(loss, np.array([minimum]))[0]), float(values.min()))
    return Landscape(name, steps, values, minimum, least)


def _construction(on: Slice) -> str:
    rank = "first" if on.label_rank == 1 else f"at place {on.label_rank}"
    return (
        f"t is the teacher: {on.classes} normal numbers (seed {on.seed}) scaled to norm 1; d₁ and d₂ are random and "
        f"orthonormal; the label is the class that the teacher ranks {rank}."
    )


def _minima(landscapes: Sequence[Landscape]) -> str:
    places = (f"{each.name}: minimum at α = {each.minimum[0]:z.2f}, β = {each.minimum[1]:z.2f}" for each in landscapes)
    return "; ".join(places) + "."


def _settings(loss: Loss) -> str:
    return ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in loss.settings().items()
    )
