"""Many slices instead of one: do the paper's sentences about its Figures 3 and 4 hold, and where?

The paper shows one slice and does not say of how many classes. Each number here is measured on a grid of one logit.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pld_grid.csvtext import csv_text
from pld_grid.landscapes.slice import REACH, Array, Slice, coordinates
from pld_grid.train.losses import Loss

POINTS = int(2 * REACH) + 1
HEADERS = (
    "classes", "seed", "label rank", "loss", "minimum alpha", "minimum beta", "distance", "on edge",
    "curvature at teacher", "mean curvature", "least curvature",
)  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """What a loss looks like in one slice.

    `minimum` is its (alpha, beta) in the square. Curvatures are second differences over a step of one logit, in nats
    per square logit: at the teacher's logits and averaged over the square along d1 and d2; `least_curvature` also
    looks along both diagonals (their step is sqrt(2)), and is negative where the loss is not convex.
    """

    loss: str
    minimum: tuple[float, float]
    curvature_at_teacher: float
    mean_curvature: float
    least_curvature: float

    @property
    def distance(self) -> float:
        """Of the minimum from the teacher's logits, in logit units."""
        return float(np.hypot(*self.minimum))

    @property
    def on_edge(self) -> bool:
        """Whether the loss still falls where the square ends."""
        return max(map(abs, self.minimum)) >= REACH

    @property
    def convex(self) -> bool:
        """Whether no second difference is negative, but for rounding."""
        return self.least_curvature >= -1e-9


@dataclass(frozen=True)
class Surveyed:
    """A slice and the shapes of the losses in it, by name."""

    classes: int
    seed: int
    label_rank: int
    shapes: Mapping[str, Shape]


def survey(slices: Iterable[Slice], losses: Mapping[str, Loss]) -> list[Surveyed]:
    """Measures every loss in every slice."""
    return [
        Surveyed(
            each.classes, each.seed, each.label_rank, {name: shape(each, name, loss) for name, loss in losses.items()}
        )
        for each in slices
    ]


def shape(on: Slice, name: str, loss: Loss) -> Shape:
    """Measures one loss in one slice."""
    steps = coordinates(POINTS)
    values = on.grid(loss, steps)
    along_axes = [second_differences(values, direction) for direction in ((0, 1), (1, 0))]
    diagonally = [second_differences(values, direction) / 2 for direction in ((1, 1), (1, -1))]
    # second_differences() drops the square's rim, so its middle is the teacher.
    middle = (POINTS - 3) // 2
    row, column = np.unravel_index(values.argmin(), values.shape)
    return Shape(
        loss=name,
        minimum=on.lowest(loss, (steps[column], steps[row])),
        curvature_at_teacher=float(np.mean([differences[middle, middle] for differences in along_axes])),
        mean_curvature=float(np.mean(along_axes)),
        least_curvature=float(min(differences.min() for differences in along_axes + diagonally)),
    )


def second_differences(values: Array, direction: tuple[int, int]) -> Array:
    """f(x + h) - 2 f(x) + f(x - h) at the grid's inner points, for h of so many (rows, columns), each -1, 0 or 1."""
    rows, columns = values.shape

    def moved(sign: int) -> Array:
        down, right = sign * direction[0], sign * direction[1]
        return values[1 + down : rows - 1 + down, 1 + right : columns - 1 + right]

    return moved(1) - 2 * moved(0) + moved(-1)


def survey_csv(found: Sequence[Surveyed]) -> str:
    """A line per slice and loss, with 9 digits: the last ones differ between processors."""
    rows = []
    for each in found:
        for name, seen in each.shapes.items():
            numbers = (seen.curvature_at_teacher, seen.mean_curvature, seen.least_curvature)
            rows.append([
                each.classes, each.seed, each.label_rank, name, *(f"{place:.4f}" for place in seen.minimum),
                f"{seen.distance:.4f}", "yes" if seen.on_edge else "no", *(f"{number:.9g}" for number in numbers),
            ])  # fmt: skip
    return csv_text(HEADERS, rows)
