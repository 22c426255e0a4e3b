"""The teacher's side of a batch: the ranking, and that nothing is computed twice."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from pld_grid.train import losses
from pld_grid.train.losses import _ranking, _rows, _teacher


class CountCalls(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.calls[function.overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))


@pytest.fixture
def ranked(monkeypatch):
    """Counts the rankings, and those of them that take the packed sort."""
    calls = Counter(rank=0, _rank_packed=0)

    def count(module, name):
        original = getattr(module, name)

        def counted(*given):
            calls[name] += 1
            return original(*given)

        monkeypatch.setattr(module, name, counted)

    count(_teacher, "rank")
    count(_ranking, "_rank_packed")
    return calls


TEMPERATURES = (0.5, 1.0, 2.0, 4.0, 8.0)


def test_one_sort_for_five_temperatures(reference):
    student, teacher, target = reference.draw(8, 20)
    shared = losses.TeacherBatch(teacher, target)
    with CountCalls() as counted:
        for tau in TEMPERATURES:
            losses.build("pld", tau=tau)(student, shared, target)
    assert counted.calls["sort"] + counted.calls["argsort"] == 1


@pytest.mark.parametrize(("samples", "classes"), [(8, 20), (8, 1000)])
def test_five_temperatures_rank_once(reference, ranked, samples, classes):
    student, teacher, target = reference.draw(samples, classes)
    shared = losses.TeacherBatch(teacher, target)
    values = {losses.build("pld", tau=tau)(student, shared, target).item() for tau in TEMPERATURES}
    assert len(values) == len(TEMPERATURES)
    assert ranked == {"rank": 1, "_rank_packed": int(classes == 1000)}
    for tau in TEMPERATURES:
        losses.build("pld", tau=tau)(student, teacher, target)
    assert ranked["rank"] == 1 + len(TEMPERATURES)


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


@pytest.mark.parametrize("rows", [1, 3, 40])
def test_ranking_by_several_threads_is_the_same(reference, monkeypatch, rows):
    _, teacher, target = reference.draw(40, 1000, ties=True)
    alone = losses.TeacherBatch(teacher, target).ranking()
    monkeypatch.setattr(_ranking, "_THREADS_PAY_FROM", 0)
    blocks = [slice(start, start + rows) for start in range(0, 40, rows)]
    monkeypatch.setattr(_ranking, "row_blocks", lambda *_: blocks)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert torch.equal(alone, losses.TeacherBatch(teacher, target).ranking())


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
        patch.setattr(_ranking, "_PACKING_PAYS_FROM", 0 if packed else math.inf)
        ranking = losses.TeacherBatch(teacher, target).ranking()
    wanted = [reference.order_of(row, int(y)) for row, y in zip(teacher, target, strict=True)]
    assert ranking.tolist() == wanted


def test_large_batches_take_the_packed_sort_and_get_the_same(reference, monkeypatch, ranked):
    _, teacher, target = reference.draw(40, 1000, ties=True)
    packed = losses.TeacherBatch(teacher, target).ranking()
    assert ranked["_rank_packed"] == 1
    assert torch.equal(packed, losses.TeacherBatch(teacher.double(), target).ranking())
    monkeypatch.setattr(_ranking, "_PACKING_PAYS_FROM", math.inf)
    assert torch.equal(packed, losses.TeacherBatch(teacher, target).ranking())
    assert ranked["_rank_packed"] == 1


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(("samples", "classes"), [(1, 5000), (7, 1200), (90, 1001)])
@pytest.mark.parametrize("scale", [1.0, 1e4])  # both of PLD's ways of summing
def test_neither_blocks_of_rows_nor_threads_change_a_bit(reference, monkeypatch, samples, classes, scale, threads):
    student, teacher, target = reference.draw(samples, classes, scale, ties=True)

    def run():
        batch = losses.TeacherBatch(teacher, target)
        return batch.ranking(), *reference.value_and_gradient(lambda s: losses.build("pld")(s, batch, target), student)

    monkeypatch.setattr(_rows, "LOGITS_AT_ONCE", math.prod(student.shape))
    ranking, value, gradient = run()
    monkeypatch.setattr(_rows, "LOGITS_AT_ONCE", 3000)
    torch.set_num_threads(threads)
    got_ranking, got_value, got_gradient = run()
    assert torch.equal(got_ranking, ranking)
    assert got_value == value
    assert torch.equal(got_gradient, gradient)


@pytest.mark.parametrize("layout", ["transposed", "every other row", "int32 labels", "inference"])
def test_ranking_of_unusual_tensors(reference, layout):
    _, teacher, target = reference.draw(12, 1000, ties=True)
    wanted = losses.TeacherBatch(teacher.double(), target).ranking()
    if layout == "transposed":
        teacher = teacher.t().contiguous().t()
    elif layout == "every other row":
        teacher = teacher.repeat_interleave(2, dim=0)[::2]
    elif layout == "int32 labels":
        target = target.int()
    else:
        with torch.inference_mode():
            teacher, target = teacher * 1, target * 1
    assert torch.equal(losses.TeacherBatch(teacher, target).ranking(), wanted)


@pytest.mark.parametrize(("samples", "classes"), [(8, 20), (90, 1000)])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("wrong", [-1, -100, 1000])
def test_labels_out_of_range_are_never_ranked(reference, samples, classes, threads, wrong):
    _, teacher, target = reference.draw(samples, classes)
    target[samples // 2] = wrong
    torch.set_num_threads(threads)
    with pytest.raises((IndexError, RuntimeError)):
        losses.TeacherBatch(teacher, target).ranking()


@pytest.mark.parametrize(("rows", "classes"), [(1, 2), (5, 10), (2048, 1000), (3, 1 << 20)])
@pytest.mark.parametrize("threads", [1, 2, 64])
def test_row_blocks_cover_every_row_once(rows, classes, threads):
    blocks = _rows.row_blocks(rows, classes, threads)
    assert [row for block in blocks for row in range(rows)[block]] == list(range(rows))
    assert all(len(range(rows)[block]) * classes <= max(threads * _rows.LOGITS_AT_ONCE, classes) for block in blocks)


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
