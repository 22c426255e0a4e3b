"""The training loop: the same numbers alone, in a cohort and after an interruption; one bad cell harms no other."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from trainable import (
    RESNET,
    Interruption,
    distilled,
    interrupt_at,
    numbers,
    train,
    trainable,
)

from pld_grid.errors import StoreError
from pld_grid.events import Event
from pld_grid.machine import MachineSettings
from pld_grid.spec import Cell, Loss, Model, Optimizer, Pretrained
from pld_grid.store import Manifest, Receipt, Store
from pld_grid.store.claims import Claims
from pld_grid.train import data, losses, models
from pld_grid.train.models import build_model, normalize_for
from pld_grid.train.student import Student


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """The numbers of a cell that trained alone and undisturbed, remembered."""
    known: dict[str, list[object]] = {}

    def get(cell: Cell) -> list[object]:
        if cell.cell_id not in known:
            folder = tmp_path_factory.mktemp("alone")
            known[cell.cell_id] = numbers(train(folder, cell)[cell.cell_id])
        return known[cell.cell_id]

    return get


COHORT = [
    distilled("kd"),
    distilled("dist"),
    distilled("pld"),
    distilled("kd", hyperparameters={"divergence": "js"}, standardization="both"),
    distilled("pld", standardization="teacher", optimizer=Optimizer(name="lamb", learning_rate=5e-3)),
    trainable("ce"),
    trainable("ls", student=RESNET, optimizer=Optimizer(name="adan", learning_rate=2e-3)),
]


def test_numbers_are_the_same_in_a_cohort_as_alone(tmp_path: Path, alone) -> None:  # type: ignore[no-untyped-def]
    together = train(tmp_path, *COHORT)
    for cell in COHORT:
        assert numbers(together[cell.cell_id]) == alone(cell)
    again = train(tmp_path / "reversed", *reversed(COHORT))
    assert [numbers(again[c.cell_id]) for c in COHORT] == [numbers(together[c.cell_id]) for c in COHORT]


@pytest.mark.parametrize("epoch", [1, 2])
@pytest.mark.parametrize("cell", [COHORT[0], COHORT[4]], ids=["kd-adamw", "pld-lamb"])
def test_numbers_are_the_same_after_an_interruption(tmp_path: Path, alone, cell: Cell, epoch: int) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(Interruption):
        train(tmp_path, cell, listener=interrupt_at("epoch", epoch))
    progress = Store(tmp_path).progress(cell.cell_id)
    assert progress is not None
    assert (progress.state, len(progress.epochs)) == ("unfinished", epoch)
    resumed: list[Event] = []
    receipt = train(tmp_path, cell, listener=resumed.append)[cell.cell_id]
    assert numbers(receipt) == alone(cell)
    assert next((e.kind, e.epoch) for e in resumed) == ("started", epoch)
    assert [e.epoch for e in resumed if e.kind == "epoch"] == list(range(epoch + 1, cell.epochs + 1))


def test_a_resumed_student_joins_new_ones_with_the_same_numbers(tmp_path: Path, alone) -> None:  # type: ignore[no-untyped-def]
    old, new = COHORT[0], COHORT[2]
    with pytest.raises(Interruption):
        train(tmp_path, old, listener=interrupt_at("epoch", 2))
    together = train(tmp_path, old, new)
    assert numbers(together[old.cell_id]) == alone(old)
    assert numbers(together[new.cell_id]) == alone(new)


def test_students_of_different_length_share_a_cohort(tmp_path: Path, alone) -> None:  # type: ignore[no-untyped-def]
    short, long = distilled("kd", epochs=1), distilled("kd", epochs=2)
    together = train(tmp_path, short, long)
    assert numbers(together[short.cell_id]) == alone(short)
    assert numbers(together[long.cell_id]) == alone(long)


def test_an_interruption_between_the_last_epoch_and_the_receipt_loses_nothing(tmp_path: Path, alone) -> None:  # type: ignore[no-untyped-def]
    cell = COHORT[0]
    with pytest.raises(Interruption):
        train(tmp_path, cell, listener=interrupt_at("epoch", cell.epochs))
    assert numbers(train(tmp_path, cell)[cell.cell_id]) == alone(cell)


def test_checkpoint_every_costs_at_most_one_interval_and_changes_no_number(tmp_path: Path, alone) -> None:  # type: ignore[no-untyped-def]
    cell, machine = COHORT[0], MachineSettings(checkpoint_every=2)
    heard: list[Event] = []
    receipt = train(tmp_path, cell, machine=machine, listener=heard.append)[cell.cell_id]
    assert numbers(receipt) == alone(cell)
    assert [e.epoch for e in heard if e.kind == "epoch"] == [2, 3]


def test_a_finished_cell_is_not_trained_again(tmp_path: Path) -> None:
    cell = trainable("ce", epochs=1)
    first = train(tmp_path, cell)[cell.cell_id]
    heard: list[Event] = []
    assert train(tmp_path, cell, listener=heard.append)[cell.cell_id] == first
    assert heard == []


def test_losses_under_one_seed_start_alike_and_seeds_differ() -> None:
    def start(cell: Cell) -> dict[str, torch.Tensor]:
        return build_model(cell.student, cell.dataset, cell.seed).state_dict()

    kd, ce, other = start(distilled("kd")), start(trainable("ce")), start(trainable("ce", seed=1))
    assert all(torch.equal(kd[name], ce[name]) for name in kd)
    assert not all(torch.equal(kd[name], other[name]) for name in kd)


def test_metrics_are_those_of_the_stored_weights_over_the_whole_validation_set(tmp_path: Path) -> None:
    cell = distilled("pld")
    receipt = train(tmp_path, cell)[cell.cell_id]
    assert receipt is not None
    store = Store(tmp_path)

    def logits_of(trained: Cell, pixels: torch.Tensor) -> torch.Tensor:
        model = build_model(trained.student, trained.dataset, trained.seed)
        model.load_state_dict(safetensors.torch.load(store.weights_of(trained)))
        model.eval()
        with torch.no_grad():
            return model(normalize_for(trained)(pixels)).double()

    split = data.load(cell.dataset, cell.recipe).validation
    pixels, target = split.batch(np.arange(len(split)), 0, 0)
    student, taught = logits_of(cell, pixels), logits_of(cell.teacher, pixels)
    assert cell.teacher is not None
    order = student.argsort(dim=1, descending=True)
    assert receipt.metrics["top1"] == pytest.approx(100 * (order[:, 0] == target).double().mean().item())
    assert receipt.metrics["top5"] == pytest.approx(
        100 * (order[:, :5] == target[:, None]).any(1).double().mean().item()
    )
    q_s, q_t = student.softmax(1), taught.softmax(1)
    forward = (q_t * (q_t.log() - q_s.log())).sum(1).mean().item()
    reverse = (q_s * (q_s.log() - q_t.log())).sum(1).mean().item()
    assert receipt.metrics["kl_teacher_student"] == pytest.approx(forward, rel=1e-4)
    assert receipt.metrics["kl_student_teacher"] == pytest.approx(reverse, rel=1e-4)
    assert receipt.epochs[-1].metrics["train_loss"] < receipt.epochs[0].metrics["train_loss"]
    assert receipt.metrics["best_top1"] == max(r.metrics["top1"] for r in receipt.epochs)
    assert receipt.parameters == sum(p.numel() for p in build_model(cell.student, cell.dataset, 0).parameters())
    assert [r.epoch for r in receipt.epochs] == [1, 2, 3]


def test_a_student_without_a_teacher_has_no_divergence(tmp_path: Path) -> None:
    cells = (trainable("ce", epochs=1), distilled("kd", epochs=1))
    receipts = train(tmp_path, *cells)
    alone, taught = (receipts[cell.cell_id] for cell in cells)
    assert alone is not None
    assert taught is not None
    assert "kl_teacher_student" not in alone.metrics
    assert "kl_teacher_student" in taught.metrics


def test_a_diverged_student_leaves_and_the_others_do_not_notice(tmp_path: Path, alone) -> None:  # type: ignore[no-untyped-def]
    bad = distilled("kd", optimizer=Optimizer(name="adamw", learning_rate=1e30))
    heard: list[Event] = []
    together = train(tmp_path, COHORT[0], bad, COHORT[2], listener=heard.append)
    receipt = together[bad.cell_id]
    assert receipt is not None
    assert receipt.state == "diverged"
    assert "epoch 1, step" in receipt.reason
    assert [e.reason for e in heard if e.kind == "diverged"] == [receipt.reason]
    for cell in (COHORT[0], COHORT[2]):
        assert numbers(together[cell.cell_id]) == alone(cell)


def test_a_student_whose_validation_is_not_finite_has_diverged_too(
    tmp_path: Path,
    alone,
    monkeypatch: pytest.MonkeyPatch,  # type: ignore[no-untyped-def]
) -> None:
    bad = distilled("dist")
    validate = Student.validate

    def overflowing(self: Student, pixels: torch.Tensor, target: torch.Tensor, teacher: torch.Tensor | None) -> None:
        if self.cell == bad:
            self.validation_metrics.update(torch.full((len(target), 10), torch.inf), target, teacher)
        else:
            validate(self, pixels, target, teacher)

    monkeypatch.setattr(Student, "validate", overflowing)
    together = train(tmp_path, COHORT[0], bad)
    receipt = together[bad.cell_id]
    assert receipt is not None
    assert (receipt.state, receipt.reason) == ("diverged", "the validation logits were not finite after epoch 1")
    assert numbers(together[COHORT[0].cell_id]) == alone(COHORT[0])


@pytest.mark.parametrize(("value", "shown"), [(-1e120, "-1e+120"), (float("nan"), "nan"), (float("inf"), "inf")])
def test_a_metric_that_no_receipt_may_have_is_a_divergence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float, shown: str
) -> None:
    bad, good = distilled("kd", epochs=1), distilled("dist", epochs=1)
    end = Student.end_epoch
    monkeypatch.setattr(Student, "end_epoch", lambda s, speed: end(s, value if s.cell == bad else speed))
    together = train(tmp_path, bad, good)
    receipt, other = together[bad.cell_id], together[good.cell_id]
    assert receipt is not None
    assert (receipt.state, receipt.reason) == ("diverged", f"images_per_second was {shown} after epoch 1")
    assert other is not None
    assert other.state == "finished"


def test_a_store_that_fails_for_one_cell_fails_that_cell_alone(
    tmp_path: Path, alone, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    save, finish, kept = Store.save_checkpoint, Claims.finish, distilled("dist", epochs=2)

    def failing(store: Store, manifest: Manifest, payload: bytes) -> None:
        if manifest.cell_id == kept.cell_id and manifest.epoch == 2:
            raise StoreError("the server takes a break")
        save(store, manifest, payload)

    def lost(claims: Claims, receipt: Receipt) -> None:
        if receipt.cell == COHORT[1]:
            raise StoreError("the server has gone")
        finish(claims, receipt)

    monkeypatch.setattr(Store, "save_checkpoint", failing)
    monkeypatch.setattr(Claims, "finish", lost)
    together = train(tmp_path, kept, *COHORT[:2])
    assert [cell.cell_id for cell in (kept, *COHORT[:2]) if together[cell.cell_id] is not None] == [COHORT[0].cell_id]
    assert numbers(together[COHORT[0].cell_id]) == alone(COHORT[0])
    store = Store(tmp_path)
    for cell, epochs, message in (
        (kept, 1, "StoreError: the server takes"),
        (COHORT[1], 3, "StoreError: the server has"),
    ):
        progress = store.progress(cell.cell_id)
        assert progress is not None
        assert (progress.state, len(progress.epochs)) == ("failed", epochs)
        assert message in progress.reason
    # They go on where they stood.
    monkeypatch.undo()
    again = train(tmp_path, kept, *COHORT[:2])
    assert numbers(again[COHORT[1].cell_id]) == alone(COHORT[1])


def test_a_cell_whose_own_code_raises_fails_alone(tmp_path: Path, alone, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    impossible = distilled("kd", student=Model(architecture="test_vit", options={"img_size": 8, "patch_size": 5}))
    raising = distilled("dist", epochs=2)
    build = losses.build

    def build_raising(name: str, **settings: object) -> object:
        if name != "dist":
            return build(name, **settings)

        def explode(*_: object) -> torch.Tensor:
            raise RuntimeError("no such correlation")

        explode.uses_teacher = True  # type: ignore[attr-defined]
        return explode

    monkeypatch.setattr(losses, "build", build_raising)
    together = train(tmp_path, impossible, COHORT[0], raising)
    assert numbers(together[COHORT[0].cell_id]) == alone(COHORT[0])
    store = Store(tmp_path)
    for cell, message in (
        (impossible, "AssertionError"),
        (raising, "RuntimeError: no such correlation (test_cohort.py:"),
    ):
        progress = store.progress(cell.cell_id)
        assert progress is not None
        assert progress.state == "failed"
        assert message in progress.reason


def test_published_weights_are_measured_and_their_normalisation_is_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Weights cannot be downloaded here: timm makes the model, only the download is left out.
    create = models.timm.create_model
    names: list[str] = []

    def without_download(name: str, pretrained: bool, **options: object) -> torch.nn.Module:
        names.append(name)
        return create(name.partition(".")[0], pretrained=False, **options)

    monkeypatch.setattr(models.timm, "create_model", without_download)
    monkeypatch.setattr(models, "required_weights", lambda *_: tmp_path / "nowhere.safetensors")
    published = Model(architecture="test_resnet", pretrained=Pretrained(tag="r160_in1k", mean=(0.5,), std=(0.5,)))
    cell = trainable("ce", student=published, epochs=0)
    receipt = train(tmp_path, cell)[cell.cell_id]
    assert receipt is not None
    assert names == ["test_resnet.r160_in1k"]
    assert [r.epoch for r in receipt.epochs] == [0]
    assert set(receipt.metrics) == {"top1", "top5", "best_top1", "best_epoch"}
    assert normalize_for(cell)(torch.tensor([[[[255]]]], dtype=torch.uint8)).item() == pytest.approx(1.0)
    taught = distilled("kd", teacher=cell, epochs=1)
    assert numbers(train(tmp_path, taught)[taught.cell_id])[0] == "finished"


def test_gradient_accumulation_makes_the_step_of_the_whole_batch(tmp_path: Path) -> None:
    # A model without batch statistics and a loss that is a plain mean: two halves are the whole.
    plain = Model(architecture="test_vit", options={"img_size": 8, "patch_size": 4, "depth": 1})
    whole = trainable("ce", student=plain, epochs=1)
    recipe = whole.recipe.model_copy(update={"micro_batch_size": whole.recipe.batch_size})
    whole, halves = whole.model_copy(update={"recipe": recipe}), whole
    a, b = train(tmp_path / "a", whole)[whole.cell_id], train(tmp_path / "b", halves)[halves.cell_id]
    assert a is not None
    assert b is not None
    assert a.metrics["train_loss"] == pytest.approx(b.metrics["train_loss"], rel=1e-4)
    for name, weight in safetensors.torch.load(Store(tmp_path / "a").weights_of(whole)).items():
        other = safetensors.torch.load(Store(tmp_path / "b").weights_of(halves))[name]
        torch.testing.assert_close(weight, other, rtol=1e-2, atol=2e-4)


def test_cells_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="same batches"):
        train(tmp_path, trainable("ce"), trainable("ce", seed=1))
    other = trainable("ls", student=RESNET, epochs=1)
    with pytest.raises(ValueError, match="share one teacher"):
        train(tmp_path, distilled("kd"), distilled("kd", teacher=other))


def test_a_training_set_smaller_than_a_batch_is_said(tmp_path: Path) -> None:
    cell = trainable("ce")
    big = cell.model_copy(update={"recipe": cell.recipe.model_copy(update={"batch_size": 1800})})
    with pytest.raises(data.DataError, match="do not fill one batch of 1800"):
        train(tmp_path, big)


def test_checkpoints_hold_no_pickled_code_and_go_when_the_receipt_stands(tmp_path: Path) -> None:
    cell = trainable("ce", epochs=2)
    with pytest.raises(Interruption):
        train(tmp_path, cell, listener=interrupt_at("epoch", 1))
    saved = Store(tmp_path).load_checkpoint(cell)
    assert saved is not None
    state = torch.load(io.BytesIO(saved[1]), weights_only=True)
    assert set(state) == {"model", "optimizer", "scaler"}
    train(tmp_path, cell)
    names = {path.name for path in (tmp_path / cell.cell_id).iterdir()}
    assert names == {"cell.json", "claims", "receipt.json", "weights.safetensors"}
    assert json.loads((tmp_path / cell.cell_id / "cell.json").read_text())["loss"]["name"] == "ce"


def test_mixed_precision_trains(tmp_path: Path) -> None:
    # No convolutions: torch 2.15's bfloat16 convolutions on a CPU give NaN gradients now and then.
    cell = distilled("pld", epochs=1, teacher=trainable("ce", epochs=1))
    recipe = cell.recipe.model_copy(update={"precision": "bfloat16"})
    assert cell.teacher is not None
    taught = cell.model_copy(update={"recipe": recipe, "teacher": cell.teacher.model_copy(update={"recipe": recipe})})
    receipts = [train(tmp_path, c)[c.cell_id] for c in (cell, taught)]
    exact, mixed = (receipt.metrics["train_loss"] for receipt in receipts if receipt is not None)
    assert mixed == pytest.approx(exact, rel=0.02)
    assert mixed != exact


def test_channels_last_changes_numbers_by_rounding_alone(tmp_path: Path) -> None:
    cell = distilled("pld", epochs=1, student=RESNET)
    losses_of = []
    for machine in (MachineSettings(), MachineSettings(channels_last=True)):
        receipt = train(tmp_path / str(machine.channels_last), cell, machine=machine)[cell.cell_id]
        assert receipt is not None
        losses_of.append(receipt.metrics["train_loss"])
    assert losses_of[1] == pytest.approx(losses_of[0], rel=1e-4)


def test_loader_workers_change_no_number(tmp_path: Path, alone) -> None:  # type: ignore[no-untyped-def]
    cell = COHORT[0]
    receipt = train(tmp_path, cell, machine=MachineSettings(loader_workers=2))[cell.cell_id]
    assert numbers(receipt) == alone(cell)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cohort_trains_on_a_gpu(tmp_path: Path) -> None:
    receipts = train(tmp_path, *COHORT, machine=MachineSettings(gpus_per_cohort=1))
    assert all(receipt is not None and receipt.state == "finished" for receipt in receipts.values())


def test_loss_settings_of_a_cell_reach_the_loss() -> None:
    cell = distilled("kd", hyperparameters={"alpha": 0.7})
    assert cell.loss == Loss(name="kd", hyperparameters={"alpha": 0.7, "tau": 2.0, "divergence": "forward"})
