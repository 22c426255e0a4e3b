"""The training loop: the same numbers alone, in a cohort and after an interruption; one bad cell harms no other."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from trainable_cells import RESNET, Interruption, distilled, interrupt_at, numbers, train, train_one, trainable

from pld_grid.experiment.cell import Cell, Model, Optimizer, Pretrained
from pld_grid.experiment.events import CellDiverged, CellStarted, EpochCompleted, Event
from pld_grid.experiment.machine import MachineSettings
from pld_grid.store import Manifest, Receipt, Store
from pld_grid.store.claims import Claims
from pld_grid.train import data, losses, models
from pld_grid.train.models import build_model, normalize_for
from pld_grid.train.student import Student
from pld_grid.util.errors import StoreError

Alone = Callable[[Cell], list[object]]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Alone:
    """Return the numbers of a cell that trains alone and undisturbed; each cell trains once."""
    known: dict[str, list[object]] = {}

    def train_alone(cell: Cell) -> list[object]:
        if cell.cell_id not in known:
            known[cell.cell_id] = numbers(train_one(tmp_path_factory.mktemp("alone"), cell))
        return known[cell.cell_id]

    return train_alone


def assert_failed(folder: Path, cell: Cell, epochs: int, message: str) -> None:
    """Assert that a cell failed after some epochs with a reason that has this text."""
    record = Store(folder).record(cell.cell_id)
    assert (record.state, len(record.epochs)) == ("failed", epochs)
    assert message in record.reason


COHORT = [
    distilled("kd"),
    distilled("dist"),
    distilled("pld"),
    distilled("kd", hyperparameters={"divergence": "js"}, standardization="both"),
    distilled("pld", standardization="teacher", optimizer=Optimizer(name="lamb", learning_rate=5e-3)),
    trainable("ce"),
    trainable("ls", student=RESNET, optimizer=Optimizer(name="adan", learning_rate=2e-3)),
]


def test_cohort_in_any_order_gives_numbers_of_each_cell_alone(tmp_path, alone):
    for folder, cells in (("forward", COHORT), ("backward", COHORT[::-1])):
        receipts = train(tmp_path / folder, *cells)
        assert [numbers(receipts[cell.cell_id]) for cell in COHORT] == [alone(cell) for cell in COHORT]
    # Only a student with a teacher has a divergence from it.
    for receipt in receipts.values():
        assert ("kl_teacher_student" in receipt.metrics) == (receipt.cell.teacher is not None)


# After epoch 3 of 3, only the receipt is missing.
@pytest.mark.parametrize(("cell", "epoch"), [(COHORT[0], 1), (COHORT[0], 3), (COHORT[4], 2)], ids=["1", "3", "lamb-2"])
def test_interrupted_cell_resumes_with_the_same_numbers(tmp_path, alone, cell, epoch):
    with pytest.raises(Interruption):
        train(tmp_path, cell, on_event=interrupt_at(EpochCompleted, epoch))
    record = Store(tmp_path).record(cell.cell_id)
    assert (record.state, len(record.epochs)) == ("unfinished", epoch)
    events: list[Event] = []
    assert numbers(train_one(tmp_path, cell, on_event=events.append)) == alone(cell)
    assert events[0] == CellStarted(cell.cell_id, epoch)
    assert [e.epoch for e in events if isinstance(e, EpochCompleted)] == list(range(epoch + 1, cell.epochs + 1))


def test_resumed_student_joins_new_ones_with_the_same_numbers(tmp_path, alone):
    resumed, new, short = COHORT[0], COHORT[2], distilled("kd", epochs=1)
    with pytest.raises(Interruption):
        train(tmp_path, resumed, on_event=interrupt_at(EpochCompleted, 2))
    receipts = train(tmp_path, resumed, new, short)
    for cell in (resumed, new, short):
        assert numbers(receipts[cell.cell_id]) == alone(cell)


def test_checkpoint_every_two_epochs_saves_the_second_and_the_last(tmp_path, alone):
    events: list[Event] = []
    receipt = train_one(tmp_path, COHORT[0], machine=MachineSettings(checkpoint_every=2), on_event=events.append)
    assert numbers(receipt) == alone(COHORT[0])
    assert [event.epoch for event in events if isinstance(event, EpochCompleted)] == [2, 3]


def test_finished_cell_is_not_trained_again(tmp_path):
    cell = trainable("ce", epochs=1)
    receipt = train_one(tmp_path, cell)
    events: list[Event] = []
    assert train_one(tmp_path, cell, on_event=events.append) == receipt
    assert events == []


def test_metrics_are_those_of_the_stored_weights_over_the_whole_validation_set(tmp_path):
    cell = distilled("pld")
    receipt = train_one(tmp_path, cell)
    split = data.load(cell.dataset, cell.recipe).validation
    pixels, target = split.batch(np.arange(len(split)), 0, 0)

    def compute_logits(trained: Cell | None) -> torch.Tensor:
        model = build_model(trained.student, trained.dataset, trained.seed)
        model.load_state_dict(safetensors.torch.load(Store(tmp_path).read_weights(trained)))
        model.eval()
        with torch.no_grad():
            return model(normalize_for(trained)(pixels)).double()

    student, teacher = compute_logits(cell), compute_logits(cell.teacher)
    order = student.argsort(dim=1, descending=True)
    q_s, q_t = student.softmax(1), teacher.softmax(1)
    expected = {
        "top1": 100 * (order[:, 0] == target).double().mean().item(),
        "top5": 100 * (order[:, :5] == target[:, None]).any(1).double().mean().item(),
        "kl_teacher_student": (q_t * (q_t.log() - q_s.log())).sum(1).mean().item(),
        "kl_student_teacher": (q_s * (q_s.log() - q_t.log())).sum(1).mean().item(),
        "best_top1": max(record.metrics["top1"] for record in receipt.epochs),
    }
    assert {name: receipt.metrics[name] for name in expected} == pytest.approx(expected, rel=1e-4)
    assert receipt.epochs[-1].metrics["train_loss"] < receipt.epochs[0].metrics["train_loss"]
    assert receipt.parameters == sum(p.numel() for p in build_model(cell.student, cell.dataset, 0).parameters())
    assert [record.epoch for record in receipt.epochs] == [1, 2, 3]


def test_diverged_student_leaves_and_the_others_keep_their_numbers(tmp_path, alone):
    diverging = distilled("kd", optimizer=Optimizer(name="adamw", learning_rate=1e30))
    events: list[Event] = []
    receipts = train(tmp_path, COHORT[0], diverging, COHORT[2], on_event=events.append)
    receipt = receipts[diverging.cell_id]
    assert receipt.state == "diverged"
    assert "epoch 1, step" in receipt.reason
    assert [event.reason for event in events if isinstance(event, CellDiverged)] == [receipt.reason]
    for cell in (COHORT[0], COHORT[2]):
        assert numbers(receipts[cell.cell_id]) == alone(cell)


INFINITE_LOGITS = "the validation logits were not finite after epoch 1"


@pytest.mark.parametrize(
    ("speed", "reason"),
    [
        (-1e120, "images_per_second was -1e+120 after epoch 1"),
        (float("nan"), "images_per_second was nan after epoch 1"),
        (None, INFINITE_LOGITS),
    ],
)
def test_student_with_bad_metric_has_diverged_alone(tmp_path, monkeypatch, speed, reason):
    diverging, other = distilled("dist", epochs=1), distilled("kd", epochs=1)
    validate, end_epoch = Student.validate, Student.end_epoch

    def overflow(self: Student, pixels: torch.Tensor, target: torch.Tensor, teacher: torch.Tensor | None) -> None:
        if self.cell == diverging and speed is None:
            self.validation_metrics.update(torch.full((len(target), 10), torch.inf), target, teacher)
        else:
            validate(self, pixels, target, teacher)

    def end(self: Student, images_per_second: float) -> object:
        return end_epoch(self, images_per_second if speed is None or self.cell == other else speed)

    monkeypatch.setattr(Student, "validate", overflow)
    monkeypatch.setattr(Student, "end_epoch", end)
    receipts = train(tmp_path, diverging, other)
    ends = [(receipt.state, receipt.reason) for receipt in receipts.values() if receipt is not None]
    assert ends == [("diverged", reason), ("finished", "")]


def test_store_error_of_one_cell_fails_that_cell_alone(tmp_path, alone, monkeypatch):
    save, finish = Store.save_checkpoint, Claims.finish
    unsaved, sound, unfinished = distilled("dist", epochs=2), *COHORT[:2]

    def failing_save(store: Store, manifest: Manifest, payload: bytes) -> None:
        if manifest.cell_id == unsaved.cell_id and manifest.epoch == 2:
            raise StoreError("the server is overloaded")
        save(store, manifest, payload)

    def failing_finish(claims: Claims, receipt: Receipt) -> None:
        if receipt.cell == unfinished:
            raise StoreError("the server is down")
        finish(claims, receipt)

    monkeypatch.setattr(Store, "save_checkpoint", failing_save)
    monkeypatch.setattr(Claims, "finish", failing_finish)
    receipts = train(tmp_path, unsaved, sound, unfinished)
    assert [cell_id for cell_id, receipt in receipts.items() if receipt is not None] == [sound.cell_id]
    assert numbers(receipts[sound.cell_id]) == alone(sound)
    assert_failed(tmp_path, unsaved, 1, "StoreError: the server is overloaded")
    assert_failed(tmp_path, unfinished, 3, "StoreError: the server is down")
    monkeypatch.undo()
    assert numbers(train(tmp_path, unsaved, unfinished)[unfinished.cell_id]) == alone(unfinished)


def test_cell_whose_own_code_raises_fails_alone(tmp_path, alone, monkeypatch):
    impossible = distilled("kd", student=Model(architecture="test_vit", options={"img_size": 8, "patch_size": 5}))
    raising = distilled("dist", epochs=2)
    build = losses.build

    def build_raising(name: str, **settings: object) -> object:
        def explode(*_: object) -> torch.Tensor:
            raise RuntimeError("no such correlation")

        explode.uses_teacher = True  # type: ignore[attr-defined]
        return build(name, **settings) if name != "dist" else explode

    monkeypatch.setattr(losses, "build", build_raising)
    receipts = train(tmp_path, impossible, COHORT[0], raising)
    assert numbers(receipts[COHORT[0].cell_id]) == alone(COHORT[0])
    assert_failed(tmp_path, impossible, 0, "AssertionError")
    assert_failed(tmp_path, raising, 0, "RuntimeError: no such correlation (test_cohort.py:")


def test_published_weights_are_measured_with_their_own_normalization(tmp_path, monkeypatch):
    create = models.timm.create_model
    names: list[str] = []

    def create_without_download(name: str, pretrained: bool, **options: object) -> torch.nn.Module:
        names.append(name)
        return create(name.partition(".")[0], pretrained=False, **options)

    monkeypatch.setattr(models.timm, "create_model", create_without_download)
    monkeypatch.setattr(models, "required_weights", lambda *_: tmp_path / "nowhere.safetensors")
    published = Model(architecture="test_resnet", pretrained=Pretrained(tag="r160_in1k", mean=(0.5,), std=(0.5,)))
    cell = trainable("ce", student=published, epochs=0)
    receipt = train_one(tmp_path, cell)
    assert names == ["test_resnet.r160_in1k"]
    assert [record.epoch for record in receipt.epochs] == [0]
    assert set(receipt.metrics) == {"top1", "top5", "best_top1", "best_epoch"}
    assert normalize_for(cell)(torch.tensor([[[[255]]]], dtype=torch.uint8)).item() == pytest.approx(1.0)
    assert train_one(tmp_path, distilled("kd", teacher=cell, epochs=1)).state == "finished"


def test_gradient_accumulation_makes_the_step_of_the_whole_batch(tmp_path):
    # A model without batch statistics, and a loss that is a plain mean over the batch.
    plain = Model(architecture="test_vit", options={"img_size": 8, "patch_size": 4, "depth": 1})
    halves = trainable("ce", student=plain, epochs=1)
    recipe = halves.recipe.model_copy(update={"micro_batch_size": halves.recipe.batch_size})
    cells = (halves, halves.model_copy(update={"recipe": recipe}))
    one, other = (train_one(tmp_path, cell).metrics["train_loss"] for cell in cells)
    assert one == pytest.approx(other, rel=1e-4)
    weights, others = (safetensors.torch.load(Store(tmp_path).read_weights(cell)) for cell in cells)
    for name, weight in weights.items():
        torch.testing.assert_close(weight, others[name], rtol=1e-2, atol=2e-4)


def test_cells_that_share_no_batches_or_teacher_are_refused(tmp_path):
    with pytest.raises(ValueError, match="same batches"):
        train(tmp_path, trainable("ce"), trainable("ce", seed=1))
    other = trainable("ls", student=RESNET, epochs=1)
    with pytest.raises(ValueError, match="share one teacher"):
        train(tmp_path, distilled("kd"), distilled("kd", teacher=other))


def test_training_set_smaller_than_a_batch_is_refused(tmp_path):
    recipe = trainable("ce").recipe.model_copy(update={"batch_size": 1800})
    with pytest.raises(data.DataError, match="do not fill one batch of 1800"):
        train(tmp_path, trainable("ce", recipe=recipe))


def test_checkpoints_hold_no_code_and_are_removed_after_the_receipt(tmp_path):
    cell = trainable("ce", epochs=2)
    with pytest.raises(Interruption):
        train(tmp_path, cell, on_event=interrupt_at(EpochCompleted, 1))
    checkpoint = Store(tmp_path).load_checkpoint(cell)
    assert set(torch.load(io.BytesIO(checkpoint[1]), weights_only=True)) == {"model", "optimizer", "scaler"}
    train(tmp_path, cell)
    names = {path.name for path in (tmp_path / cell.cell_id).iterdir()}
    assert names == {"cell.json", "claims", "receipt.json", "weights.safetensors"}
    assert json.loads((tmp_path / cell.cell_id / "cell.json").read_text())["loss"]["name"] == "ce"


def test_mixed_precision_trains_nearly_as_full_precision(tmp_path):
    # No convolutions: torch 2.15's bfloat16 convolutions on a CPU sometimes give NaN gradients.
    teacher = trainable("ce", epochs=1)
    recipe = teacher.recipe.model_copy(update={"precision": "bfloat16"})
    exact = train_one(tmp_path, distilled("pld", epochs=1, teacher=teacher)).metrics["train_loss"]
    mixed_teacher = teacher.model_copy(update={"recipe": recipe})
    mixed = train_one(tmp_path, distilled("pld", epochs=1, teacher=mixed_teacher, recipe=recipe)).metrics["train_loss"]
    assert mixed == pytest.approx(exact, rel=0.02)
    assert mixed != exact


def test_channels_last_changes_numbers_by_rounding_alone(tmp_path):
    cell = distilled("pld", epochs=1, student=RESNET)
    plain, last = (
        train_one(tmp_path / str(flag), cell, machine=MachineSettings(channels_last=flag)).metrics["train_loss"]
        for flag in (False, True)
    )
    assert last == pytest.approx(plain, rel=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cohort_trains_on_a_gpu(tmp_path):
    receipts = train(tmp_path, *COHORT, machine=MachineSettings(gpus_per_cohort=1))
    assert all(receipt is not None and receipt.state == "finished" for receipt in receipts.values())
