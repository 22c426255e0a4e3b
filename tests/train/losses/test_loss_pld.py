"""PLD against its float64 reference, the paper's listing, and its mathematical properties."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_losses import assert_matches_reference, assert_same_loss, ce, draw, paper_listing, value_and_gradient

from pld_grid.train import losses
from pld_grid.train.losses import pld

WEIGHTS = ("teacher", "uniform", "position")
every_weighting = pytest.mark.parametrize("weights", WEIGHTS)
seeds = st.integers(0, 2**16)


# With 1500 classes, pListMLE's powers of two overflow float64.
@pytest.mark.parametrize(("samples", "classes"), [(6, 2), (5, 10), (1, 1500)])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("scale", [1.0, 100.0, 1e4])
@every_weighting
def test_value_and_gradient_match_the_reference(samples, classes, scale, weights, ties):
    assert_matches_reference(losses.build("pld", tau=1.5, weights=weights), *draw(samples, classes, scale, ties=ties))


@settings(max_examples=40, deadline=None)
@given(
    seed=seeds,
    classes=st.integers(2, 9),
    tau=st.floats(0.1, 8),
    weights=st.sampled_from(WEIGHTS),
    mode=st.sampled_from(["none", "both", "teacher"]),
    scale=st.sampled_from([0.1, 1.0, 30.0, 1e4]),
    ties=st.booleans(),
)
def test_any_hyperparameters_match_the_reference(seed, classes, tau, weights, mode, scale, ties):
    student, teacher, target = draw(3, classes, scale, seed, ties=ties)
    # z-scores of a constant row divide by 1e-7, which float32 cannot resolve.
    teacher = teacher if mode == "none" else teacher + scale * torch.linspace(0, 0.1, classes)
    loss = losses.build("pld", tau=tau, weights=weights, standardization=mode)
    # The gradient through z-scores has their rounding divided by the row's deviation.
    floor = 1e-9 if mode != "both" else 1e-6 / student.std(1).min().item()
    assert_matches_reference(loss, student, teacher, target, floor=floor)


@pytest.mark.parametrize("label", [0, 3])
@pytest.mark.parametrize("favourite", [0, 3, 5])
@pytest.mark.parametrize("height", [700.0, 1e4, 1e9])
@every_weighting
def test_student_certain_of_one_class_matches_the_reference(label, favourite, height, weights):
    student = torch.full((1, 6), -height)
    student[0, favourite] = height
    teacher = torch.arange(6.0).unsqueeze(0)
    assert_matches_reference(losses.build("pld", weights=weights), student, teacher, torch.tensor([label]))


@pytest.mark.parametrize("scale", [1.0, 50.0, 1e4])
@every_weighting
@pytest.mark.parametrize("ascending", [False, True])
def test_direct_and_log_space_evaluation_agree(monkeypatch, scale, weights, ascending):
    student, teacher, target = draw(4, 500, 1.0)
    student = (student.sort(dim=1, descending=not ascending).values * scale).clamp(-290, 290)
    teacher = teacher.sort(dim=1).values
    loss = losses.build("pld", weights=weights)
    assert pld._has_moderate_spread(student)
    value, gradient = value_and_gradient(loss, student, teacher, target)
    monkeypatch.setattr(pld, "_MAX_DIRECT_SPREAD_NATS", -1.0)
    assert not pld._has_moderate_spread(student)
    log_value, log_gradient = value_and_gradient(loss, student, teacher, target)
    assert value == pytest.approx(log_value, rel=1e-6)
    assert (gradient - log_gradient).abs().max() <= 2e-6 * log_gradient.abs().max()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("classes", [2, 10, 300])
def test_pld_equals_the_papers_listing(classes, temperature):
    loss = losses.build("pld", tau=temperature)
    assert_same_loss(loss, lambda *inputs: paper_listing(*inputs, temperature), *draw(8, classes, 3.0))


def test_pld_of_a_certain_teacher_is_cross_entropy():
    student, teacher, target = draw(8, 10, 3.0)
    teacher.scatter_(1, target.unsqueeze(1), 1e4)
    assert_same_loss(losses.build("pld"), ce, student, teacher, target)


def test_pld_with_position_weights_of_two_classes_is_cross_entropy():
    assert_same_loss(losses.build("pld", weights="position"), ce, *draw(5, 2))


def test_pld_of_a_uniform_teacher_is_listmle():
    student, _, target = draw(8, 10, 3.0)
    teacher = torch.zeros_like(student)
    uniform = losses.build("pld", weights="uniform")
    assert_same_loss(losses.build("pld"), uniform, student, teacher, target)
    log_likelihood = 0.0
    for row, label in zip(student.double(), target, strict=True):
        remaining = [int(label), *(c for c in range(10) if c != label)]
        while remaining:
            log_likelihood += torch.log_softmax(row[remaining], 0)[0].item()
            remaining = remaining[1:]
    assert uniform(student, teacher, target).item() == pytest.approx(-log_likelihood / 8 / 10)


def test_standardizing_the_teacher_changes_only_the_weights():
    student, teacher, target = draw(5, 10)
    uniform, standardized = (losses.build("pld", weights="uniform", standardization=m) for m in ("none", "teacher"))
    assert standardized(student, teacher, target) == uniform(student, teacher, target)
    by_teacher = losses.build("pld", standardization="teacher")
    torch.testing.assert_close(by_teacher(student, teacher, target), by_teacher(student, teacher * 9 + 2, target))


@settings(max_examples=30, deadline=None)
@given(seed=seeds, shift=st.floats(-1e6, 1e6), weights=st.sampled_from(WEIGHTS))
def test_pld_does_not_change_when_logits_are_shifted(seed, shift, weights):
    student, teacher, target = draw(4, 8, 3.0, seed, double=True)
    loss = losses.build("pld", weights=weights)
    value, gradient = value_and_gradient(loss, student, teacher, target)
    assert loss(student + shift, teacher, target).item() == pytest.approx(value, rel=1e-8)
    assert loss(student, teacher + shift, target).item() == pytest.approx(value, rel=1e-8)
    assert gradient.sum(1).abs().max() < 1e-7


@settings(max_examples=50, deadline=None)
@given(seed=seeds, share=st.floats(0, 1), scale=st.sampled_from([1.0, 1e4]), weights=st.sampled_from(WEIGHTS))
def test_pld_is_convex_along_segments(seed, share, scale, weights):
    start, teacher, target = draw(3, 7, scale, seed, double=True)
    end, _, _ = draw(3, 7, scale, seed + 1, double=True)
    loss = losses.build("pld", weights=weights)
    chord = share * loss(start, teacher, target) + (1 - share) * loss(end, teacher, target)
    assert loss(share * start + (1 - share) * end, teacher, target) <= chord + 1e-9 * scale


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@every_weighting
@pytest.mark.parametrize("column", range(4))
def test_loss_of_a_nan_or_infinite_logit_is_not_finite(poison, weights, column):
    student, teacher, target = draw(3, 4)
    student[1, column] = poison
    assert not math.isfinite(losses.build("pld", weights=weights)(student, teacher, target))


def test_second_derivatives_raise():
    student, teacher, target = draw(3, 4)
    student.requires_grad_()
    value = losses.build("pld")(student, teacher, target)
    (gradient,) = torch.autograd.grad(value.square(), student, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
