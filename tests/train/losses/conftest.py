"""Reference losses for the tests: float64, one sample and one rank at a time, autograd gradients.

They follow the paper's formulas word for word and share nothing with the package.
"""

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def zscores(row: Tensor) -> Tensor:
    mean = row.sum() / len(row)
    variance = ((row - mean) ** 2).sum() / (len(row) - 1)
    return (row - mean) / (variance.sqrt() + 1e-7)


def order_of(teacher: Tensor, label: int) -> list[int]:
    rest = [c for c in range(len(teacher)) if c != label]
    return [label, *sorted(rest, key=lambda c: (-teacher[c].item(), c))]


def cross_entropy(student: Tensor, label: int) -> Tensor:
    return torch.logsumexp(student, 0) - student[label]


def ce(student: Tensor, teacher: Tensor, label: Tensor) -> Tensor:
    return sum(cross_entropy(s, int(y)) for s, y in zip(student, label, strict=True)) / len(label)


def ls(student: Tensor, teacher: Tensor, label: Tensor, eps: float) -> Tensor:
    total = 0
    for s, y in zip(student, label, strict=True):
        goal = torch.full_like(s, eps / len(s))
        goal[y] += 1 - eps
        total = total - (goal * torch.log_softmax(s, 0)).sum()
    return total / len(label)


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    seen = log_p.exp() > 0
    return (log_p.exp()[seen] * (log_p[seen] - log_q[seen])).sum()


def kd(student, teacher, label, alpha, tau, divergence, standardization="none") -> Tensor:
    total = 0
    for s, t, y in zip(student, teacher, label, strict=True):
        distilled = zscores(s) if standardization == "both" else s
        seen = t if standardization == "none" else zscores(t)
        log_s, log_t = (torch.log_softmax(x / tau, 0) for x in (distilled, seen))
        if divergence == "forward":
            distance = kl(log_t, log_s)
        elif divergence == "reverse":
            distance = kl(log_s, log_t)
        else:
            log_m = torch.stack([log_s, log_t]).logsumexp(0) - torch.tensor(2.0).double().log()
            distance = kl(log_t, log_m) / 2 + kl(log_s, log_m) / 2
        total = total + alpha * cross_entropy(s, int(y)) + (1 - alpha) * tau**2 * distance
    return total / len(label)


def pearson(x: Tensor, y: Tensor) -> Tensor:
    x, y = x - x.mean(), y - y.mean()
    return (x @ y) / (torch.linalg.norm(x) * torch.linalg.norm(y) + 1e-8)


def dist(student, teacher, label, alpha, beta, gamma, tau, standardization="none") -> Tensor:
    distilled, seen = student, teacher
    if standardization == "both":
        distilled = torch.stack([zscores(row) for row in student])
    if standardization != "none":
        seen = torch.stack([zscores(row) for row in teacher])
    q_s, q_t = (torch.softmax(x / tau, 1) for x in (distilled, seen))
    inter = 1 - sum(pearson(a, b) for a, b in zip(q_s, q_t, strict=True)) / len(label)
    intra = 1 - sum(pearson(a, b) for a, b in zip(q_s.T, q_t.T, strict=True)) / q_s.shape[1]
    return alpha * ce(student, teacher, label) + tau**2 * (beta * inter + gamma * intra)


def dkd(student, teacher, label, ce_weight, alpha, beta, tau, standardization="none") -> Tensor:
    total = 0
    for s, t, y in zip(student, teacher, label, strict=True):
        distilled = zscores(s) if standardization == "both" else s
        seen = t if standardization == "none" else zscores(t)
        rest = [c for c in range(len(s)) if c != y]
        both = [torch.log_softmax(x / tau, 0) for x in (distilled, seen)]
        label_s, label_t = (torch.stack([log_q[y], torch.logsumexp(log_q[rest], 0)]) for log_q in both)
        rest_s, rest_t = (torch.log_softmax(x[rest] / tau, 0) for x in (distilled, seen))
        distance = alpha * kl(label_t, label_s) + beta * kl(rest_t, rest_s)
        total = total + ce_weight * cross_entropy(s, int(y)) + tau**2 * distance
    return total / len(label)


def pld(student, teacher, label, tau, weights, standardization="none") -> Tensor:
    total = 0
    for s, t, y in zip(student, teacher, label, strict=True):
        order = order_of(t, int(y))
        classes = len(order)
        ranked = (zscores(s) if standardization == "both" else s)[order]
        if weights == "teacher":
            seen = t if standardization == "none" else zscores(t)
            share = torch.softmax(seen / tau, 0)[order].tolist()
        elif weights == "uniform":
            share = [1 / classes] * classes
        else:
            raw = [2 ** (classes - k) - 1 for k in range(1, classes + 1)]
            share = [w / sum(raw) for w in raw]  # Python's integers do not overflow
        for k in range(classes):
            total = total + share[k] * (torch.logsumexp(ranked[k:], 0) - ranked[k])
    return total / len(label)


def listing(student: Tensor, teacher: Tensor, label: Tensor, temperature: float = 1.0) -> Tensor:
    """Appendix C's listing 1 (ascending, the label last), on flat inputs."""
    order = torch.sort(teacher, dim=-1, descending=False).indices
    mask = order != label.unsqueeze(-1)
    rest = order[mask].view(-1, teacher.size(-1) - 1)
    ranking = torch.cat([rest, label.unsqueeze(-1)], dim=-1)
    ranked_student = torch.gather(student, dim=-1, index=ranking)
    ranked_teacher = torch.gather(teacher, dim=-1, index=ranking)
    per_rank = torch.logcumsumexp(ranked_student, dim=-1) - ranked_student
    share = torch.softmax(ranked_teacher / temperature, dim=-1)
    return (per_rank * share).sum(dim=-1).mean()


def value_and_gradient(loss: Callable[[Tensor], Tensor], student: Tensor) -> tuple[float, Tensor]:
    leaf = student.detach().clone().requires_grad_()
    value = loss(leaf)
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.item(), gradient


def assert_near(
    got: Callable[[Tensor], Tensor],
    wanted: Callable[[Tensor], Tensor],
    student: Tensor,
    tolerance: float = 1e-5,
    floor: float = 1e-9,
) -> None:
    """Value and gradient agree; the gradient relative to its largest entry.

    ``floor`` is what float32 cannot resolve where large terms of the gradient cancel.
    """
    value, gradient = value_and_gradient(got, student)
    right_value, right_gradient = value_and_gradient(wanted, student.double())
    assert value == pytest.approx(right_value, rel=tolerance, abs=1e-7)
    assert torch.isfinite(gradient).all()
    error = (gradient.double() - right_gradient).abs().max().item()
    assert error <= tolerance * right_gradient.abs().max().item() + floor


def draw(samples: int, classes: int, scale: float = 1.0, seed: int = 0, ties: bool = False):
    """Random float32 logits (student, teacher) and labels."""
    random = torch.Generator().manual_seed(seed)
    student = torch.randn(samples, classes, generator=random) * scale
    teacher = torch.randn(samples, classes, generator=random) * scale
    if ties:
        teacher = (teacher / scale).round() * scale
    return student, teacher, torch.randint(classes, (samples,), generator=random)


@pytest.fixture(scope="session")
def reference() -> SimpleNamespace:
    return SimpleNamespace(
        ce=ce,
        ls=ls,
        kd=kd,
        dist=dist,
        dkd=dkd,
        pld=pld,
        listing=listing,
        order_of=order_of,
        value_and_gradient=value_and_gradient,
        assert_near=assert_near,
        draw=draw,
    )
