"""MobileNetV2 for 32-pixel images at half width, as used on CIFAR-100 in the knowledge-distillation literature.

It is the benchmark's `mobile_half` (Tian et al., "Contrastive Representation Distillation", ICLR 2020): Sandler et
al.'s layers with half the channels, except for the last convolution's 1280. It differs from theirs in three ways: the
second stage has stride 1, for a total stride of 16; activations are ReLU, not ReLU6; and the first block has an
expansion layer although its expansion factor is 1.

Initial weights follow the benchmark: convolutions normal with variance 2 / (k^2 * channels out), also for
depthwise ones; the classifier normal with standard deviation 0.01 and zero biases; normalizations the identity.
"""

import math
from typing import Any

from timm.models import EfficientNet, build_model_with_cfg, generate_default_cfgs, register_model

# timm builds its models from block strings, but their decoder has no public name.
from timm.models._efficientnet_builder import decode_arch_def
from torch import nn

# Raised whenever a change gives other numbers: it is part of every cell.
REVISION = 1

# `register_model` reads a model's configuration here; there are no published weights.
_CONFIG = {"input_size": (3, 32, 32), "num_classes": 100, "first_conv": "conv_stem", "classifier": "classifier"}
default_cfgs = generate_default_cfgs({"cifar_mobilenetv2_050": _CONFIG})


@register_model
def cifar_mobilenetv2_050(pretrained: bool = False, **options: Any) -> EfficientNet:
    """Build MobileNetV2 at half width; timm's class for inverted residuals is called EfficientNet."""
    stages = [
        ["ir_r1_k3_s1_e1_c8"],
        ["ir_r2_k3_s1_e6_c12"],
        ["ir_r3_k3_s2_e6_c16"],
        ["ir_r4_k3_s2_e6_c32"],
        ["ir_r3_k3_s1_e6_c48"],
        ["ir_r3_k3_s2_e6_c80"],
        ["ir_r1_k3_s1_e6_c160"],
    ]
    # The channels above are halved already; `int` keeps timm from rounding them to multiples of 8.
    defaults: dict[str, Any] = {"stem_size": 16, "num_features": 1280, "round_chs_fn": int, "act_layer": nn.ReLU}
    model: EfficientNet = build_model_with_cfg(
        EfficientNet,
        "cifar_mobilenetv2_050",
        pretrained,
        block_args=decode_arch_def(stages),  # type: ignore[no-untyped-call]
        **defaults | options,
    )
    if not pretrained:
        model.apply(_initialize)
    return model


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, std=math.sqrt(2 / (math.prod(module.kernel_size) * module.out_channels)))
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
        nn.init.zeros_(module.bias)
