"""Time PLD forward and backward beside the paper's Appendix C with autograd, KD, DIST, and the teacher's sort alone.

.venv/bin/python benchmarks/loss.py
"""

from collections.abc import Callable
from dataclasses import dataclass
from unittest import mock

import torch
from _measure import Goal, alternate, last_line
from torch import Tensor

from pld_grid.train.losses import TeacherBatch, _teacher_batch, build

SIZES = [(128, 10), (128, 100), (256, 1000), (2048, 1000), (64, 32000)]
TEMPERATURES = (0.5, 1.0, 2.0, 4.0, 8.0)
TOLERANCE = 1e-5

# The columns of the table: width and heading by contender.
COLUMNS = {
    "appendix": (11, "appendix C"),
    "pld": (8, "PLD"),
    "shared": (11, "PLD shared"),
    "sort": (8, "sort"),
    "kd": (8, "KD"),
    "dist": (8, "DIST"),
    "sweep": (8, "5 tau"),
    "sweep shared": (13, "5 tau shared"),
}
RATIOS = [
    ("pld", "appendix"),
    ("shared", "appendix"),
    ("pld", "sort"),
    ("pld", "kd"),
    ("pld", "dist"),
    ("sweep shared", "sweep"),
]

Objective = Callable[[Tensor, Tensor | TeacherBatch, Tensor], Tensor]


def straightforward(student_NC: Tensor, teacher_NC: Tensor, target_N: Tensor) -> Tensor:
    """Return the loss by the listing of Appendix C: sort, mask, gather, logcumsumexp, autograd."""
    order = torch.sort(teacher_NC, dim=-1).indices
    others = order[order != target_N[:, None]].view(len(order), -1)
    ranking = torch.cat([others, target_N[:, None]], dim=-1)
    student, teacher = student_NC.gather(-1, ranking), teacher_NC.gather(-1, ranking)
    per_place = torch.logcumsumexp(student, dim=-1) - student
    return (per_place * teacher.softmax(-1)).sum(-1).mean()


@dataclass
class Case:
    """Random logits of one size: student (a leaf), teacher, and labels."""

    student_NC: Tensor
    teacher_NC: Tensor
    target_N: Tensor

    @classmethod
    def draw(cls, n: int, c: int) -> "Case":
        """Return normal logits of standard deviation 3, equal in every run."""
        torch.manual_seed(0)
        return cls((3 * torch.randn(n, c)).requires_grad_(), 3 * torch.randn(n, c), torch.randint(c, (n,)))

    def share(self) -> TeacherBatch:
        """Return the teacher's batch as a cohort's students receive it, with nothing cached yet."""
        return TeacherBatch(self.teacher_NC, self.target_N)

    def step(self, loss: Objective, teacher: Tensor | TeacherBatch | None = None) -> tuple[Tensor, Tensor]:
        """Run forward and backward; return the value and the student's gradient."""
        self.student_NC.grad = None
        value = loss(self.student_NC, self.teacher_NC if teacher is None else teacher, self.target_N)
        value.backward()
        return value.detach(), self.student_NC.grad

    def sweep(self, shared: bool) -> None:
        """Run one step of five students that differ in PLD's temperature, on a new batch."""
        batch = self.share() if shared else None
        for tau in TEMPERATURES:
            self.step(build("pld", tau=tau), batch)


def differences(case: Case) -> tuple[float, float]:
    """Return how far PLD is from Appendix C: the value, relative, and the gradient, relative to its largest entry."""
    ours, our_gradient = case.step(build("pld"))
    theirs, their_gradient = case.step(straightforward)
    gradient = (our_gradient - their_gradient).abs().max() / their_gradient.abs().max()
    return float(((ours - theirs) / theirs).abs()), float(gradient)


def rankings(case: Case, shared: bool) -> int:
    """Return how often a sweep of temperatures sorts the teacher's logits."""
    with mock.patch.object(_teacher_batch, "rank_classes", wraps=_teacher_batch.rank_classes) as ranking:
        case.sweep(shared)
    return ranking.call_count


def measure(case: Case) -> dict[str, float]:
    pld, kd, dist = build("pld"), build("kd"), build("dist")
    shared = case.share()
    return alternate(
        {
            "appendix": lambda: case.step(straightforward),
            "pld": lambda: case.step(pld),
            "shared": lambda: case.step(pld, shared),
            "sort": lambda: torch.sort(case.teacher_NC, dim=-1),
            "kd": lambda: case.step(kd),
            "dist": lambda: case.step(dist),
            "sweep": lambda: case.sweep(shared=False),
            "sweep shared": lambda: case.sweep(shared=True),
        }
    )


def main() -> None:
    """Print a table of milliseconds, and the ratios as the last line."""
    torch.set_num_threads(2)
    ratios, goals = {}, []
    headings = " ".join(f"{heading:>{width}}" for width, heading in COLUMNS.values())
    print(f"{'N x C':>12} {headings}  ms, median; differences of value and gradient from appendix C")
    for n, c in SIZES:
        case = Case.draw(n, c)
        value, gradient = differences(case)
        times = measure(case)
        row = " ".join(f"{1000 * times[name]:>{width}.2f}" for name, (width, _) in COLUMNS.items())
        print(f"{f'{n} x {c}':>12} {row}  {value:.1e} {gradient:.1e}")
        ratio = {f"{one}/{other}": times[one] / times[other] for one, other in RATIOS}
        ratios[f"{n}x{c}"] = {name: round(figure, 3) for name, figure in ratio.items()}
        if c == 1000:
            size = f"at {n} x {c}"
            goals += [
                Goal(f"PLD over Appendix C {size}", ratio["pld/appendix"], 0.40),
                Goal(f"PLD over the teacher's sort {size}", ratio["pld/sort"], 1.5),
                Goal(f"relative difference of the value {size}, in units of 1e-5", value / TOLERANCE, 1),
                Goal(f"largest relative difference of the gradient {size}, in units of 1e-5", gradient / TOLERANCE, 1),
            ]
    case = Case.draw(256, 1000)
    alone, together = rankings(case, shared=False), rankings(case, shared=True)
    print(f"rankings in a sweep of {len(TEMPERATURES)} temperatures: {together} shared, {alone} apart")
    # The separate sweep shows that the counter works.
    goals += [
        Goal("rankings in a shared sweep of 5 temperatures", together, 1),
        Goal("rankings in a separate one", alone, len(TEMPERATURES), least=True),
    ]
    last_line("loss", goals, threads=torch.get_num_threads(), ratios=ratios)


if __name__ == "__main__":
    main()
