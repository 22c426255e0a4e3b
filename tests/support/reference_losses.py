"""Reference losses: float64, one sample and one rank at a time, gradients by autograd.

They follow the papers' formulas literally and share no code with the package. All take (student, teacher, label).
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pld_grid.train.losses import Loss

Objective = Callable[[Tensor, Tensor, Tensor], Tensor]


def zscores(row: Tensor) -> Tensor:
    mean = row.sum() / len(row)
    variance = ((row - mean) ** 2).sum() / (len(row) - 1)
    return (row - mean) / (variance.sqrt() + 1e-7)


def standardize(student: Tensor, teacher: Tensor, mode: str) -> tuple[Tensor, Tensor]:
    """The logits (one sample's) that the distillation term uses."""
    return zscores(student) if mode == "both" else student, teacher if mode == "none" else zscores(teacher)


def rank(teacher: Tensor, label: int) -> list[int]:
    others = [c for c in range(len(teacher)) if c != label]
    return [label, *sorted(others, key=lambda c: (-teacher[c].item(), c))]


def ce(student: Tensor, teacher: Tensor, label: Tensor) -> Tensor:
    return sum(torch.logsumexp(s, 0) - s[y] for s, y in zip(student, label, strict=True)) / len(label)


def ls(student: Tensor, teacher: Tensor, label: Tensor, eps: float) -> Tensor:
    total = 0
    for s, y in zip(student, label, strict=True):
        goal = torch.full_like(s, eps / len(s))
        goal[y] += 1 - eps
        total = total - (goal * torch.log_softmax(s, 0)).sum()
    return total / len(label)


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    positive = log_p.exp() > 0
    return (log_p.exp()[positive] * (log_p[positive] - log_q[positive])).sum()


def kd(student, teacher, label, alpha, tau, divergence, standardization="none") -> Tensor:
    total = 0
    for pair in zip(student, teacher, strict=True):
        log_s, log_t = (torch.log_softmax(x / tau, 0) for x in standardize(*pair, standardization))
        if divergence == "forward":
            total = total + kl(log_t, log_s)
        elif divergence == "reverse":
            total = total + kl(log_s, log_t)
        else:
            log_m = torch.stack([log_s, log_t]).logsumexp(0) - torch.tensor(2.0).double().log()
            total = total + kl(log_t, log_m) / 2 + kl(log_s, log_m) / 2
    return alpha * ce(student, teacher, label) + (1 - alpha) * tau**2 * total / len(label)


def pearson(x: Tensor, y: Tensor) -> Tensor:
    x, y = x - x.mean(), y - y.mean()
    return (x @ y) / (torch.linalg.norm(x) * torch.linalg.norm(y) + 1e-8)


def dist(student, teacher, label, alpha, beta, gamma, tau, standardization="none") -> Tensor:
    pairs = [standardize(*pair, standardization) for pair in zip(student, teacher, strict=True)]
    q_s, q_t = (torch.softmax(torch.stack(rows) / tau, 1) for rows in zip(*pairs, strict=True))
    inter = 1 - sum(pearson(a, b) for a, b in zip(q_s, q_t, strict=True)) / len(label)
    intra = 1 - sum(pearson(a, b) for a, b in zip(q_s.T, q_t.T, strict=True)) / q_s.shape[1]
    return alpha * ce(student, teacher, label) + tau**2 * (beta * inter + gamma * intra)


def dkd(student, teacher, label, ce_weight, alpha, beta, tau, standardization="none") -> Tensor:
    total = 0
    for *pair, y in zip(student, teacher, label, strict=True):
        distilled = standardize(*pair, standardization)
        others = [c for c in range(len(distilled[0])) if c != y]
        log_q = [torch.log_softmax(x / tau, 0) for x in distilled]
        label_s, label_t = (torch.stack([x[y], torch.logsumexp(x[others], 0)]) for x in log_q)
        others_s, others_t = (torch.log_softmax(x[others] / tau, 0) for x in distilled)
        total = total + alpha * kl(label_t, label_s) + beta * kl(others_t, others_s)
    return ce_weight * ce(student, teacher, label) + tau**2 * total / len(label)


def pld(student, teacher, label, tau, weights, standardization="none") -> Tensor:
    total = 0
    for s, t, y in zip(student, teacher, label, strict=True):
        ranking = rank(t, int(y))
        classes = len(ranking)
        s, t = standardize(s, t, standardization)
        if weights == "teacher":
            weight = torch.softmax(t / tau, 0)[ranking].tolist()
        elif weights == "uniform":
            weight = [1 / classes] * classes
        else:
            raw = [2 ** (classes - k) - 1 for k in range(1, classes + 1)]
            weight = [w / sum(raw) for w in raw]  # Python's integers do not overflow
        for k in range(classes):
            total = total + weight[k] * (torch.logsumexp(s[ranking][k:], 0) - s[ranking][k])
    return total / len(label)


def paper_listing(student: Tensor, teacher: Tensor, label: Tensor, temperature: float = 1.0) -> Tensor:
    """Appendix C's listing 1 (ascending, the label last)."""
    order = torch.sort(teacher, dim=-1, descending=False).indices
    others = order[order != label.unsqueeze(-1)].view(-1, teacher.size(-1) - 1)
    ranking = torch.cat([others, label.unsqueeze(-1)], dim=-1)
    ranked_student = torch.gather(student, dim=-1, index=ranking)
    ranked_teacher = torch.gather(teacher, dim=-1, index=ranking)
    per_rank = torch.logcumsumexp(ranked_student, dim=-1) - ranked_student
    weight = torch.softmax(ranked_teacher / temperature, dim=-1)
    return (per_rank * weight).sum(dim=-1).mean()


REFERENCES = {"ce": ce, "ls": ls, "kd": kd, "dist": dist, "dkd": dkd, "pld": pld}


def draw(samples: int, classes: int, scale: float = 1.0, seed: int = 0, *, ties: bool = False, double: bool = False):
    """Random logits (student, teacher) and labels."""
    random = torch.Generator().manual_seed(seed)
    student = torch.randn(samples, classes, generator=random) * scale
    teacher = torch.randn(samples, classes, generator=random) * scale
    if ties:
        teacher = (teacher / scale).round() * scale
    if double:
        student, teacher = student.double(), teacher.double()
    return student, teacher, torch.randint(classes, (samples,), generator=random)


def value_and_gradient(loss: Objective, student: Tensor, teacher: Tensor, target: Tensor) -> tuple[float, Tensor]:
    leaf = student.detach().clone().requires_grad_()
    value = loss(leaf, teacher, target)
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.item(), gradient


def assert_same_loss(
    loss: Objective,
    expected: Objective,
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    *,
    tolerance: float = 1e-5,
    floor: float = 1e-9,
) -> None:
    """Value and gradient agree with ``expected`` in float64; the gradient relative to its largest entry.

    ``floor`` is what float32 cannot resolve where large terms of the gradient cancel.
    """
    value, gradient = value_and_gradient(loss, student, teacher, target)
    expected_value, expected_gradient = value_and_gradient(expected, student.double(), teacher.double(), target)
    assert value == pytest.approx(expected_value, rel=tolerance, abs=1e-7)
    assert torch.isfinite(gradient).all()
    error = (gradient.double() - expected_gradient).abs().max().item()
    assert error <= tolerance * expected_gradient.abs().max().item() + floor


def assert_matches_reference(loss: Loss, *batch: Tensor, **tolerances: float) -> None:
    """A loss agrees with the reference of the same name and hyperparameters."""
    settings = loss.settings() | ({"standardization": loss.standardization} if loss.uses_teacher else {})
    assert_same_loss(loss, lambda *inputs: REFERENCES[loss.name()](*inputs, **settings), *batch, **tolerances)
