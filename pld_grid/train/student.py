"""One student: a cell with its model, optimizer, schedule, loss and metrics, and the state that survives a crash."""

import io
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pld_grid.machine import MachineSettings
from pld_grid.spec import Cell
from pld_grid.store import EpochRecord, Manifest, sha256
from pld_grid.store.content import LARGEST_METRIC
from pld_grid.train import losses
from pld_grid.train.device import out_of_memory
from pld_grid.train.failure import Failed
from pld_grid.train.group import Exchange, Group
from pld_grid.train.metrics import TrainMetrics, ValidationMetrics
from pld_grid.train.models import build_model, count_parameters, normalize_for
from pld_grid.train.optim import build_optimizer, build_schedule, restore_optimizer
from pld_grid.train.randomness import derive

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Diverged(Exception):
    """The loss or the weights became NaN or infinite; the message says in which epoch and step."""


class Student:
    """Trains one cell, a micro-batch at a time. Knows nothing of the other students.

    Args:
        accumulation: micro-batches per optimizer step.
        group: the processes that have a share of these micro-batches each, and one student each to keep in step.
        weights_folder: of published weights, which a measurement starts with.
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
        self.share = accumulation // self.group.size
        self.model = build_model(cell.student, cell.dataset, cell.seed, weights_folder).to(device)
        if machine.channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)
        self.normalize = normalize_for(cell).to(device)
        self.forward: Callable[[Tensor], Tensor] = torch.compile(self.model) if machine.compile else self.model
        self.parameters = count_parameters(self.model)
        self.loss = losses.build(cell.loss.name, standardization=cell.loss.standardization, **cell.loss.hyperparameters)
        self.optimizer = build_optimizer(self.model, cell.optimizer)
        self.updates_per_epoch = updates_per_epoch
        self.schedule = None
        if cell.epochs and updates_per_epoch:
            self.schedule = build_schedule(self.optimizer, cell.recipe, cell.epochs, updates_per_epoch)
        self.dtype = DTYPES[cell.recipe.precision]
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)
        # Made once: on a small model the making of it shows.
        self.autocast = torch.autocast(device.type, self.dtype, enabled=self.dtype != torch.float32)
        self.trained = list(self.model.parameters())
        self.exchange = Exchange(self.model, self.group) if self.group.size > 1 and cell.epochs else None
        self.failure: Failed | None = None  # since the processes last met
        self.train_metrics = TrainMetrics()
        self.validation_metrics = ValidationMetrics(device)
        self.records: list[EpochRecord] = []
        self.kept_epoch = -1  # of the last checkpoint
        self.started = time.time()

    @property
    def next_epoch(self) -> int:
        """The epoch to train next, counted from 1."""
        return self.records[-1].epoch + 1 if self.records else 1

    @property
    def done(self) -> bool:
        """Whether the last epoch is recorded; a measurement has the single record of epoch 0."""
        return bool(self.records) and self.records[-1].epoch >= self.cell.epochs

    def logits(self, pixels_NCHW: Tensor) -> Tensor:
        """Logits (N, C) under the cell's precision."""
        with self.autocast:
            logits_NC: Tensor = self.forward(self.normalize(pixels_NCHW))
        return logits_NC

    def attempt(self, step: Callable[..., None], *arguments: Any) -> None:
        """Does a step unless an earlier one failed; an error is kept as `failure` until the processes next meet."""
        if self.failure is None:
            try:
                step(*arguments)
            except Exception as error:
                self.failure = Failed.of(error)

    def begin_epoch(self) -> None:
        """Training mode, empty metrics."""
        self.model.train()
        self.train_metrics = TrainMetrics()
        self._clear_gradients()

    def train_step(
        self, pixels_NCHW: Tensor, target_N: Tensor, teacher: losses.TeacherBatch | None, micro_batch: int
    ) -> None:
        """Forward and backward of micro-batch number `micro_batch` of the epoch; an update's last one also steps.

        In a group, it takes `send` and `receive` after this process's last micro-batch of the update.
        """
        epoch = self.next_epoch
        # Dropout and drop-path: their own stream, which neither the cohort nor a resume can shift.
        self._reseed(derive("dropout", self.cell.seed, epoch, micro_batch))
        if micro_batch % self.share == 0:
            if self.schedule is not None:
                self.schedule.step_update((epoch - 1) * self.updates_per_epoch + micro_batch // self.accumulation)
            if self.exchange is not None:
                self.exchange.begin()
        loss = self.loss(self.logits(pixels_NCHW), teacher if self.loss.uses_teacher else None, target_N)
        self.scaler.scale(loss / self.accumulation).backward()  # type: ignore[no-untyped-call]
        self.train_metrics.update(loss.detach())
        if self.exchange is None and (micro_batch + 1) % self.accumulation == 0:
            self._step()

    def send(self) -> None:
        """Begins to add up an update with the other processes; they may go on with other students meanwhile."""
        if self.exchange is not None:
            self.attempt(self.exchange.fill)
            self._clear_gradients()
            self.exchange.send(failed=self.failure is not None)

    def receive(self) -> Failed | None:
        """Ends an update; what went wrong in it, in whichever process."""
        if self.exchange is None:
            return self.failure
        if not self.exchange.receive():
            return self.group.agree(self.failure)
        self.attempt(self._step)
        return None

    def _step(self) -> None:
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self._clear_gradients()

    def _reseed(self, seed: int) -> None:
        # torch.manual_seed also notes the seed for every kind of device that is not there, which shows in a small step.
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _clear_gradients(self) -> None:
        # What the optimizer's zero_grad does, without its bookkeeping.
        for parameter in self.trained:
            parameter.grad = None

    def begin_validation(self) -> None:
        """Evaluation mode, empty metrics."""
        self.model.eval()
        self.validation_metrics = ValidationMetrics(self.device)

    @torch.no_grad()
    def validate(self, pixels_NCHW: Tensor, target_N: Tensor, teacher_NC: Tensor | None) -> None:
        """Adds a validation batch to the metrics."""
        has_teacher = self.cell.teacher is not None
        self.validation_metrics.update(self.logits(pixels_NCHW).float(), target_N, teacher_NC if has_teacher else None)

    def gather(self, numbers: Sequence[int]) -> Failed | None:
        """Makes the epoch's metrics those of all processes; what went wrong since they last met, in whichever.

        Args:
            numbers: the training micro-batches of the epoch that were this process's.
        """
        if self.group.size == 1:
            return self.failure
        micro_batches = self.updates_per_epoch * self.accumulation if self.cell.epochs else 0
        told = torch.zeros(micro_batches + ValidationMetrics.SIZE + 1, dtype=torch.float64)
        of_training, seen, failed = torch.split(told, [micro_batches, ValidationMetrics.SIZE, 1])

        def fill() -> None:
            of_training.copy_(self.train_metrics.dealt(numbers, micro_batches))
            seen.copy_(self.validation_metrics.vector())

        self.attempt(fill)
        failed.fill_(self.failure is not None)
        total = told.to(self.device)
        self.group.add(total).wait()
        told.copy_(total)
        if failed.item():
            return self.group.agree(self.failure)
        self.train_metrics.take(of_training)
        self.validation_metrics.take(seen)
        return None

    def end_epoch(self, images_per_second: float) -> EpochRecord:
        """Records the epoch. Raises Diverged if loss or weights are no longer finite, or a metric is beyond all."""
        epoch = self.next_epoch if self.cell.epochs else 0
        self._check_finite(epoch)
        metrics = self.validation_metrics.result()
        best = max([metrics["top1"], *(r.metrics["top1"] for r in self.records)])
        first = next((r.epoch for r in self.records if r.metrics["top1"] == best), epoch)
        metrics |= {"best_top1": best, "best_epoch": float(first)}
        if self.cell.epochs:
            metrics |= {
                "train_loss": self.train_metrics.mean_loss(),
                "learning_rate": float(self.optimizer.param_groups[0]["lr"]),
                "images_per_second": images_per_second,
            }
        for name, value in metrics.items():
            # Nobody could add or draw it. A NaN is not below anything either.
            if not abs(value) <= LARGEST_METRIC:
                raise Diverged(f"{name} was {value:g} after epoch {epoch}")
        record = EpochRecord(epoch=epoch, time=time.time(), metrics=metrics)
        self.records.append(record)
        return record

    def _check_finite(self, epoch: int) -> None:
        bad = self.train_metrics.first_bad()
        if bad is not None:
            raise Diverged(f"the loss was not finite in epoch {epoch}, step {bad // self.accumulation + 1}")
        state = [v for v in self.model.state_dict().values() if v.is_floating_point()]
        if not bool(torch.stack([torch.isfinite(v).all() for v in state]).all()):
            raise Diverged(f"the weights were not finite after epoch {epoch}, step {self.updates_per_epoch}")
        if not bool(self.validation_metrics.finite):
            raise Diverged(f"the validation logits were not finite after epoch {epoch}")

    # -- state -------------------------------------------------------------------------------------------------------

    def state(self) -> bytes:
        """Everything that the rest of the training depends on, but for the records."""
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
            # An archive in memory can fail for nothing else, whatever its writer says of its own clean-up.
            raise MemoryError("no memory is left for a checkpoint") from error
        return buffer.getvalue()

    def held_bytes(self) -> int:
        """Bytes that stay between this student's steps: model, optimizer state, gradients that are summed up."""
        parameters = list(self.model.parameters())
        state = [value for slot in self.optimizer.state.values() for value in slot.values()]
        tensors = [*parameters, *self.model.buffers(), *state, *(parameters if self.accumulation > 1 else ())]
        return sum(tensor.nbytes for tensor in tensors if isinstance(tensor, Tensor))

    def save(self) -> tuple[Manifest, bytes]:
        """The state, and the manifest that names it."""
        payload = self.state()
        manifest = Manifest(
            cell_id=self.cell.cell_id,
            spec_version=self.cell.spec_version,
            epoch=self.records[-1].epoch,
            sha256=sha256(payload),
            parameters=self.parameters,
            started=self.started,
            epochs=tuple(self.records),
        )
        return manifest, payload

    def restore(self, manifest: Manifest, payload: bytes) -> Failed | None:
        """Continues from what `save` returned; or says why not, if that is something else, which is never run.

        This student cannot be used then: of that, it may have a part.
        """
        try:
            # To the CPU, where optimizers keep their count of steps: read from a GPU, it would stall every step.
            state: dict[str, Any] = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
        except Exception as error:
            if out_of_memory(error):
                raise
            # torch's own words advise to open the file as a pickle.
            return Failed(f"it has its checksum but holds no tensors ({type(error).__name__})")
        try:
            self.model.load_state_dict(state["model"])
            restore_optimizer(self.optimizer, state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
        except Exception as error:
            if out_of_memory(error):
                raise
            # That of another version of timm, perhaps.
            return Failed(f"it does not fit this student ({Failed.of(error)})")
        self.records = list(manifest.epochs)
        self.kept_epoch = manifest.epoch
        self.started = manifest.started
        return None
