"""Minimum and curvature of losses on many slices, to check the paper's statements about its Figures 3 and 4.

The paper shows one slice and does not state its number of classes. All measurements use a grid with steps of one logit.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pld_grid.paper.landscapes.logit_slice import REACH, Array, Slice, grid_steps
from pld_grid.train.losses import Loss
from pld_grid.util.csv_text import csv_text

POINTS = int(2 * REACH) + 1


@dataclass(frozen=True)
class Shape:
    """The shape of a loss on a slice.

    Attributes:
        minimum: (alpha, beta) of the minimum in the square.
        curvature_at_teacher: Second difference over a step of one logit, in nats per square logit, at the teacher's
            logits; mean along d1 and d2.
        mean_curvature: The same, averaged over the square.
        least_curvature: The least second difference in the square along d1, d2 and both diagonals (whose step is
            sqrt(2)); negative if the loss is not convex.
    """

    minimum: tuple[float, float]
    curvature_at_teacher: float
    mean_curvature: float
    least_curvature: float

    @property
    def distance(self) -> float:
        """Distance of the minimum from the teacher's logits, in logits."""
        return float(np.hypot(*self.minimum))

    @property
    def on_edge(self) -> bool:
        """Whether the minimum lies on the edge of the square, so that the loss may decrease beyond it."""
        return max(map(abs, self.minimum)) >= REACH

    @property
    def convex(self) -> bool:
        """Whether no second difference is negative, up to rounding."""
        return self.least_curvature >= -1e-9


@dataclass(frozen=True)
class SliceShapes:
    """A slice and the shapes of the losses on it, by name."""

    on: Slice
    shapes: Mapping[str, Shape]


def measure_slices(slices: Iterable[Slice], losses: Mapping[str, Loss]) -> list[SliceShapes]:
    """Measure every loss on every slice."""
    return [SliceShapes(on, {name: measure_shape(on, loss) for name, loss in losses.items()}) for on in slices]


def measure_shape(on: Slice, loss: Loss) -> Shape:
    """Measure a loss on a slice."""
    steps = grid_steps(POINTS)
    values = on.evaluate_grid(loss, steps)
    along_axes = [second_differences(values, direction) for direction in ((0, 1), (1, 0))]
    along_diagonals = [second_differences(values, direction) / 2 for direction in ((1, 1), (1, -1))]
    # second_differences() omits the square's rim, so its middle is the teacher.
    middle = (POINTS - 3) // 2
    row, column = np.unravel_index(values.argmin(), values.shape)
    return Shape(
        minimum=on.find_minimum(loss, (steps[column], steps[row])),
        curvature_at_teacher=float(np.mean([differences[middle, middle] for differences in along_axes])),
        mean_curvature=float(np.mean(along_axes)),
        least_curvature=float(min(differences.min() for differences in along_axes + along_diagonals)),
    )


def second_differences(values: Array, direction: tuple[int, int]) -> Array:
    """Return f(x + h) - 2 f(x) + f(x - h) at the inner points, for a step h of (rows, columns), each -1, 0 or 1."""
    rows, columns = values.shape

    def shift(sign: int) -> Array:
        down, right = sign * direction[0], sign * direction[1]
        return values[1 + down : rows - 1 + down, 1 + right : columns - 1 + right]

    return shift(1) - 2 * shift(0) + shift(-1)


def shapes_csv(slices: Sequence[SliceShapes]) -> str:
    """Format a line per slice and loss, with 9 digits, because further ones depend on the processor."""
    rows = [
        {
            "classes": each.on.classes,
            "seed": each.on.seed,
            "label rank": each.on.label_rank,
            "loss": name,
            "minimum alpha": f"{shape.minimum[0]:.4f}",
            "minimum beta": f"{shape.minimum[1]:.4f}",
            "distance": f"{shape.distance:.4f}",
            "on edge": "yes" if shape.on_edge else "no",
            "curvature at teacher": f"{shape.curvature_at_teacher:.9g}",
            "mean curvature": f"{shape.mean_curvature:.9g}",
            "least curvature": f"{shape.least_curvature:.9g}",
        }
        for each in slices
        for name, shape in each.shapes.items()
    ]
    return csv_text(list(rows[0]), [list(row.values()) for row in rows])
