"""The teacher's side of a batch: the ranking, and that every value is computed once."""

import math
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_losses import draw, rank, value_and_gradient

from pld_grid.train import losses
from pld_grid.train.losses import _ranking, _row_blocks, _teacher_batch

TEMPERATURES = (0.5, 1.0, 2.0, 4.0, 8.0)


@pytest.fixture
def count_calls(monkeypatch):
    """Counts the calls of a function of a module."""

    def count(module, name):
        spy = mock.Mock(wraps=getattr(module, name))
        monkeypatch.setattr(module, name, spy)
        return spy

    return count


@pytest.mark.parametrize(("samples", "classes"), [(8, 20), (8, 1000)])
def test_pld_at_five_temperatures_ranks_the_teacher_once(count_calls, samples, classes):
    student, teacher, target = draw(samples, classes)
    rankings, packed = count_calls(_teacher_batch, "rank_classes"), count_calls(_ranking, "_rank_packed")
    shared = losses.TeacherBatch(teacher, target)
    values = {losses.build("pld", tau=tau)(student, shared, target).item() for tau in TEMPERATURES}
    assert len(values) == len(TEMPERATURES)
    assert (rankings.call_count, packed.call_count) == (1, int(classes == 1000))
    for tau in TEMPERATURES:
        losses.build("pld", tau=tau)(student, teacher, target)
    assert rankings.call_count == 1 + len(TEMPERATURES)


@pytest.mark.parametrize("name", ["kd", "dist", "dkd", "pld"])
@pytest.mark.parametrize("standardization", ["none", "both", "teacher"])
def test_a_second_student_computes_no_value_of_the_teacher(name, standardization):
    student, teacher, target = draw(8, 20)
    loss = losses.build(name, standardization=standardization)
    shared = losses.TeacherBatch(teacher, target)
    loss(student, shared, target)
    before = dict(shared._cache)
    loss(student + 1, shared, target)
    assert before and shared._cache.keys() == before.keys()
    assert all(shared._cache[key] is value for key, value in before.items())


@pytest.mark.parametrize("rows", [1, 3, 40])
def test_ranking_in_several_threads_is_the_same(monkeypatch, rows):
    _, teacher, target = draw(40, 1000, ties=True)
    expected = losses.TeacherBatch(teacher, target).ranking()
    monkeypatch.setattr(_ranking, "_MIN_THREADED_LOGITS", 0)
    blocks = [slice(start, start + rows) for start in range(0, 40, rows)]
    monkeypatch.setattr(_ranking, "row_blocks", lambda *_: blocks)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert torch.equal(losses.TeacherBatch(teacher, target).ranking(), expected)


@pytest.mark.parametrize("packed", [False, True])
@settings(max_examples=40, deadline=None)
@given(data=st.data(), classes=st.integers(2, 12))
def test_ranking_is_label_then_descending_logit_then_class_index(packed, data, classes):
    logit = st.one_of(
        st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 3e38, -3e38, math.inf]),
        st.floats(width=32, allow_nan=False),
    )
    rows = data.draw(st.lists(st.lists(logit, min_size=classes, max_size=classes), min_size=1))
    teacher = torch.tensor(rows)
    labels = st.lists(st.integers(0, classes - 1), min_size=len(rows), max_size=len(rows))
    target = torch.tensor(data.draw(labels))
    # Only the packed sort ranks two infinities, one of them the label's.
    teacher = teacher if packed else teacher.clamp(-3.4e38, 3.4e38)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_ranking, "_MIN_PACKED_LOGITS", 0 if packed else math.inf)
        ranking = losses.TeacherBatch(teacher, target).ranking()
    assert ranking.tolist() == [rank(row, int(y)) for row, y in zip(teacher, target, strict=True)]


def test_packed_sort_of_large_batches_gives_the_same_ranking(monkeypatch, count_calls):
    _, teacher, target = draw(40, 1000, ties=True)
    packed_sort = count_calls(_ranking, "_rank_packed")
    packed = losses.TeacherBatch(teacher, target).ranking()
    assert torch.equal(packed, losses.TeacherBatch(teacher.double(), target).ranking())
    monkeypatch.setattr(_ranking, "_MIN_PACKED_LOGITS", math.inf)
    assert torch.equal(packed, losses.TeacherBatch(teacher, target).ranking())
    assert packed_sort.call_count == 1


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(("samples", "classes"), [(1, 5000), (7, 1200), (90, 1001)])
@pytest.mark.parametrize("scale", [1.0, 1e4], ids=["direct", "log space"])
def test_row_blocks_and_threads_change_no_bit(monkeypatch, samples, classes, scale, threads):
    student, teacher, target = draw(samples, classes, scale, ties=True)

    def evaluate():
        batch = losses.TeacherBatch(teacher, target)
        return batch.ranking(), *value_and_gradient(losses.build("pld"), student, batch, target)

    monkeypatch.setattr(_row_blocks, "LOGITS_PER_BLOCK", math.prod(student.shape))
    expected = evaluate()
    monkeypatch.setattr(_row_blocks, "LOGITS_PER_BLOCK", 3000)
    torch.set_num_threads(threads)
    ranking, value, gradient = evaluate()
    assert torch.equal(ranking, expected[0])
    assert value == expected[1]
    assert torch.equal(gradient, expected[2])


@pytest.mark.parametrize("layout", ["transposed", "every other row", "int32 labels", "inference"])
def test_ranking_of_unusual_tensors_is_the_same(layout):
    _, teacher, target = draw(12, 1000, ties=True)
    expected = losses.TeacherBatch(teacher.double(), target).ranking()
    if layout == "transposed":
        teacher = teacher.t().contiguous().t()
    elif layout == "every other row":
        teacher = teacher.repeat_interleave(2, dim=0)[::2]
    elif layout == "int32 labels":
        target = target.int()
    else:
        with torch.inference_mode():
            teacher, target = teacher * 1, target * 1
    assert torch.equal(losses.TeacherBatch(teacher, target).ranking(), expected)


@pytest.mark.parametrize(("samples", "classes"), [(8, 20), (90, 1000)])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("label", [-1, -100, 1000])
def test_ranking_with_a_label_out_of_range_raises(samples, classes, threads, label):
    _, teacher, target = draw(samples, classes)
    target[samples // 2] = label
    torch.set_num_threads(threads)
    with pytest.raises((IndexError, RuntimeError)):
        losses.TeacherBatch(teacher, target).ranking()


@pytest.mark.parametrize(("rows", "classes"), [(1, 2), (5, 10), (2048, 1000), (3, 1 << 20)])
@pytest.mark.parametrize("threads", [1, 2, 64])
def test_row_blocks_cover_every_row_once(rows, classes, threads):
    blocks = _row_blocks.row_blocks(rows, classes, threads)
    assert [row for block in blocks for row in range(rows)[block]] == list(range(rows))
    limit = max(threads * _row_blocks.LOGITS_PER_BLOCK, classes)
    assert all(len(range(rows)[block]) * classes <= limit for block in blocks)


@pytest.mark.parametrize("standardized", [False, True])
def test_cached_values_are_detached_and_consistent(standardized):
    _, teacher, target = draw(6, 9, scale=1e4)
    batch = losses.TeacherBatch(teacher.requires_grad_(), target)
    probability = batch.probabilities(3.0, standardized)
    log_probability = batch.log_probabilities(3.0, standardized)
    torch.testing.assert_close(probability, log_probability.exp())
    torch.testing.assert_close(probability.sum(1), torch.ones(6))
    assert torch.equal(batch.ranking()[:, 0], target)
    assert not any(tensor.requires_grad for tensor in (probability, log_probability, batch.logits(standardized)))


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(torch.bfloat16, torch.float32), (torch.float16, torch.float32), (torch.float64, torch.float64)],
)
def test_values_are_in_float32_or_float64(dtype, expected):
    _, teacher, target = draw(6, 9)
    batch = losses.TeacherBatch(teacher.to(dtype), target)
    assert batch.logits_NC.dtype == batch.probabilities(1.0, False).dtype == expected


def test_equal_labels_in_another_tensor_are_accepted():
    student, teacher, target = draw(6, 9)
    batch = losses.TeacherBatch(teacher, target)
    loss = losses.build("pld")
    assert loss(student, batch, target.clone()) == loss(student, teacher, target)
    assert loss(student, batch, target.int()) == loss(student, teacher, target)


def test_invalid_logits_or_labels_raise():
    _, teacher, target = draw(6, 9)
    for logits in (teacher[0], teacher[:, :1], teacher.long()):
        with pytest.raises(ValueError, match="teacher logits must be floating point"):
            losses.TeacherBatch(logits, target)
    for labels in (target[:2], target.float(), target.unsqueeze(1)):
        with pytest.raises(ValueError, match="target must be 6 integer labels"):
            losses.TeacherBatch(teacher, labels)
