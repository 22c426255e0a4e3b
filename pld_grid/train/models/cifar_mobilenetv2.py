"""MobileNetV2 for 32-pixel images, at half width, as the knowledge-distillation literature has it on CIFAR-100.

That is the benchmark's `mobile_half` (Tian et al., "Contrastive Representation Distillation", ICLR 2020): Sandler et
al.'s layers at half the channels, but for the last convolution's 1280. It differs from theirs in three ways: the second
stage has a stride of 1, for a total stride of 16; activations are ReLU, not ReLU6; and the first block has an expansion
layer although it does not expand.

Initial weights as there: convolutions normal with variance 2 / (k^2 * channels out), for depthwise ones too; the
classifier normal with deviation 0.01 and zero biases; normalisations the identity.
"""

import math
from typing import Any

from timm.models import EfficientNet, build_model_with_cfg, generate_default_cfgs, register_model

# timm's models are all built from such strings, but their decoder has no public name.
from timm.models._efficientnet_builder import decode_arch_def
from torch import nn

# `register_model` looks a model's facts up here; there are no published weights.
default_cfgs = generate_default_cfgs(
    {
        "cifar_mobilenetv2_050": {
            "input_size": (3, 32, 32),
            "num_classes": 100,
            "first_conv": "conv_stem",
            "classifier": "classifier",
        }
    }
)


@register_model
def cifar_mobilenetv2_050(pretrained: bool = False, **options: Any) -> EfficientNet:
    """MobileNetV2 at half width; timm's class for inverted residuals has another network's name."""
    stages = [
        ["ir_r1_k3_s1_e1_c8"],
        ["ir_r2_k3_s1_e6_c12"],
        ["ir_r3_k3_s2_e6_c16"],
        ["ir_r4_k3_s2_e6_c32"],
        ["ir_r3_k3_s1_e6_c48"],
        ["ir_r3_k3_s2_e6_c80"],
        ["ir_r1_k3_s1_e6_c160"],
    ]
    # The channels are halved already: `int` keeps them where timm would round them to multiples of 8.
    defaults: dict[str, Any] = {"stem_size": 16, "num_features": 1280, "round_chs_fn": int, "act_layer": nn.ReLU}
    built: EfficientNet = build_model_with_cfg(
        EfficientNet,
        "cifar_mobilenetv2_050",
        pretrained,
        block_args=decode_arch_def(stages),  # type: ignore[no-untyped-call]
        **defaults | options,
    )
    if not pretrained:
        built.apply(_initialise)
    return built


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, std=math.sqrt(2 / (math.prod(module.kernel_size) * module.out_channels)))
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
        nn.init.zeros_(module.bias)
