"""A whole training against a plain loop that is written here: torch and scikit-learn only.

Taken from the project are the initial weights and the order of the images. Everything else is stated again: images,
normalization, batches, label smoothing, accumulation, learning rates, weight decay and validation.
"""

import math

import numpy as np
import pytest
import safetensors.torch
import torch
from sklearn.datasets import load_digits
from torch.nn import functional
from trainable_cells import train_one, trainable

from pld_grid.experiment.cell import Model, Optimizer, Recipe
from pld_grid.store import Store
from pld_grid.train.metrics import ValidationMetrics
from pld_grid.train.models import build_model
from pld_grid.train.randomness import epoch_order

EPOCHS, UPDATES_PER_EPOCH, BATCH = 3, 22, 64  # 22 batches of 64 fit into the 1,442 training images
WARMUP_EPOCHS, FIRST_RATE, LAST_RATE = 1, 1e-4, 1e-5
RATES = {"sgd": 0.02, "adamw": 2e-3}
DECAY, SMOOTHING, MEAN, STD = 0.1, 0.1, 0.3, 0.38
# No BatchNorm, whose statistics would depend on the micro-batch, and no dropout.
MODEL = Model(architecture="test_vit", options={"img_size": 8, "patch_size": 4, "depth": 1, "num_heads": 2})
# Beside biases and normalizations, timm exempts these of a ViT from weight decay.
EMBEDDINGS = {"pos_embed", "cls_token"}
# With such a large eps, AdamW sees the scale of gradients, and amplifies no rounding.
OPTIMIZERS = {
    "sgd": {"momentum": 0.9, "dampening": 0, "nesterov": False},
    "adamw": {"betas": [0.8, 0.99], "eps": 1e-3, "amsgrad": False},
}


def make_cell(name, micro_batch_size):
    recipe = Recipe(
        batch_size=BATCH,
        micro_batch_size=micro_batch_size,
        warmup_epochs=WARMUP_EPOCHS,
        warmup_learning_rate=FIRST_RATE,
        final_learning_rate=LAST_RATE,
        mean=(MEAN,),
        std=(STD,),
    )
    optimizer = Optimizer(name=name, learning_rate=RATES[name], weight_decay=DECAY, options=OPTIMIZERS[name])
    return trainable(
        "ls", hyperparameters={"eps": SMOOTHING}, student=MODEL, recipe=recipe, optimizer=optimizer, epochs=EPOCHS
    )


def load_images():
    """Return normalized training and validation images with labels: every fifth image of a class is for validation."""
    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    images = ((torch.from_numpy(pixels) / 255 - MEAN) / STD)[:, None].float()
    labels = torch.from_numpy(digits.target).long()
    seen, held_out = [0] * 10, []
    for label in labels.tolist():
        seen[label] += 1
        held_out.append(seen[label] % 5 == 0)
    held = torch.tensor(held_out)
    return images[~held], labels[~held], images[held], labels[held]


def learning_rate(name, update):
    """Return the rate of an update, counted from 0: linear warm-up, then one cosine over the remaining updates."""
    warmup, updates = WARMUP_EPOCHS * UPDATES_PER_EPOCH, EPOCHS * UPDATES_PER_EPOCH
    if update < warmup:
        return FIRST_RATE + (RATES[name] - FIRST_RATE) * update / warmup
    progress = (update - warmup) / (updates - warmup)
    return LAST_RATE + (RATES[name] - LAST_RATE) * (1 + math.cos(math.pi * progress)) / 2


def train_plainly(name, cell):
    """Return the trained weights by name, and the correct answers on the validation images."""
    model = build_model(cell.student, cell.dataset, cell.seed).train()
    named = dict(model.named_parameters())
    exempt = [p for key, p in named.items() if p.ndim < 2 or key in EMBEDDINGS]
    decayed = [p for key, p in named.items() if p.ndim >= 2 and key not in EMBEDDINGS]
    groups = [{"params": exempt, "weight_decay": 0.0}, {"params": decayed, "weight_decay": DECAY}]
    if name == "sgd":
        optimizer = torch.optim.SGD(groups, lr=1.0, momentum=0.9)
    else:
        optimizer = torch.optim.AdamW(groups, lr=1.0, betas=(0.8, 0.99), eps=1e-3)
    images, labels, validation_images, validation_labels = load_images()
    update = 0
    for epoch in range(1, EPOCHS + 1):
        order = torch.from_numpy(epoch_order(cell.seed, epoch, len(images)))
        for batch in order[: UPDATES_PER_EPOCH * BATCH].split(BATCH):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(name, update)
            smooth = torch.full((BATCH, 10), SMOOTHING / 10)
            smooth[torch.arange(BATCH), labels[batch]] += 1 - SMOOTHING
            loss = -(smooth * functional.log_softmax(model(images[batch]), dim=1)).sum() / BATCH
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            update += 1
    with torch.no_grad():
        correct = (model.eval()(validation_images).argmax(1) == validation_labels).sum()
    return {key: value.detach() for key, value in named.items()}, int(correct)


@pytest.mark.slow
@pytest.mark.parametrize("micro_batch_size", [BATCH, BATCH // 4])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_gives_the_weights_of_a_plain_loop(tmp_path, name, micro_batch_size):
    cell = make_cell(name, micro_batch_size)
    receipt = train_one(tmp_path, cell)
    expected, correct = train_plainly(name, cell)
    weights = safetensors.torch.load(Store(tmp_path).read_weights(cell))
    assert weights.keys() == expected.keys()
    initial = {key: value.detach() for key, value in build_model(cell.student, cell.dataset, 0).named_parameters()}
    for key, value in expected.items():
        # Sums of four parts are rounded otherwise than one sum: far below what 66 updates change.
        change = float((value - initial[key]).abs().max())
        assert float((weights[key] - value).abs().max()) < 0.01 * change + 1e-6, key
    assert abs(receipt.metrics["top1"] - 100 * correct / 355) < 0.3
    assert receipt.metrics["learning_rate"] == pytest.approx(
        learning_rate(name, EPOCHS * UPDATES_PER_EPOCH - 1), rel=1e-6
    )


def test_learning_rates_as_numbers(tmp_path):
    """The first update's, the warm-up's last and the last update's rate, computed by hand."""
    assert learning_rate("sgd", 0) == 1e-4
    assert learning_rate("sgd", 21) == pytest.approx(1e-4 + 0.0199 * 21 / 22)
    assert learning_rate("sgd", 22) == 0.02
    receipt = train_one(tmp_path, make_cell("sgd", BATCH).model_copy(update={"epochs": 1}))
    # With one epoch the warm-up leaves one update to the cosine, which begins at the full rate.
    assert receipt.epochs[0].metrics["learning_rate"] == pytest.approx(0.02)


def test_validation_metrics_of_ten_images_by_hand():
    draws = np.random.default_rng(0)
    student, teacher, labels = draws.normal(size=(10, 7)), draws.normal(size=(10, 7)), draws.integers(0, 7, 10)
    metrics = ValidationMetrics(torch.device("cpu"))
    for part in (slice(0, 4), slice(4, 10)):
        metrics.update(torch.tensor(student[part]), torch.tensor(labels[part]), torch.tensor(teacher[part]))
    first = fifth = forward = backward = 0.0
    for s, t, label in zip(student, teacher, labels, strict=True):
        better = sum(value > s[label] for value in s)
        first += better == 0
        fifth += better < 5
        p = [math.exp(v) / sum(math.exp(w) for w in s) for v in s]
        q = [math.exp(v) / sum(math.exp(w) for w in t) for v in t]
        forward += sum(b * math.log(b / a) for a, b in zip(p, q, strict=True))
        backward += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert 0 < first < fifth < 10
    assert metrics.compute() == pytest.approx(
        {
            "top1": 10 * first,
            "top5": 10 * fifth,
            "kl_teacher_student": forward / 10,
            "kl_student_teacher": backward / 10,
        },
        rel=1e-9,
    )
