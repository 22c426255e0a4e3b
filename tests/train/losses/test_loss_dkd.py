"""DKD: its identity with KD, its two terms, and confident teachers that are right or wrong."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference_losses import assert_matches_reference, draw, value_and_gradient

from pld_grid.train import losses


def build_term(name: str, tau: float = 4.0) -> losses.Loss:
    """TCKD ("alpha") or NCKD ("beta") alone."""
    return losses.build("dkd", **{"ce_weight": 0, "alpha": 0, "beta": 0, "tau": tau, name: 1})


@given(seed=st.integers(0, 2**16), classes=st.integers(2, 9), tau=st.floats(0.5, 8))
def test_kd_is_tckd_plus_weighted_nckd(seed, classes, tau):
    """The publication's reformulation of KD, sample by sample."""
    student, teacher, target = draw(1, classes, 3.0, seed, double=True)
    others = 1 - torch.softmax(teacher / tau, 1)[0, target]
    kd = losses.build("kd", alpha=0, tau=tau)(student, teacher, target)
    tckd, nckd = (build_term(name, tau)(student, teacher, target) for name in ("alpha", "beta"))
    torch.testing.assert_close(kd.reshape(1), tckd + others * nckd, rtol=1e-9, atol=1e-12)


def test_dkd_is_the_weighted_sum_of_its_terms():
    batch = draw(6, 10)
    cross_entropy, tckd, nckd = (term(*batch) for term in (losses.build("ce"), build_term("alpha"), build_term("beta")))
    whole = losses.build("dkd", ce_weight=2, alpha=3, beta=5)(*batch)
    torch.testing.assert_close(whole, 2 * cross_entropy + 3 * tckd + 5 * nckd)


def test_nckd_equals_the_publications_code():
    """That code removes the label by subtracting 1000 from its softened logit."""
    student, teacher, target = draw(6, 10, scale=3.0, double=True)
    label_NC = torch.nn.functional.one_hot(target, 10)
    log_s_NC, log_t_NC = (torch.log_softmax(x / 4 - 1000 * label_NC, 1) for x in (student, teacher))
    expected = 16 * torch.nn.functional.kl_div(log_s_NC, log_t_NC.exp(), reduction="batchmean")
    torch.testing.assert_close(build_term("beta")(student, teacher, target), expected)


@pytest.mark.parametrize("name", ["alpha", "beta"])
def test_each_term_scales_with_tau_squared(name):
    student, teacher, target = draw(4, 6)
    softened = build_term(name, 2.0)(student * 2, teacher * 2, target)
    torch.testing.assert_close(softened, 4 * build_term(name, 1.0)(student, teacher, target))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("teacher_probability", [1.0, 0.0])
@pytest.mark.parametrize("student_probability", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("size", [1e3, 1e6])
def test_label_probabilities_of_zero_or_one_give_a_finite_loss(dtype, teacher_probability, student_probability, size):
    student, teacher, target = draw(4, 5)
    label_NC = torch.nn.functional.one_hot(target, 5)
    student = (student + size * (2 * student_probability - 1) * label_NC).to(dtype)
    teacher = (teacher + size * (2 * teacher_probability - 1) * label_NC).to(dtype)
    loss = losses.build("dkd", tau=1.0)
    value, gradient = value_and_gradient(loss, student, teacher, target)
    assert math.isfinite(value) and torch.isfinite(gradient).all()
    # Beside a logit of 1e6, float32 has no digits left for the others' differences.
    if dtype == torch.float64 or size == 1e3:
        tolerance = 1e-9 if dtype == torch.float64 else 1e-3
        assert_matches_reference(loss, student, teacher, target, tolerance=tolerance)


@pytest.mark.parametrize("shift", [-300.0, 0.25, 300.0])
def test_dkd_does_not_change_when_all_logits_are_shifted(shift):
    student, teacher, target = draw(6, 10, double=True)
    loss = losses.build("dkd")
    value, gradient = value_and_gradient(loss, student, teacher, target)
    shifted_value, shifted_gradient = value_and_gradient(loss, student + shift, teacher - shift, target)
    assert shifted_value == pytest.approx(value, rel=1e-11)
    torch.testing.assert_close(shifted_gradient, gradient, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(gradient.sum(1), torch.zeros(6).double(), rtol=0, atol=1e-12)


def test_each_term_has_a_gradient_in_its_own_logits():
    """NCKD ignores the label's logit; TCKD moves the other logits together, each by its probability."""
    student, teacher, target = draw(6, 10, double=True)
    label_N1 = target.unsqueeze(1)
    _, nckd_NC = value_and_gradient(build_term("beta"), student, teacher, target)
    assert not nckd_NC.gather(1, label_N1).any()
    assert nckd_NC.any()
    _, tckd_NC = value_and_gradient(build_term("alpha"), student, teacher, target)
    probability_NC = torch.softmax(student / 4, 1).scatter(1, label_N1, 0)
    others_NC = probability_NC / probability_NC.sum(1, keepdim=True)
    label_gradient_N1 = tckd_NC.gather(1, label_N1)
    expected_NC = (-label_gradient_N1 * others_NC).scatter(1, label_N1, label_gradient_N1)
    torch.testing.assert_close(tckd_NC, expected_NC, rtol=1e-9, atol=1e-12)


def test_nckd_of_two_classes_is_zero():
    value, gradient = value_and_gradient(build_term("beta"), *draw(6, 2))
    assert value == 0 and not gradient.any()


def test_dkd_of_a_student_equal_to_its_teacher_is_zero():
    _, teacher, target = draw(4, 6, scale=1e4)
    value, gradient = value_and_gradient(losses.build("dkd", ce_weight=0), teacher, teacher, target)
    assert abs(value) < 1e-4 and gradient.abs().max() < 1e-4
