"""The teacher's side of a batch: the ranking, and that nothing is computed twice."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from pld_grid.train import losses
from pld_grid.train.losses import _teacher


class CountCalls(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.calls[function.overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))


def test_one_sort_for_five_temperatures(reference):
    student, teacher, target = reference.draw(8, 20)
    shared = losses.TeacherBatch(teacher, target)
    with CountCalls() as counted:
        for tau in (0.5, 1.0, 2.0, 4.0, 8.0):
            losses.build("pld", tau=tau)(student, shared, target)
    assert counted.calls["sort"] + counted.calls["argsort"] == 1


@pytest.mark.parametrize("name", ["kd", "dist", "pld"])
@pytest.mark.parametrize("standardization", ["none", "both", "teacher"])
def test_a_second_student_computes_nothing_of_the_teacher(reference, name, standardization):
    student, teacher, target = reference.draw(8, 20)
    loss = losses.build(name, standardization=standardization)
    shared = losses.TeacherBatch(teacher, target)
    loss(student, shared, target)
    memory = dict(shared._memory)
    loss(student + 1, shared, target)
    assert memory and shared._memory.keys() == memory.keys()
    assert all(shared._memory[key] is memory[key] for key in memory)


@pytest.mark.parametrize("packed", [False, True])
@settings(max_examples=40, deadline=None)
@given(data=st.data(), classes=st.integers(2, 12))
def test_ranking_is_label_then_descending_then_index(reference, packed, data, classes):
    logit = st.one_of(
        st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 3e38, -3e38, math.inf]),
        st.floats(width=32, allow_nan=False),
    )
    rows = data.draw(st.lists(st.lists(logit, min_size=classes, max_size=classes), min_size=1))
    teacher = torch.tensor(rows)
    labels = st.lists(st.integers(0, classes - 1), min_size=len(rows), max_size=len(rows))
    target = torch.tensor(data.draw(labels))
    # Two infinities, one of them the label's, are no logits; the packed sort takes them anyway.
    teacher = teacher if packed else teacher.clamp(-3.4e38, 3.4e38)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_teacher, "_PACKING_PAYS_FROM", 0 if packed else math.inf)
        ranking = losses.TeacherBatch(teacher, target).ranking()
    wanted = [reference.order_of(row, int(y)) for row, y in zip(teacher, target, strict=True)]
    assert ranking.tolist() == wanted


def test_large_batches_take_the_packed_sort_and_get_the_same(reference, monkeypatch):
    _, teacher, target = reference.draw(40, 1000, ties=True)
    with CountCalls() as counted:
        packed = losses.TeacherBatch(teacher, target).ranking()
    assert counted.calls["bitwise_left_shift_"] == 1
    assert torch.equal(packed, losses.TeacherBatch(teacher.double(), target).ranking())
    monkeypatch.setattr(_teacher, "_PACKING_PAYS_FROM", math.inf)
    assert torch.equal(packed, losses.TeacherBatch(teacher, target).ranking())


@pytest.mark.parametrize("standardized", [False, True])
def test_what_it_holds_is_detached_and_consistent(reference, standardized):
    _, teacher, target = reference.draw(6, 9, scale=1e4)
    batch = losses.TeacherBatch(teacher.requires_grad_(), target)
    probability = batch.probabilities(3.0, standardized)
    log_probability = batch.log_probabilities(3.0, standardized)
    torch.testing.assert_close(probability, log_probability.exp())
    torch.testing.assert_close(probability.sum(1), torch.ones(6))
    ranking = batch.ranking()
    assert torch.equal(ranking[:, 0], target)
    assert torch.equal(batch.ranked_probabilities(3.0, standardized), probability.gather(1, ranking))
    ranked = batch.ranked_log_probabilities(3.0, standardized)
    assert torch.equal(ranked, log_probability.gather(1, ranking))
    centred, norms = batch.centred_probabilities(3.0, standardized, 1)
    torch.testing.assert_close(centred.sum(1), torch.zeros(6), atol=1e-6, rtol=0)
    torch.testing.assert_close(norms, centred.square().sum(1).sqrt())
    kept = (probability, log_probability, centred, batch.logits_NC)
    assert not any(tensor.requires_grad for tensor in kept)


@pytest.mark.parametrize(
    ("given_dtype", "kept"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_working_precision(reference, given_dtype, kept):
    _, teacher, target = reference.draw(6, 9)
    batch = losses.TeacherBatch(teacher.to(given_dtype), target)
    assert batch.logits_NC.dtype == batch.probabilities(1.0, False).dtype == kept


def test_equal_labels_in_another_tensor_are_accepted(reference):
    student, teacher, target = reference.draw(6, 9)
    batch = losses.TeacherBatch(teacher, target)
    loss = losses.build("pld")
    assert loss(student, batch, target.clone()) == loss(student, teacher, target)
    assert loss(student, batch, target.int()) == loss(student, teacher, target)


def test_misfits_are_refused(reference):
    _, teacher, target = reference.draw(6, 9)
    for logits in (teacher[0], teacher[:, :1], teacher.long()):
        with pytest.raises(ValueError, match="teacher logits must be floating point"):
            losses.TeacherBatch(logits, target)
    for labels in (target[:2], target.float(), target.unsqueeze(1)):
        with pytest.raises(ValueError, match="target must be 6 integer labels"):
            losses.TeacherBatch(teacher, labels)
