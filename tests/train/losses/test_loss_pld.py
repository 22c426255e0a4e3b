"""PLD against naive references, the paper's listing, and its own mathematics."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pld_grid.train import losses
from pld_grid.train.losses import pld

MODES = ("none", "both", "teacher")
WEIGHTS = ("teacher", "uniform", "position")


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("samples", "classes"), [(6, 2), (5, 10), (2, 1000)])
@pytest.mark.parametrize("scale", [1.0, 100.0, 1e4])
@pytest.mark.parametrize("weights", WEIGHTS)
def test_value_and_gradient(reference, samples, classes, scale, weights, ties):
    student, teacher, target = reference.draw(samples, classes, scale, ties=ties)
    loss = losses.build("pld", tau=1.5, weights=weights)
    reference.assert_near(
        lambda s: loss(s, teacher, target),
        lambda s: reference.pld(s, teacher.double(), target, 1.5, weights),
        student,
    )


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    classes=st.integers(2, 9),
    tau=st.floats(0.1, 8),
    weights=st.sampled_from(WEIGHTS),
    mode=st.sampled_from(MODES),
    scale=st.sampled_from([0.1, 1.0, 30.0, 1e4]),
    ties=st.booleans(),
)
def test_anywhere(reference, seed, classes, tau, weights, mode, scale, ties):
    student, teacher, target = reference.draw(3, classes, scale, seed, ties)
    # z-scores of a constant row are a division by 1e-7, where float32 has nothing to say.
    teacher = teacher if mode == "none" else teacher + scale * torch.linspace(0, 0.1, classes)
    loss = losses.build("pld", tau=tau, weights=weights, standardization=mode)
    reference.assert_near(
        lambda s: loss(s, teacher, target),
        lambda s: reference.pld(s, teacher.double(), target, tau, weights, mode),
        student,
        # The gradient through z-scores is their rounding's size over the row's deviation.
        floor=1e-9 if mode != "both" else 1e-6 / student.std(1).min().item(),
    )


@pytest.mark.parametrize("label", [0, 3])
@pytest.mark.parametrize("favourite", [0, 3, 5])
@pytest.mark.parametrize("height", [700.0, 1e4, 1e9])
@pytest.mark.parametrize("weights", WEIGHTS)
def test_all_mass_on_one_class(reference, label, favourite, height, weights):
    student = torch.full((1, 6), -height)
    student[0, favourite] = height
    teacher = torch.arange(6.0).unsqueeze(0)
    target = torch.tensor([label])
    loss = losses.build("pld", weights=weights)
    reference.assert_near(
        lambda s: loss(s, teacher, target),
        lambda s: reference.pld(s, teacher.double(), target, 1.0, weights),
        student,
    )


@pytest.mark.parametrize("scale", [1.0, 50.0, 1e4])
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("ascending", [False, True])
def test_both_paths_agree_where_both_are_valid(reference, monkeypatch, scale, weights, ascending):
    student, teacher, target = reference.draw(4, 500, 1.0)
    student = (student.sort(dim=1, descending=not ascending).values * scale).clamp(-290, 290)
    teacher = teacher.sort(dim=1).values
    loss = losses.build("pld", weights=weights)

    def run():
        return reference.value_and_gradient(lambda s: loss(s, teacher, target), student)

    assert pld._spread_is_ordinary(student)
    value, gradient = run()
    monkeypatch.setattr(pld, "_PLAIN_SPREAD", -1.0)
    assert not pld._spread_is_ordinary(student)
    safe_value, safe_gradient = run()
    assert value == pytest.approx(safe_value, rel=1e-6)
    error = (gradient - safe_gradient).abs().max()
    assert error <= 2e-6 * safe_gradient.abs().max()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("classes", [2, 10, 300])
def test_equals_the_papers_listing(reference, classes, temperature):
    student, teacher, target = reference.draw(8, classes, 3.0)
    loss = losses.build("pld", tau=temperature)
    reference.assert_near(
        lambda s: loss(s, teacher, target),
        lambda s: reference.listing(s, teacher.double(), target, temperature),
        student,
    )


def test_a_certain_teacher_gives_cross_entropy(reference):
    student, teacher, target = reference.draw(8, 10, 3.0)
    teacher.scatter_(1, target.unsqueeze(1), 1e4)
    loss = losses.build("pld")
    reference.assert_near(lambda s: loss(s, teacher, target), lambda s: reference.ce(s, teacher, target), student)


def test_an_undecided_teacher_gives_listmle(reference):
    student, _, target = reference.draw(8, 10, 3.0)
    teacher = torch.zeros_like(student)
    by_teacher, uniform = losses.build("pld"), losses.build("pld", weights="uniform")
    reference.assert_near(lambda s: by_teacher(s, teacher, target), lambda s: uniform(s, teacher, target), student)
    likelihood = 0.0
    for row, label in zip(student.double(), target, strict=True):
        left = [int(label), *(c for c in range(10) if c != label)]
        while left:
            likelihood += torch.log_softmax(row[left], 0)[0].item()
            left = left[1:]
    assert uniform(student, teacher, target).item() == pytest.approx(-likelihood / 8 / 10)


def test_position_weights_do_not_overflow(reference):
    student, teacher, target = reference.draw(1, 1500)
    loss = losses.build("pld", weights="position")
    reference.assert_near(
        lambda s: loss(s, teacher, target),
        lambda s: reference.pld(s, teacher.double(), target, 1.0, "position"),
        student,
    )


def test_two_positions_are_cross_entropy(reference):
    student, teacher, target = reference.draw(5, 2)
    loss = losses.build("pld", weights="position")
    reference.assert_near(lambda s: loss(s, teacher, target), lambda s: reference.ce(s, teacher, target), student)


def test_standardizing_the_teacher_changes_weights_only(reference):
    student, teacher, target = reference.draw(5, 10)
    by_rank = losses.build("pld", weights="uniform", standardization="teacher")
    assert by_rank(student, teacher, target) == losses.build("pld", weights="uniform")(student, teacher, target)
    shrunk = losses.build("pld", standardization="teacher")
    torch.testing.assert_close(shrunk(student, teacher, target), shrunk(student, teacher * 9 + 2, target))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**16), by=st.floats(-1e6, 1e6), weights=st.sampled_from(WEIGHTS))
def test_translation_of_student_or_teacher_changes_nothing(reference, seed, by, weights):
    student, teacher, target = (x.double() if x.is_floating_point() else x for x in reference.draw(4, 8, 3.0, seed))
    loss = losses.build("pld", weights=weights)
    value = loss(student, teacher, target).item()
    assert loss(student + by, teacher, target).item() == pytest.approx(value, rel=1e-8)
    assert loss(student, teacher + by, target).item() == pytest.approx(value, rel=1e-8)
    _, gradient = reference.value_and_gradient(lambda s: loss(s, teacher, target), student)
    assert gradient.sum(1).abs().max() < 1e-7  # translation invariance, differentiated


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    share=st.floats(0, 1),
    scale=st.sampled_from([1.0, 1e4]),
    weights=st.sampled_from(WEIGHTS),
)
def test_convex_along_segments(reference, seed, share, scale, weights):
    start, teacher, target = reference.draw(3, 7, scale, seed)
    start, end = start.double(), reference.draw(3, 7, scale, seed + 1)[0].double()
    loss = losses.build("pld", weights=weights)
    chord = share * loss(start, teacher, target) + (1 - share) * loss(end, teacher, target)
    between = loss(share * start + (1 - share) * end, teacher, target)
    assert between <= chord + 1e-9 * scale


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("column", range(4))
def test_broken_student_is_never_a_finite_loss(reference, poison, weights, column):
    student, teacher, target = reference.draw(3, 4)
    student[1, column] = poison
    assert not math.isfinite(losses.build("pld", weights=weights)(student, teacher, target))


def test_second_derivatives_are_refused(reference):
    student, teacher, target = reference.draw(3, 4)
    student.requires_grad_()
    value = losses.build("pld")(student, teacher, target)
    (gradient,) = torch.autograd.grad(value.square(), student, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
