"""PLD forward and backward beside the paper's Appendix C with autograd, KD, DIST, and the teacher's sort alone.

.venv/bin/python benchmarks/loss.py
"""

import torch
from _measure import alternate, last_line
from torch import Tensor

from pld_grid.train.losses import TeacherBatch, build

SIZES = [(128, 10), (128, 100), (256, 1000), (2048, 1000), (64, 32000)]


def straightforward(student_NC: Tensor, teacher_NC: Tensor, target_N: Tensor) -> Tensor:
    """The algorithm of Appendix C: sort, mask, gather, logcumsumexp, autograd."""
    order = torch.sort(teacher_NC, dim=-1).indices
    others = order[order != target_N[:, None]].view(len(order), -1)
    ranking = torch.cat([others, target_N[:, None]], dim=-1)
    student, teacher = student_NC.gather(-1, ranking), teacher_NC.gather(-1, ranking)
    per_place = torch.logcumsumexp(student, dim=-1) - student
    return (per_place * teacher.softmax(-1)).sum(-1).mean()


def main() -> None:
    """Prints a table of milliseconds, and the ratios as the last line."""
    torch.set_num_threads(2)
    ratios = {}
    print(
        f"{'N x C':>12} {'appendix C':>11} {'PLD':>8} {'PLD shared':>11} {'sort':>8} {'KD':>8} {'DIST':>8}   ms, median"
    )
    for n, c in SIZES:
        torch.manual_seed(0)
        student = (3 * torch.randn(n, c)).requires_grad_()
        teacher, target = 3 * torch.randn(n, c), torch.randint(c, (n,))
        pld, kd, dist = build("pld"), build("kd"), build("dist")
        shared = TeacherBatch(teacher, target)

        def step(loss, given=teacher, student=student, target=target):  # type: ignore[no-untyped-def]
            student.grad = None
            loss(student, given, target).backward()
            return student.grad

        ours, theirs = step(pld).clone(), step(straightforward).clone()
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))
        times = alternate(
            {
                "appendix": lambda step=step: step(straightforward),
                "pld": lambda step=step, pld=pld: step(pld),
                "shared": lambda step=step, pld=pld, shared=shared: step(pld, shared),
                "sort": lambda teacher=teacher: torch.sort(teacher, dim=-1),
                "kd": lambda step=step, kd=kd: step(kd),
                "dist": lambda step=step, dist=dist: step(dist),
            }
        )
        print(f"{f'{n} x {c}':>12} " + " ".join(
            f"{1000 * times[k]:>{w}.2f}" for k, w in
            (("appendix", 11), ("pld", 8), ("shared", 11), ("sort", 8), ("kd", 8), ("dist", 8))
        ))  # fmt: skip
        ratios[f"{n}x{c}"] = {
            "pld/appendix": round(times["pld"] / times["appendix"], 3),
            "shared/appendix": round(times["shared"] / times["appendix"], 3),
            "pld/sort": round(times["pld"] / times["sort"], 3),
            "pld/kd": round(times["pld"] / times["kd"], 3),
            "pld/dist": round(times["pld"] / times["dist"], 3),
        }
    last_line(benchmark="loss", threads=torch.get_num_threads(), ratios=ratios)


if __name__ == "__main__":
    main()
