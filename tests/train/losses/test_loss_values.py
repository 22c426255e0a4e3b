"""CE, LS, KD and DIST against naive float64 references (DKD and PLD have their own files)."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pld_grid.train import losses

MODES = ("none", "both", "teacher")
shapes = pytest.mark.parametrize(("samples", "classes"), [(6, 2), (5, 10), (3, 1000)])
# Gradients of log-softmax and of z-scores cancel down from terms as large as the log ratios.
FLOOR = {0.3: 1e-6, 3.0: 1e-6, 100.0: 1e-5, 1e4: 1e-5}
scales = pytest.mark.parametrize("scale", list(FLOOR))


@shapes
@scales
def test_ce_and_ls(reference, samples, classes, scale):
    student, teacher, target = reference.draw(samples, classes, scale)
    ce, ls = losses.build("ce"), losses.build("ls", eps=0.2)
    reference.assert_near(lambda s: ce(s, None, target), lambda s: reference.ce(s, teacher, target), student)
    reference.assert_near(lambda s: ls(s, None, target), lambda s: reference.ls(s, teacher, target, 0.2), student)


@shapes
@scales
@pytest.mark.parametrize("divergence", ["forward", "reverse", "js"])
@pytest.mark.parametrize("mode", MODES)
def test_kd(reference, samples, classes, scale, divergence, mode):
    student, teacher, target = reference.draw(samples, classes, scale)
    setting = {"alpha": 0.3, "tau": 3.0, "divergence": divergence}
    loss = losses.build("kd", standardization=mode, **setting)
    reference.assert_near(
        lambda s: loss(s, teacher, target),
        lambda s: reference.kd(s, teacher.double(), target, **setting, standardization=mode),
        student,
        floor=FLOOR[scale],
    )


@shapes
@scales
@pytest.mark.parametrize("mode", MODES)
def test_dist(reference, samples, classes, scale, mode):
    student, teacher, target = reference.draw(samples, classes, scale)
    setting = {"alpha": 0.3, "beta": 2.0, "gamma": 0.5, "tau": 1.5}
    loss = losses.build("dist", standardization=mode, **setting)
    reference.assert_near(
        lambda s: loss(s, teacher, target),
        lambda s: reference.dist(s, teacher.double(), target, **setting, standardization=mode),
        student,
        floor=FLOOR[scale],
    )


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    classes=st.integers(2, 9),
    alpha=st.floats(0, 1),
    tau=st.floats(0.25, 8),
    divergence=st.sampled_from(["forward", "reverse", "js"]),
)
def test_kd_anywhere(reference, seed, classes, alpha, tau, divergence):
    student, teacher, target = reference.draw(4, classes, 3.0, seed)
    setting = {"alpha": alpha, "tau": tau, "divergence": divergence}
    loss = losses.build("kd", **setting)
    reference.assert_near(
        lambda s: loss(s, teacher, target),
        lambda s: reference.kd(s, teacher.double(), target, **setting),
        student,
        floor=FLOOR[3.0],
    )


def test_tau_squared_applies_without_cross_entropy(reference):
    student, teacher, target = reference.draw(4, 6)
    at = {tau: losses.build("kd", alpha=0, tau=tau) for tau in (1.0, 2.0)}
    softened = at[2.0](student * 2, teacher * 2, target)
    torch.testing.assert_close(softened, 4 * at[1.0](student, teacher, target))


@pytest.mark.parametrize("divergence", ["forward", "reverse", "js"])
def test_a_student_like_its_teacher_has_no_divergence(reference, divergence):
    _, teacher, target = reference.draw(4, 6, scale=1e4)
    loss = losses.build("kd", alpha=0, divergence=divergence)
    value, gradient = reference.value_and_gradient(lambda s: loss(s, teacher, target), teacher)
    assert abs(value) < 1e-6 and gradient.abs().max() < 1e-6


def test_js_is_symmetric_and_bounded(reference):
    student, teacher, target = reference.draw(4, 6, scale=1e4)
    loss = losses.build("kd", alpha=0, tau=1, divergence="js")
    there, back = loss(student, teacher, target), loss(teacher, student, target)
    torch.testing.assert_close(there, back)
    assert there <= 0.6931472


def test_dist_ignores_affine_changes_of_probabilities_only(reference):
    _, teacher, target = reference.draw(8, 6)
    loss = losses.build("dist", alpha=0)
    assert abs(loss(teacher + 7, teacher, target).item()) < 1e-4
    assert loss(-teacher, teacher, target) > 0.5


def test_dist_of_a_single_sample_has_no_intra_correlation(reference):
    student, teacher, target = reference.draw(1, 6)
    loss = losses.build("dist", alpha=0, beta=0, gamma=1)
    value, gradient = reference.value_and_gradient(lambda s: loss(s, teacher, target), student)
    assert value == 1 and not gradient.any()


@pytest.mark.parametrize("name", ["kd", "dist", "dkd", "pld"])
def test_constant_logits_can_be_standardized(reference, name):
    student, _, target = reference.draw(3, 4)
    loss = losses.build(name, standardization="both")
    flat = torch.full_like(student, 5.0)
    value, gradient = reference.value_and_gradient(lambda s: loss(s, flat, target), flat)
    assert math.isfinite(value)
    assert torch.isfinite(gradient).all()
