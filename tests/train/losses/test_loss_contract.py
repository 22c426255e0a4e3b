"""What every loss must do, known or yet to be written: runs over whatever is discovered."""

import dataclasses
import json
import math
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pld_grid.train import losses

VARIANTS = [
    (name, standardization)
    for name in losses.available()
    for standardization in losses.loss_class(name).standardizations
]
every_loss = pytest.mark.parametrize("name", losses.available())
every_variant = pytest.mark.parametrize(("name", "standardization"), VARIANTS)


@every_loss
def test_declares_itself(name):
    cls = losses.loss_class(name)
    loss = losses.build(name)
    assert cls.name() == name and isinstance(loss, cls)
    assert cls.standardizations[0] == loss.standardization == "none"
    assert isinstance(cls.uses_teacher, bool)
    assert cls.__doc__ and not cls.__doc__.startswith(cls.__name__ + "(")
    defaults = {hyperparameter.name: hyperparameter.default for hyperparameter in cls.hyperparameters()}
    assert [field.name for field in dataclasses.fields(cls)] == list(defaults)
    assert json.loads(json.dumps(loss.settings())) == defaults
    assert losses.build(name, **defaults) == loss
    assert hash(losses.build(name, **defaults)) == hash(loss)


@every_loss
def test_is_frozen(name):
    loss = losses.build(name)
    for attribute in ("standardization", *loss.settings()):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(loss, attribute, getattr(loss, attribute))


@every_loss
def test_equality_sees_hyperparameters_and_standardization(name):
    cls = losses.loss_class(name)
    variants = {losses.build(name, standardization=mode) for mode in cls.standardizations}
    assert len(variants) == len(cls.standardizations)
    for hyperparameter in cls.hyperparameters():
        if isinstance(hyperparameter.default, float):
            changed = losses.build(name, **{hyperparameter.name: hyperparameter.default / 2})
            assert changed not in variants


@every_variant
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**16), classes=st.integers(2, 12), scale=st.sampled_from([0.1, 3, 1e4]))
def test_gives_a_finite_float32_scalar_and_gradient(reference, name, standardization, seed, classes, scale):
    student, teacher, target = reference.draw(5, classes, scale, seed)
    loss = losses.build(name, standardization=standardization)
    value, gradient = reference.value_and_gradient(lambda s: loss(s, teacher, target), student)
    assert loss(student, teacher, target).shape == ()
    assert loss(student, teacher, target).dtype == gradient.dtype == torch.float32
    assert math.isfinite(value)
    assert torch.isfinite(gradient).all()
    # With logits of size 1e4 and the labels on top, a gradient may truly be zero.
    assert scale == 1e4 or gradient.abs().sum() > 0


@every_variant
def test_gradient_is_the_numerical_one(reference, name, standardization):
    student, teacher, target = reference.draw(4, 5, seed=3)
    loss = losses.build(name, standardization=standardization)
    student = student.double().requires_grad_()
    assert loss(student, teacher, target).dtype == torch.float64
    torch.autograd.gradcheck(lambda s: loss(s, teacher.double(), target), (student,))


@every_variant
def test_averages_over_the_batch(reference, name, standardization):
    student, teacher, target = reference.draw(6, 10, seed=4)
    loss = losses.build(name, standardization=standardization)
    twice = loss(student.repeat(2, 1), teacher.repeat(2, 1), target.repeat(2))
    torch.testing.assert_close(twice, loss(student, teacher, target), rtol=1e-5, atol=1e-6)


@every_variant
def test_teacher_gets_no_gradient(reference, name, standardization):
    student, teacher, target = reference.draw(4, 6)
    student.requires_grad_()
    teacher.requires_grad_()
    losses.build(name, standardization=standardization)(student, teacher, target).backward()
    assert student.grad is not None and teacher.grad is None


@every_variant
def test_gradient_scales_with_what_follows(reference, name, standardization):
    student, teacher, target = reference.draw(4, 6)
    loss = losses.build(name, standardization=standardization)
    _, one = reference.value_and_gradient(lambda s: loss(s, teacher, target), student)
    _, three = reference.value_and_gradient(lambda s: 3 * loss(s, teacher, target), student)
    torch.testing.assert_close(three, 3 * one)


@every_variant
def test_autocast_changes_nothing(reference, name, standardization):
    student, teacher, target = reference.draw(4, 6)
    student, teacher = student.bfloat16(), teacher.bfloat16()
    loss = losses.build(name, standardization=standardization)
    plain, gradient = reference.value_and_gradient(lambda s: loss(s.float(), teacher.float(), target), student)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(student, teacher, target)
        inside, inside_gradient = reference.value_and_gradient(lambda s: loss(s, teacher, target), student)
    assert value.dtype == torch.float32
    assert value.item() == inside == plain
    assert torch.equal(inside_gradient, gradient)


@every_variant
@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_broken_student_is_never_a_finite_loss(reference, name, standardization, poison):
    student, teacher, target = reference.draw(4, 6)
    student[2, (target[2] + 1) % 6] = poison
    loss = losses.build(name, standardization=standardization)
    assert not math.isfinite(loss(student, teacher, target))


@every_variant
def test_shared_teacher_batch_is_the_same_bit_for_bit(reference, name, standardization):
    student, teacher, target = reference.draw(40, 1000)
    loss = losses.build(name, standardization=standardization)
    shared = losses.TeacherBatch(teacher, target)
    runs = [reference.value_and_gradient(lambda s, t=t: loss(s, t, target), student) for t in (teacher, shared, shared)]
    assert runs[0][0] == runs[1][0] == runs[2][0]
    assert torch.equal(runs[0][1], runs[1][1]) and torch.equal(runs[0][1], runs[2][1])


@every_variant
def test_inference_mode_teacher_can_be_distilled(reference, name, standardization):
    student, teacher, target = reference.draw(4, 6)
    loss = losses.build(name, standardization=standardization)
    with torch.inference_mode():
        frozen = teacher * 1
    value, _ = reference.value_and_gradient(lambda s: loss(s, frozen, target), student)
    assert value == loss(student, teacher, target).item()


@every_variant
def test_compiles_into_one_graph(reference, name, standardization):
    student, teacher, target = reference.draw(4, 6)
    loss = losses.build(name, standardization=standardization)
    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    value, gradient = reference.value_and_gradient(lambda s: loss(s, teacher, target), student)
    got, got_gradient = reference.value_and_gradient(lambda s: compiled(s, teacher, target), student)
    assert got == pytest.approx(value, rel=1e-5)
    torch.testing.assert_close(got_gradient, gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="inductor needs C++")
def test_inductor_code_is_right(reference):
    student, teacher, target = reference.draw(4, 50, scale=100, ties=True)
    loss = losses.build("pld")
    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True)
    reference.assert_near(
        lambda s: compiled(s, teacher, target),
        lambda s: reference.pld(s, teacher.double(), target, 1.0, "teacher"),
        student,
    )


@every_loss
def test_missing_or_misshapen_inputs_are_refused(reference, name):
    student, teacher, target = reference.draw(4, 6)
    loss = losses.build(name)
    with pytest.raises(ValueError, match=r"student logits must be \(N >= 1, C >= 2\), got \(4, 1\)"):
        loss(student[:, :1], teacher[:, :1], torch.zeros_like(target))
    with pytest.raises(ValueError, match=r"got \(0, 6\)"):
        loss(student[:0], teacher[:0], target[:0])
    with pytest.raises(ValueError, match=r"student logits must be floating point, got torch.int64"):
        loss(student.long(), teacher, target)
    with pytest.raises(ValueError, match=r"target must be 4 integer labels, got \(3,\)"):
        loss(student, teacher, target[:3])
    with pytest.raises(ValueError, match=r"target must be 4 integer labels, got \(4,\) of torch.fl"):
        loss(student, teacher, target.float())
    if not loss.uses_teacher:
        assert loss(student, None, target) == loss(student, teacher, target)
        return
    with pytest.raises(ValueError, match=f'loss "{name}" needs the teacher'):
        loss(student, None, target)
    with pytest.raises(ValueError, match=r"differ in shape: \(4, 5\) and \(4, 6\)"):
        loss(student, teacher[:, :5], target % 5)
    with pytest.raises(ValueError, match="not those that this TeacherBatch"):
        loss(student, losses.TeacherBatch(teacher, target), (target + 1) % 6)
