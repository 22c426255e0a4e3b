import pytest
import torch
from trainable_cells import RESNET, distilled, trainable

from pld_grid.experiment.cell import Optimizer
from pld_grid.experiment.machine import MachineSettings
from pld_grid.planning import calibration_file, cost_model
from pld_grid.train import part_profiler
from pld_grid.train.data import DataError
from pld_grid.train.models import build_model, count_parameters
from pld_grid.train.run_context import RunContext

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


@pytest.mark.parametrize("workers", [0, 2])
def test_measure_parts_measures_every_part_of_a_cohort(tmp_path, workers):
    adam = distilled("pld", student=RESNET, optimizer=Optimizer(name="adamw", learning_rate=1e-3))
    cells = [adam, distilled("kd"), trainable("ce")]
    context = RunContext(store=str(tmp_path), machine=MachineSettings(loader_workers=workers))
    requests = cost_model.collect_requests(cells if workers == 0 else cells[:1])
    rates = part_profiler.measure_parts(requests, context, CPU)
    assert rates.keys() == {request.key for request in requests}
    loading = rates[cost_model.loading_key(adam)]
    assert (loading.train_images, loading.validation_images) == (1442, 355)
    assert loading.train_seconds > 0
    student = rates[cost_model.student_key(adam)]
    assert min(student.train_seconds, student.validation_seconds, student.setup_seconds, student.checkpoint_seconds) > 0
    # Weights, gradients and two moments, in four bytes each; BatchNorm's statistics and AdamW's step counts besides.
    model = build_model(adam.student, adam.dataset, 0)
    least = 4 * 4 * count_parameters(model)
    most = least + sum(b.nbytes for b in model.buffers()) + 8 * len(list(model.parameters()))
    assert least < student.resident_bytes < most
    teacher = rates[cost_model.teacher_key(RESNET, adam)]
    assert teacher.resident_bytes < student.resident_bytes
    assert 0 < teacher.peak_bytes < student.peak_bytes
    assert teacher.train_seconds > 0
    assert not list((tmp_path / calibration_file.FOLDER).glob("probe*"))


def test_peak_bytes_are_those_allocated_at_the_same_time():
    def one_after_the_other() -> None:
        for _ in range(3):
            torch.ones(250_000)

    def together() -> torch.Tensor:
        a, b = torch.ones(250_000), torch.ones(250_000)
        return a + b

    existing = torch.ones(250_000)
    assert part_profiler._peak_bytes(one_after_the_other, CPU) == 1_000_000
    assert part_profiler._peak_bytes(together, CPU) == 3_000_000
    # Existing tensors and views are not counted.
    assert part_profiler._peak_bytes(lambda: existing.add_(1).view(500, 500).t(), CPU) == 0


def test_measure_parts_marks_a_part_that_does_not_fit(tmp_path, monkeypatch):
    cells = [trainable("ce"), trainable("ce", student=RESNET)]

    def full(self: object, request: cost_model.PartRequest) -> None:
        raise torch.OutOfMemoryError("the device is full")

    monkeypatch.setattr(part_profiler.PartProfiler, "measure_student", full)
    rates = part_profiler.measure_parts(cost_model.collect_requests(cells), RunContext(store=str(tmp_path)), CPU)
    assert {key for key, rate in rates.items() if rate.fits} == {cost_model.loading_key(cells[0])}
    assert {rate.what for rate in rates.values() if not rate.fits} == {"student test_vit", "student test_resnet"}


def test_measure_parts_refuses_a_dataset_smaller_than_a_batch(tmp_path):
    recipe = trainable().recipe.model_copy(update={"batch_size": 1800})
    requests = cost_model.collect_requests([trainable(recipe=recipe)])
    with pytest.raises(DataError, match="1442 training images do not fill one batch of 1800"):
        part_profiler.measure_parts(requests, RunContext(store=str(tmp_path)), CPU)
