"""One student: a cell with its model, optimizer, schedule, loss and metrics, and its checkpoints."""

import io
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pld_grid.experiment.cell import Cell
from pld_grid.experiment.machine import MachineSettings
from pld_grid.experiment.metrics import BEST_EPOCH, BEST_TOP1, IMAGES_PER_SECOND, LEARNING_RATE, TOP1, TRAIN_LOSS
from pld_grid.store import EpochRecord, Manifest, sha256
from pld_grid.store.schema import MAX_METRIC
from pld_grid.train import losses
from pld_grid.train.device import is_out_of_memory
from pld_grid.train.failure import TrainingError
from pld_grid.train.group import Group, Reducer
from pld_grid.train.metrics import TrainMetrics, ValidationMetrics
from pld_grid.train.models import build_model, count_parameters, normalize_for
from pld_grid.train.optim import build_optimizer, build_schedule, restore_optimizer
from pld_grid.train.randomness import derive

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Diverged(Exception):
    """The loss or the weights became NaN or infinite; the message says in which epoch and step."""


class Student:
    """Train one cell, a micro-batch at a time, independently of the other students.

    Args:
        cell: what to train.
        device: of the model; batches come on it too.
        machine: memory format, and whether the model is compiled.
        updates_per_epoch: optimizer steps in an epoch.
        accumulation: micro-batches per optimizer step.
        group: the processes that train this cell together, each on its own part of these micro-batches.
        weights_folder: has the published weights that a measurement evaluates.
    """

    def __init__(
        self,
        cell: Cell,
        device: torch.device,
        machine: MachineSettings,
        updates_per_epoch: int,
        accumulation: int,
        group: Group | None = None,
        weights_folder: str | None = None,
    ) -> None:
        self.cell, self.device, self.accumulation = cell, device, accumulation
        self.group = group or Group()
        self.local_micro_batches = accumulation // self.group.size
        self.model = build_model(cell.student, cell.dataset, cell.seed, weights_folder).to(device)
        if machine.channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)
        self.normalize = normalize_for(cell).to(device)
        self.forward: Callable[[Tensor], Tensor] = torch.compile(self.model) if machine.compile else self.model
        self.parameter_count = count_parameters(self.model)
        self.loss = losses.build(cell.loss.name, standardization=cell.loss.standardization, **cell.loss.hyperparameters)
        self.optimizer = build_optimizer(self.model, cell.optimizer)
        self.updates_per_epoch = updates_per_epoch
        self.schedule = None
        if cell.epochs and updates_per_epoch:
            self.schedule = build_schedule(self.optimizer, cell.recipe, cell.epochs, updates_per_epoch)
        self.dtype = DTYPES[cell.recipe.precision]
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)
        # Made once: on a small model, making it takes a noticeable part of a step.
        self.autocast = torch.autocast(device.type, self.dtype, enabled=self.dtype != torch.float32)
        self.parameters = list(self.model.parameters())
        self.reducer = Reducer(self.model, self.group) if self.group.size > 1 and cell.epochs else None
        self.failure: TrainingError | None = None  # of this process, until all processes have agreed on one
        self.train_metrics = TrainMetrics()
        self.validation_metrics = ValidationMetrics(device)
        self.records: list[EpochRecord] = []
        self.saved_epoch = -1  # of the last checkpoint
        self.started = time.time()

    @property
    def last_epoch(self) -> int:
        """The last recorded epoch; 0 before the first one."""
        return self.records[-1].epoch if self.records else 0

    @property
    def next_epoch(self) -> int:
        """The epoch to train next, counted from 1."""
        return self.last_epoch + 1

    @property
    def done(self) -> bool:
        """Whether all epochs are recorded; a measurement has a single record, of epoch 0."""
        return bool(self.records) and self.last_epoch >= self.cell.epochs

    def compute_logits(self, pixels_NCHW: Tensor) -> Tensor:
        """Return logits (N, C) in the cell's precision."""
        with self.autocast:
            logits_NC: Tensor = self.forward(self.normalize(pixels_NCHW))
        return logits_NC

    def run_step(self, step: Callable[..., None], *arguments: Any) -> None:
        """Call `step`, unless an earlier one failed; keep its error as `failure` until the end of the update."""
        if self.failure is None:
            try:
                step(*arguments)
            except Exception as error:
                self.failure = TrainingError.from_exception(error)

    def begin_epoch(self) -> None:
        """Switch to training mode and clear the metrics."""
        self.model.train()
        self.train_metrics = TrainMetrics()
        self._clear_gradients()

    def train_step(
        self, pixels_NCHW: Tensor, target_N: Tensor, teacher: losses.TeacherBatch | None, micro_batch: int
    ) -> None:
        """Run forward and backward passes, and the optimizer's step after the last micro-batch of an update.

        In a group, call `start_allreduce` and `finish_allreduce` after this process's last micro-batch of an update:
        the optimizer steps there.

        Args:
            pixels_NCHW: uint8 images.
            target_N: labels.
            teacher: what the loss needs of the teacher; None without one.
            micro_batch: number of the micro-batch within the epoch.
        """
        epoch = self.next_epoch
        # Dropout and drop-path draw from a stream of their own, which depends on neither the cohort nor a resume.
        seed = derive("dropout", self.cell.seed, epoch, micro_batch)
        # torch.manual_seed also seeds absent devices, which takes a noticeable part of a small model's step.
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)
        if micro_batch % self.local_micro_batches == 0:
            if self.schedule is not None:
                self.schedule.step_update((epoch - 1) * self.updates_per_epoch + micro_batch // self.accumulation)
            if self.reducer is not None:
                self.reducer.begin_update()
        loss = self.loss(self.compute_logits(pixels_NCHW), teacher if self.loss.uses_teacher else None, target_N)
        self.scaler.scale(loss / self.accumulation).backward()  # type: ignore[no-untyped-call]
        self.train_metrics.update(loss.detach())
        if self.reducer is None and (micro_batch + 1) % self.accumulation == 0:
            self._step()

    def start_allreduce(self) -> None:
        """Start to add up an update over the group; other students may train meanwhile."""
        if self.reducer is not None:
            self.run_step(self.reducer.collect)
            self._clear_gradients()
            self.reducer.start_allreduce(failed=self.failure is not None)

    def finish_allreduce(self) -> TrainingError | None:
        """Finish the update and run the optimizer's step; return the failure of any process since the last update."""
        if self.reducer is None:
            return self.failure
        if not self.reducer.finish_allreduce():
            return self.group.allreduce_failure(self.failure)
        self.run_step(self._step)
        return None

    def _step(self) -> None:
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self._clear_gradients()

    def _clear_gradients(self) -> None:
        # As the optimizer's zero_grad, without its profiling hooks.
        for parameter in self.parameters:
            parameter.grad = None

    def begin_validation(self) -> None:
        """Switch to evaluation mode and clear the metrics."""
        self.model.eval()
        self.validation_metrics = ValidationMetrics(self.device)

    @torch.no_grad()
    def validate(self, pixels_NCHW: Tensor, target_N: Tensor, teacher_NC: Tensor | None) -> None:
        """Add a validation batch to the metrics."""
        has_teacher = self.cell.teacher is not None
        self.validation_metrics.update(
            self.compute_logits(pixels_NCHW).float(), target_N, teacher_NC if has_teacher else None
        )

    def reduce_metrics(self, numbers: Sequence[int]) -> TrainingError | None:
        """Add up the epoch's metrics over the group; return the failure of any process since the last update.

        Args:
            numbers: this process's training micro-batches of the epoch.
        """
        if self.group.size == 1:
            return self.failure
        micro_batches = self.updates_per_epoch * self.accumulation if self.cell.epochs else 0
        vector = torch.zeros(micro_batches + ValidationMetrics.SIZE + 1, dtype=torch.float64)
        train, validation, failed = torch.split(vector, [micro_batches, ValidationMetrics.SIZE, 1])

        def collect() -> None:
            train.copy_(self.train_metrics.scatter(numbers, micro_batches))
            validation.copy_(self.validation_metrics.to_vector())

        self.run_step(collect)
        failed.fill_(self.failure is not None)
        total = vector.to(self.device)
        self.group.start_allreduce(total)()
        vector.copy_(total)
        if failed.item():
            return self.group.allreduce_failure(self.failure)
        self.train_metrics.load_reduced(train)
        self.validation_metrics.load_reduced(validation)
        return None

    def end_epoch(self, images_per_second: float) -> EpochRecord:
        """Record the epoch. Raise Diverged if loss or weights are not finite, or a metric is too large to store."""
        epoch = self.next_epoch if self.cell.epochs else 0
        self._check_finite(epoch)
        metrics = self.validation_metrics.compute()
        best = max([metrics[TOP1.name], *(r.metrics[TOP1.name] for r in self.records)])
        first = next((r.epoch for r in self.records if r.metrics[TOP1.name] == best), epoch)
        metrics |= {BEST_TOP1.name: best, BEST_EPOCH.name: float(first)}
        if self.cell.epochs:
            metrics |= {
                TRAIN_LOSS.name: self.train_metrics.mean_loss(),
                LEARNING_RATE.name: float(self.optimizer.param_groups[0]["lr"]),
                IMAGES_PER_SECOND.name: images_per_second,
            }
        for name, value in metrics.items():
            # Negated, so that NaN is refused too.
            if not abs(value) <= MAX_METRIC:
                raise Diverged(f"{name} was {value:g} after epoch {epoch}")
        record = EpochRecord(epoch=epoch, time=time.time(), metrics=metrics)
        self.records.append(record)
        return record

    def _check_finite(self, epoch: int) -> None:
        micro_batch = self.train_metrics.first_non_finite()
        if micro_batch is not None:
            raise Diverged(f"the loss was not finite in epoch {epoch}, step {micro_batch // self.accumulation + 1}")
        state = [v for v in self.model.state_dict().values() if v.is_floating_point()]
        if not bool(torch.stack([torch.isfinite(v).all() for v in state]).all()):
            raise Diverged(f"the weights were not finite after epoch {epoch}, step {self.updates_per_epoch}")
        if not bool(self.validation_metrics.finite):
            raise Diverged(f"the validation logits were not finite after epoch {epoch}")

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def dump_state(self) -> bytes:
        """Return model, optimizer and gradient scaler as bytes: all that the next epochs depend on."""
        buffer = io.BytesIO()
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        try:
            torch.save(state, buffer)
        except RuntimeError as error:
            if "inline_container" not in str(error):
                raise
            # Writing to memory can fail for no other reason, though torch reports an error of its clean-up.
            raise MemoryError("no memory is left for a checkpoint") from error
        return buffer.getvalue()

    def resident_bytes(self) -> int:
        """Return the bytes that stay allocated between steps: model, optimizer state and accumulated gradients."""
        state = [value for slot in self.optimizer.state.values() for value in slot.values()]
        gradients = self.parameters if self.accumulation > 1 else ()
        tensors = [*self.parameters, *self.model.buffers(), *state, *gradients]
        return sum(tensor.nbytes for tensor in tensors if isinstance(tensor, Tensor))

    def make_checkpoint(self) -> tuple[Manifest, bytes]:
        """Return the state and its manifest."""
        payload = self.dump_state()
        manifest = Manifest(
            cell_id=self.cell.cell_id,
            spec_version=self.cell.spec_version,
            epoch=self.last_epoch,
            sha256=sha256(payload),
            parameters=self.parameter_count,
            started=self.started,
            epochs=tuple(self.records),
        )
        return manifest, payload

    def restore(self, manifest: Manifest, payload: bytes) -> TrainingError | None:
        """Load what `make_checkpoint` returned, or return why it does not fit. No code in the payload is ever run.

        After a failure the student must not be used: it may have loaded a part of the state.
        """
        try:
            # To the CPU, where optimizers keep their count of steps: reading it from a GPU would stall every step.
            state: dict[str, Any] = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            # Without torch's message, which advises to load the file as a pickle.
            return TrainingError(f"it has its checksum but holds no tensors ({type(error).__name__})")
        try:
            self.model.load_state_dict(state["model"])
            restore_optimizer(self.optimizer, state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
        except Exception as error:
            if is_out_of_memory(error):
                raise
            # Perhaps of another version of timm.
            return TrainingError(f"it does not fit this student ({TrainingError.from_exception(error)})")
        self.records = list(manifest.epochs)
        self.saved_epoch = manifest.epoch
        self.started = manifest.started
        return None
