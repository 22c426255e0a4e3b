"""The contract of every loss, present or future: these tests run over all that are discovered."""

import dataclasses
import functools
import json
import math
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_losses import REFERENCES, assert_same_loss, draw, value_and_gradient

from pld_grid.train import losses

VARIANTS = [
    losses.build(name, standardization=standardization)
    for name in losses.available()
    for standardization in losses.get_loss_class(name).standardizations
]
every_loss = pytest.mark.parametrize("name", losses.available())
every_variant = pytest.mark.parametrize("loss", VARIANTS, ids=lambda loss: f"{loss.name()}-{loss.standardization}")


@every_loss
def test_loss_class_declares_name_defaults_and_standardizations(name):
    cls = losses.get_loss_class(name)
    loss = losses.build(name)
    assert cls.name() == name and isinstance(loss, cls)
    assert cls.standardizations[0] == loss.standardization == "none"
    assert isinstance(cls.uses_teacher, bool)
    assert cls.__doc__ and not cls.__doc__.startswith(cls.__name__ + "(")
    defaults = cls.defaults()
    assert [field.name for field in dataclasses.fields(cls)] == list(defaults)
    assert json.loads(json.dumps(loss.settings())) == defaults
    assert losses.build(name, **defaults) == loss
    assert hash(losses.build(name, **defaults)) == hash(loss)


@every_loss
def test_loss_attributes_are_frozen(name):
    loss = losses.build(name)
    for attribute in ("standardization", *loss.settings()):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(loss, attribute, getattr(loss, attribute))


@every_loss
def test_loss_equality_compares_hyperparameters_and_standardization(name):
    variants = {loss for loss in VARIANTS if loss.name() == name}
    assert len(variants) == len(losses.get_loss_class(name).standardizations)
    for hyperparameter, default in losses.get_loss_class(name).defaults().items():
        if isinstance(default, float):
            assert losses.build(name, **{hyperparameter: default / 2}) not in variants


@every_variant
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**16), classes=st.integers(2, 12), scale=st.sampled_from([0.1, 3, 1e4]))
def test_loss_of_float32_logits_is_a_finite_float32_scalar(loss, seed, classes, scale):
    batch = draw(5, classes, scale, seed)
    value, gradient = value_and_gradient(loss, *batch)
    assert loss(*batch).shape == ()
    assert loss(*batch).dtype == gradient.dtype == torch.float32
    assert math.isfinite(value)
    assert torch.isfinite(gradient).all()
    # With logits of size 1e4 and the labels ranked first, a gradient may be exactly zero.
    assert scale == 1e4 or gradient.abs().sum() > 0


@every_variant
def test_loss_of_float64_logits_has_the_numerical_gradient(loss):
    student, teacher, target = draw(4, 5, seed=3, double=True)
    student.requires_grad_()
    assert loss(student, teacher, target).dtype == torch.float64
    torch.autograd.gradcheck(lambda s: loss(s, teacher, target), (student,))


@every_variant
def test_loss_is_averaged_over_the_batch(loss):
    student, teacher, target = draw(6, 10, seed=4)
    twice = loss(student.repeat(2, 1), teacher.repeat(2, 1), target.repeat(2))
    torch.testing.assert_close(twice, loss(student, teacher, target), rtol=1e-5, atol=1e-6)


@every_variant
def test_teacher_gets_no_gradient(loss):
    student, teacher, target = draw(4, 6)
    student.requires_grad_()
    teacher.requires_grad_()
    loss(student, teacher, target).backward()
    assert student.grad is not None and teacher.grad is None


@every_variant
def test_gradient_scales_with_the_outer_gradient(loss):
    batch = draw(4, 6)
    _, gradient = value_and_gradient(loss, *batch)
    _, scaled = value_and_gradient(lambda *inputs: 3 * loss(*inputs), *batch)
    torch.testing.assert_close(scaled, 3 * gradient)


@every_variant
def test_autocast_changes_no_bit(loss):
    student, teacher, target = draw(4, 6)
    student, teacher = student.bfloat16(), teacher.bfloat16()
    value, gradient = value_and_gradient(lambda s, t, y: loss(s.float(), t.float(), y), student, teacher, target)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert loss(student, teacher, target).dtype == torch.float32
        autocast_value, autocast_gradient = value_and_gradient(loss, student, teacher, target)
    assert autocast_value == value
    assert torch.equal(autocast_gradient, gradient)


@every_variant
@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_loss_of_a_nan_or_infinite_logit_is_not_finite(loss, poison):
    student, teacher, target = draw(4, 6)
    student[2, (target[2] + 1) % 6] = poison
    assert not math.isfinite(loss(student, teacher, target))


@every_variant
def test_shared_teacher_batch_changes_no_bit(loss):
    student, teacher, target = draw(40, 1000)
    shared = losses.TeacherBatch(teacher, target)
    value, gradient = value_and_gradient(loss, student, teacher, target)
    for _ in range(2):
        shared_value, shared_gradient = value_and_gradient(loss, student, shared, target)
        assert shared_value == value
        assert torch.equal(shared_gradient, gradient)


@every_variant
def test_teacher_logits_of_inference_mode_are_accepted(loss):
    student, teacher, target = draw(4, 6)
    with torch.inference_mode():
        frozen = teacher * 1
    assert value_and_gradient(loss, student, frozen, target)[0] == loss(student, teacher, target).item()


@every_variant
def test_loss_compiles_into_one_graph(loss):
    batch = draw(4, 6)
    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    value, gradient = value_and_gradient(loss, *batch)
    compiled_value, compiled_gradient = value_and_gradient(compiled, *batch)
    assert compiled_value == pytest.approx(value, rel=1e-5)
    torch.testing.assert_close(compiled_gradient, gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="inductor needs a C++ compiler")
@pytest.mark.slow
def test_inductor_code_matches_the_reference():
    torch.compiler.reset()
    compiled = torch.compile(losses.build("pld"), fullgraph=True)
    expected = functools.partial(REFERENCES["pld"], tau=1.0, weights="teacher")
    assert_same_loss(compiled, expected, *draw(4, 50, scale=100, ties=True))


@every_loss
def test_invalid_inputs_raise(name):
    student, teacher, target = draw(4, 6)
    loss = losses.build(name)

    def assert_raises(message, *inputs):
        with pytest.raises(ValueError, match=message):
            loss(*inputs)

    expected = r"student logits must be floating point \(N >= 1, C >= 2\), got "
    assert_raises(expected + r"\(4, 1\) of torch.float32", student[:, :1], teacher[:, :1], torch.zeros_like(target))
    assert_raises(expected + r"\(0, 6\)", student[:0], teacher[:0], target[:0])
    assert_raises(expected + r"\(4, 6\) of torch.int64", student.long(), teacher, target)
    assert_raises(r"target must be 4 integer labels, got \(3,\)", student, teacher, target[:3])
    assert_raises(r"target must be 4 integer labels, got \(4,\) of torch.fl", student, teacher, target.float())
    if not loss.uses_teacher:
        assert loss(student, None, target) == loss(student, teacher, target)
        return
    assert_raises(f'loss "{name}" needs the teacher', student, None, target)
    assert_raises(r"differ in shape: \(4, 5\) and \(4, 6\)", student, teacher[:, :5], target % 5)
    assert_raises("not those of this TeacherBatch", student, losses.TeacherBatch(teacher, target), (target + 1) % 6)
