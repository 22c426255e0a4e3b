"""A two-dimensional slice of the space of student logits, and a loss on it (paper, Appendix I).

s(alpha, beta) = t + alpha * d1 + beta * d2, for a random teacher t of unit norm and two random orthonormal directions.

Shape suffixes: C classes, P points of the slice.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import optimize
from torch import Tensor

from pld_grid.train.losses import Loss, TeacherBatch
from pld_grid.util.errors import InputError

# Half the side of the square, in units of the teacher's norm, which is 1.
REACH = 5.0
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Slice:
    """A teacher, its label, and the plane through the teacher's logits spanned by `directions_2C`; all in float64."""

    classes: int
    seed: int
    label_rank: int
    teacher_C: Array
    directions_2C: Array
    label: int

    def student_logits(self, coordinates_P2: Array) -> Array:
        """Return the student's logits at points (alpha, beta); (P, C)."""
        logits_PC: Array = self.teacher_C + coordinates_P2 @ self.directions_2C
        return logits_PC

    def evaluate(self, loss: Loss, coordinates_P2: Array) -> Array:
        """Return the loss at each point; (P,).

        Each point is a call of its own, because a batch would be averaged, and DIST's intra term depends on the batch.
        """
        teacher, target = self._make_batch()
        student_PC = torch.from_numpy(self.student_logits(coordinates_P2))
        with torch.inference_mode():
            return np.array([loss(student_C.unsqueeze(0), teacher, target).item() for student_C in student_PC])

    def evaluate_grid(self, loss: Loss, steps: Array) -> Array:
        """Return the loss at every pair of coordinates: row j has beta = steps[j], column i has alpha = steps[i]."""
        alpha, beta = np.meshgrid(steps, steps)
        points_P2 = np.stack([alpha.ravel(), beta.ravel()], axis=1)
        return self.evaluate(loss, points_P2).reshape(alpha.shape)

    def find_minimum(self, loss: Loss, start: tuple[float, float]) -> tuple[float, float]:
        """Return (alpha, beta) of the minimum in the square, descending from `start`; on an edge if it lies beyond.

        Rounded to four decimals, because further ones depend on the processor.
        """
        teacher, target = self._make_batch()
        origin_C, directions_2C = torch.from_numpy(self.teacher_C), torch.from_numpy(self.directions_2C)

        def value_and_gradient(point: Array) -> tuple[float, Array]:
            coordinates = torch.tensor(point, requires_grad=True)
            value: Tensor = loss((origin_C + coordinates @ directions_2C).unsqueeze(0), teacher, target)
            (gradient,) = torch.autograd.grad(value, coordinates)
            return value.item(), gradient.numpy()

        bounds, options = [(-REACH, REACH)] * 2, {"ftol": 0.0, "gtol": 1e-10}
        result = optimize.minimize(
            value_and_gradient, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options
        )
        return round(float(result.x[0]), 4), round(float(result.x[1]), 4)

    def _make_batch(self) -> tuple[TeacherBatch, Tensor]:
        """Return the teacher and the label as a batch of one, which all points share."""
        target = torch.tensor([self.label])
        return TeacherBatch(torch.from_numpy(self.teacher_C).unsqueeze(0), target), target


def draw_slice(classes: int = 1000, seed: int = 0, label_rank: int = 1) -> Slice:
    """Draw a slice from independent standard normal numbers: the teacher, then the directions by Gram-Schmidt.

    Args:
        classes: Number of classes, at least 2.
        seed: Seed of the random numbers, not negative.
        label_rank: The label's rank in the teacher's ranking; with 1, the teacher is right.

    Raises:
        InputError: An argument is out of range.
    """
    if seed < 0:
        raise InputError(f"a seed must not be negative, got {seed}")
    if classes < 2:
        raise InputError(f"a slice needs at least 2 classes, got {classes}")
    if not 1 <= label_rank <= classes:
        raise InputError(f"the label's rank must be from 1 to {classes}, the number of classes, got {label_rank}")
    normal = np.random.default_rng(seed).standard_normal((3, classes))
    teacher_C = normal[0] / np.linalg.norm(normal[0])
    first_C = normal[1] / np.linalg.norm(normal[1])
    second_C = normal[2] - (normal[2] @ first_C) * first_C
    second_C /= np.linalg.norm(second_C)
    ranking_C = np.argsort(-teacher_C, kind="stable")
    return Slice(classes, seed, label_rank, teacher_C, np.stack([first_C, second_C]), int(ranking_C[label_rank - 1]))


def grid_steps(points: int) -> Array:
    """Return the grid's coordinates along one direction, in logits. Raise InputError unless they include 0."""
    if points < 3 or points % 2 == 0:
        raise InputError(f"points along a side must be odd and at least 3, so that the teacher is one; got {points}")
    return np.linspace(-REACH, REACH, points)


@contextmanager
def single_thread() -> Iterator[None]:
    """Run torch in one thread, because several would wait for each other on single rows of logits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
