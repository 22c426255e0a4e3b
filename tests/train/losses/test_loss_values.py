"""CE, LS, KD, DIST and DKD against float64 references (DKD and PLD have further tests in their own files)."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_losses import assert_matches_reference, draw, value_and_gradient

from pld_grid.train import losses

SETTINGS = [
    ("ce", {}),
    ("ls", {"eps": 0.2}),
    *[("kd", {"alpha": 0.3, "tau": 3.0, "divergence": divergence}) for divergence in ("forward", "reverse", "js")],
    ("dist", {"alpha": 0.3, "beta": 2.0, "gamma": 0.5, "tau": 1.5}),
    ("dkd", {"ce_weight": 0.5, "alpha": 0.7, "beta": 3.0, "tau": 3.0}),
]
VARIANTS = [
    losses.build(name, standardization=standardization, **hyperparameters)
    for name, hyperparameters in SETTINGS
    for standardization in losses.get_loss_class(name).standardizations
]
# Gradients of log-softmax and of z-scores cancel down from terms as large as the log ratios.
FLOOR = {0.3: 1e-6, 3.0: 1e-6, 100.0: 1e-5, 1e4: 1e-5}
tau = st.floats(0.25, 8)
divergences = pytest.mark.parametrize("divergence", ["forward", "reverse", "js"])


@pytest.mark.parametrize("loss", VARIANTS, ids=str)
@pytest.mark.parametrize(("samples", "classes"), [(6, 2), (5, 10), (3, 1000)])
@pytest.mark.parametrize("scale", FLOOR)
@pytest.mark.parametrize("ties", [False, True])
def test_value_and_gradient_match_the_reference(loss, samples, classes, scale, ties):
    floor = FLOOR[scale] if loss.uses_teacher else 1e-9
    assert_matches_reference(loss, *draw(samples, classes, scale, ties=ties), floor=floor)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    classes=st.integers(2, 9),
    settings=st.fixed_dictionaries(
        {"alpha": st.floats(0, 1), "tau": tau, "divergence": st.sampled_from(["forward", "reverse", "js"])}
    ),
)
def test_kd_with_any_hyperparameters_matches_the_reference(seed, classes, settings):
    assert_matches_reference(losses.build("kd", **settings), *draw(4, classes, 3.0, seed), floor=1e-6)


@given(
    seed=st.integers(0, 2**16),
    classes=st.integers(2, 9),
    settings=st.fixed_dictionaries(
        {"ce_weight": st.floats(0, 10), "alpha": st.floats(0, 10), "beta": st.floats(0, 10), "tau": tau}
    ),
)
def test_dkd_with_any_hyperparameters_matches_the_reference(seed, classes, settings):
    floor = 1e-5 * (1 + settings["tau"] ** 2)
    assert_matches_reference(losses.build("dkd", **settings), *draw(4, classes, 3.0, seed), floor=floor)


def test_kd_without_cross_entropy_scales_with_tau_squared():
    student, teacher, target = draw(4, 6)
    at_one, at_two = (losses.build("kd", alpha=0, tau=tau) for tau in (1.0, 2.0))
    torch.testing.assert_close(at_two(student * 2, teacher * 2, target), 4 * at_one(student, teacher, target))


@divergences
def test_kd_of_a_student_equal_to_its_teacher_is_zero(divergence):
    _, teacher, target = draw(4, 6, scale=1e4)
    value, gradient = value_and_gradient(losses.build("kd", alpha=0, divergence=divergence), teacher, teacher, target)
    assert abs(value) < 1e-6 and gradient.abs().max() < 1e-6


def test_kd_with_js_is_symmetric_and_bounded():
    student, teacher, target = draw(4, 6, scale=1e4)
    loss = losses.build("kd", alpha=0, tau=1, divergence="js")
    torch.testing.assert_close(loss(student, teacher, target), loss(teacher, student, target))
    assert loss(student, teacher, target) <= math.log(2) + 1e-7


def test_dist_is_zero_for_shifted_logits_and_not_for_negated_ones():
    _, teacher, target = draw(8, 6)
    loss = losses.build("dist", alpha=0)
    assert abs(loss(teacher + 7, teacher, target).item()) < 1e-4
    assert loss(-teacher, teacher, target) > 0.5


def test_dist_of_a_single_sample_has_a_constant_intra_term():
    value, gradient = value_and_gradient(losses.build("dist", alpha=0, beta=0, gamma=1), *draw(1, 6))
    assert value == 1 and not gradient.any()


@pytest.mark.parametrize("name", ["kd", "dist", "dkd", "pld"])
def test_standardized_constant_logits_give_a_finite_loss(name):
    constant, target = torch.full((3, 4), 5.0), torch.tensor([0, 3, 1])
    value, gradient = value_and_gradient(losses.build(name, standardization="both"), constant, constant, target)
    assert math.isfinite(value)
    assert torch.isfinite(gradient).all()
