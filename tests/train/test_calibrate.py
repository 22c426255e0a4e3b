from pathlib import Path

import pytest
import torch
from trainable import RESNET, distilled, trainable

from pld_grid import cost
from pld_grid.machine import MachineSettings
from pld_grid.spec import Optimizer
from pld_grid.train import calibrate
from pld_grid.train.data import DataError
from pld_grid.train.models import build_model, count_parameters
from pld_grid.train.surroundings import Surroundings

CPU = torch.device("cpu")


@pytest.mark.parametrize("workers", [0, 2])
def test_every_part_of_a_cohort_is_measured(tmp_path: Path, workers: int) -> None:
    adam = distilled("pld", student=RESNET, optimizer=Optimizer(name="adamw", learning_rate=1e-3))
    cells = [adam, distilled("kd"), trainable("ce")]
    machine = MachineSettings(loader_workers=workers)
    told = Surroundings(store=str(tmp_path), machine=machine)
    wanted = cost.requests(cells if workers == 0 else cells[:1])
    rates = calibrate.measure(wanted, told, CPU)
    assert rates.keys() == {request.key for request in wanted}
    loading = rates[cost.loading_key(adam)]
    assert (loading.train_images, loading.validation_images) == (1442, 355)
    assert loading.train_seconds > 0
    student = rates[cost.student_key(adam)]
    assert min(student.train_seconds, student.validation_seconds, student.setup_seconds, student.checkpoint_seconds) > 0
    # Weights, gradients and two moments, in four bytes each; BatchNorm's statistics and AdamW's step counts besides.
    model = build_model(adam.student, adam.dataset, 0)
    four = 4 * 4 * count_parameters(model)
    assert four < student.held_bytes < four + sum(b.nbytes for b in model.buffers()) + 8 * len(list(model.parameters()))
    teacher = rates[cost.teacher_key(RESNET, adam)]
    assert teacher.held_bytes < student.held_bytes
    assert 0 < teacher.peak_bytes < student.peak_bytes
    assert teacher.train_seconds > 0
    assert not list((tmp_path / cost.FOLDER).glob("probe*"))


def test_the_peak_is_what_lives_at_a_time() -> None:
    def one_after_the_other() -> None:
        for _ in range(3):
            torch.ones(250_000)

    def together() -> torch.Tensor:
        a, b = torch.ones(250_000), torch.ones(250_000)
        return a + b

    given = torch.ones(250_000)
    assert calibrate._peak_bytes(one_after_the_other, CPU) == 1_000_000
    assert calibrate._peak_bytes(together, CPU) == 3_000_000
    # What was there before is not counted, nor is a view.
    assert calibrate._peak_bytes(lambda: given.add_(1).view(500, 500).t(), CPU) == 0


def test_a_part_that_does_not_fit_is_known_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [trainable("ce"), trainable("ce", student=RESNET)]

    def full(self: object, request: cost.Request) -> None:
        raise torch.OutOfMemoryError("the device is full")

    monkeypatch.setattr(calibrate._Bench, "student", full)
    rates = calibrate.measure(cost.requests(cells), Surroundings(store=str(tmp_path)), CPU)
    assert {key for key, rate in rates.items() if rate.fits} == {cost.loading_key(cells[0])}
    assert {rate.what for rate in rates.values() if not rate.fits} == {"student test_vit", "student test_resnet"}


def test_a_dataset_smaller_than_a_batch_is_refused(tmp_path: Path) -> None:
    recipe = trainable().recipe.model_copy(update={"batch_size": 1800})
    wanted = cost.requests([trainable(recipe=recipe)])
    with pytest.raises(DataError, match="1442 training images do not fill one batch of 1800"):
        calibrate.measure(wanted, Surroundings(store=str(tmp_path)), CPU)
