"""DKD against a naive float64 reference, its identity with KD, and teachers that are sure or surely wrong."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pld_grid.train import losses

SETTING = {"ce_weight": 0.5, "alpha": 0.7, "beta": 3.0, "tau": 3.0}
# Gradients of softmax and of z-scores cancel down from terms as large as the log ratios.
FLOOR = {0.3: 1e-6, 3.0: 1e-6, 100.0: 1e-5, 1e4: 1e-5}


def term(name: str, tau: float = 4.0) -> losses.Loss:
    """TCKD ("alpha") or NCKD ("beta") alone."""
    return losses.build("dkd", **{"ce_weight": 0, "alpha": 0, "beta": 0, "tau": tau, name: 1})


@pytest.mark.parametrize(("samples", "classes"), [(6, 2), (5, 10), (3, 1000)])
@pytest.mark.parametrize("scale", list(FLOOR))
@pytest.mark.parametrize("mode", ["none", "both", "teacher"])
@pytest.mark.parametrize("ties", [False, True])
def test_values_and_gradients(reference, samples, classes, scale, mode, ties):
    student, teacher, target = reference.draw(samples, classes, scale, ties=ties)
    loss = losses.build("dkd", standardization=mode, **SETTING)
    reference.assert_near(
        lambda s: loss(s, teacher, target),
        lambda s: reference.dkd(s, teacher.double(), target, **SETTING, standardization=mode),
        student,
        floor=FLOOR[scale],
    )


@given(
    seed=st.integers(0, 2**16),
    classes=st.integers(2, 9),
    weights=st.tuples(*[st.floats(0, 10)] * 3),
    tau=st.floats(0.25, 8),
)
def test_values_and_gradients_anywhere(reference, seed, classes, weights, tau):
    student, teacher, target = reference.draw(4, classes, 3.0, seed)
    setting = dict(zip(("ce_weight", "alpha", "beta"), weights, strict=True), tau=tau)
    loss = losses.build("dkd", **setting)
    reference.assert_near(
        lambda s: loss(s, teacher, target),
        lambda s: reference.dkd(s, teacher.double(), target, **setting),
        student,
        floor=1e-5 * (1 + tau**2),
    )


@given(seed=st.integers(0, 2**16), classes=st.integers(2, 9), tau=st.floats(0.5, 8))
def test_kd_is_tckd_and_what_the_teacher_leaves_of_nckd(reference, seed, classes, tau):
    """The publication's reformulation of KD, sample by sample."""
    student, teacher, target = (x.double() for x in reference.draw(1, classes, 3.0, seed))
    target = target.long()
    left = 1 - torch.softmax(teacher / tau, 1)[0, target]
    kd = losses.build("kd", alpha=0, tau=tau)(student, teacher, target)
    label_alone, others = (term(name, tau)(student, teacher, target) for name in ("alpha", "beta"))
    torch.testing.assert_close(kd.reshape(1), label_alone + left * others, rtol=1e-9, atol=1e-12)


def test_weights_add_up(reference):
    student, teacher, target = reference.draw(6, 10)
    parts = (losses.build("ce"), term("alpha"), term("beta"))
    cross_entropy, label_alone, others = (part(student, teacher, target) for part in parts)
    whole = losses.build("dkd", ce_weight=2, alpha=3, beta=5)(student, teacher, target)
    torch.testing.assert_close(whole, 2 * cross_entropy + 3 * label_alone + 5 * others)


def test_taking_1000_off_the_softened_label_leaves_it_out(reference):
    """How the publication's code takes the label out of NCKD."""
    student, teacher, target = (x.double() for x in reference.draw(6, 10, scale=3.0))
    label_NC = torch.nn.functional.one_hot(target.long(), 10)
    log_s_NC, log_t_NC = (torch.log_softmax(x / 4 - 1000 * label_NC, 1) for x in (student, teacher))
    wanted = 16 * torch.nn.functional.kl_div(log_s_NC, log_t_NC.exp(), reduction="batchmean")
    torch.testing.assert_close(term("beta")(student, teacher, target.long()), wanted)


@pytest.mark.parametrize("name", ["alpha", "beta"])
def test_tau_squared_applies_to_both_terms(reference, name):
    student, teacher, target = reference.draw(4, 6)
    softened = term(name, 2.0)(student * 2, teacher * 2, target)
    torch.testing.assert_close(softened, 4 * term(name, 1.0)(student, teacher, target))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("of_teacher", [1.0, 0.0])
@pytest.mark.parametrize("of_student", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("size", [1e3, 1e6])
def test_labels_that_are_certain_or_impossible(reference, dtype, of_teacher, of_student, size):
    """Label probabilities that round to 0 or 1: the value and the gradient are finite, and right."""
    student, teacher, target = reference.draw(4, 5)
    label_NC = torch.nn.functional.one_hot(target, 5)
    student = (student + size * (2 * of_student - 1) * label_NC).to(dtype)
    teacher = (teacher + size * (2 * of_teacher - 1) * label_NC).to(dtype)
    loss = losses.build("dkd", alpha=1.0, beta=8.0, ce_weight=1.0, tau=1.0)
    value, gradient = reference.value_and_gradient(lambda s: loss(s, teacher, target), student)
    assert math.isfinite(value) and torch.isfinite(gradient).all()
    # Beside a logit of 1e6, float32 has no digits left for the others' differences.
    if dtype == torch.float64 or size == 1e3:
        reference.assert_near(
            lambda s: loss(s, teacher, target),
            lambda s: reference.dkd(s, teacher.double(), target, 1.0, 1.0, 8.0, 1.0),
            student,
            tolerance=1e-9 if dtype == torch.float64 else 1e-3,
        )


@pytest.mark.parametrize("shift", [-300.0, 0.25, 300.0])
def test_a_shift_of_all_logits_changes_nothing(reference, shift):
    student, teacher, target = (x.double() for x in reference.draw(6, 10))
    loss = losses.build("dkd")
    value, gradient = reference.value_and_gradient(lambda s: loss(s, teacher, target.long()), student)
    moved, moved_gradient = reference.value_and_gradient(
        lambda s: loss(s, teacher - shift, target.long()), student + shift
    )
    assert moved == pytest.approx(value, rel=1e-11)
    torch.testing.assert_close(moved_gradient, gradient, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(gradient.sum(1), torch.zeros(6).double(), rtol=0, atol=1e-12)


def test_each_term_sees_its_own_half(reference):
    """NCKD is blind to the label's logit; TCKD moves the others all together, each by its probability."""
    student, teacher, target = (x.double() for x in reference.draw(6, 10))
    label_N1 = target.long().unsqueeze(1)
    _, of_others = reference.value_and_gradient(lambda s: term("beta")(s, teacher, target.long()), student)
    assert not of_others.gather(1, label_N1).any()
    assert of_others.any()
    _, of_label = reference.value_and_gradient(lambda s: term("alpha")(s, teacher, target.long()), student)
    probability_NC = torch.softmax(student / 4, 1).scatter(1, label_N1, 0)
    share_NC = probability_NC / probability_NC.sum(1, keepdim=True)
    expected_NC = (-of_label.gather(1, label_N1) * share_NC).scatter(1, label_N1, of_label.gather(1, label_N1))
    torch.testing.assert_close(of_label, expected_NC, rtol=1e-9, atol=1e-12)


def test_with_two_classes_nothing_is_left_beside_the_label(reference):
    student, teacher, target = reference.draw(6, 2)
    value, gradient = reference.value_and_gradient(lambda s: term("beta")(s, teacher, target), student)
    assert value == 0 and not gradient.any()


def test_a_student_like_its_teacher_has_no_divergence(reference):
    _, teacher, target = reference.draw(4, 6, scale=1e4)
    loss = losses.build("dkd", ce_weight=0)
    value, gradient = reference.value_and_gradient(lambda s: loss(s, teacher, target), teacher)
    assert abs(value) < 1e-4 and gradient.abs().max() < 1e-4
