"""MobileNetV4 for images of a few hundred pixels: the five published layouts, narrow and shallow.

The published networks have a total stride of 32, which reduces 16-pixel images to one pixel after half their depth.
These keep each layout's blocks (plain convolutions in Small; a fused inverted bottleneck, then universal inverted
bottlenecks in the others; mobile attention and layer scale in Hybrid; timm's activations) at a total stride of 8 and a
fifth of the depth.
"""

from typing import Any

from timm.models import MobileNetV3, build_model_with_cfg, generate_default_cfgs, register_model

# timm builds its models from block strings, but their decoder has no public name.
from timm.models._efficientnet_builder import decode_arch_def

# Raised whenever a change gives other numbers: it is part of every cell.
REVISION = 1

# `register_model` reads a model's configuration here; there are no published weights.
default_cfgs: dict[str, Any] = {}
# timm's 1e-5 would need more updates to grow than a small training has.
LAYER_SCALE = 0.1


def _register(variant: str, *stages: str, **defaults: Any) -> None:
    """Register a MobileNetV4 (timm's class is MobileNetV3); a stage is timm's block strings, separated by spaces."""
    config = {"first_conv": "conv_stem", "classifier": "classifier"}
    default_cfgs.update(generate_default_cfgs({variant: config}))

    def build(pretrained: bool = False, **options: Any) -> MobileNetV3:
        model: MobileNetV3 = build_model_with_cfg(
            MobileNetV3,
            variant,
            pretrained,
            block_args=decode_arch_def([stage.split() for stage in stages]),  # type: ignore[no-untyped-call]
            **{"head_bias": False, "head_norm": True} | defaults | options,
        )
        return model

    build.__name__ = variant
    register_model(build)


_register(
    "mobilenetv4_conv_small_narrow",
    "cn_r1_k3_s1_e1_c8",
    "cn_r1_k3_s2_e1_c16",
    "uir_r1_a3_k3_s2_e3_c16 uir_r1_a0_k3_s1_e2_c16 uir_r1_a3_k0_s1_e4_c16",
    "cn_r1_k1_s1_c32",
    stem_size=8,
    num_features=32,
)
_register(
    "mobilenetv4_conv_medium_narrow",
    "er_r1_k3_s2_e2_c8",
    "uir_r1_a3_k3_s1_e3_c8",
    "uir_r1_a3_k3_s2_e3_c16 uir_r1_a3_k3_s1_e3_c16 uir_r1_a3_k0_s1_e3_c16 uir_r1_a0_k0_s1_e2_c16",
    "cn_r1_k1_s1_c48",
    stem_size=8,
    num_features=48,
)
_register(
    "mobilenetv4_conv_large_narrow",
    "er_r1_k3_s2_e4_c32",
    "uir_r1_a3_k5_s1_e4_c48 uir_r1_a3_k3_s1_e4_c48",
    "uir_r1_a3_k5_s2_e4_c80 uir_r1_a5_k3_s1_e4_c80 uir_r1_a3_k0_s1_e4_c80",
    "cn_r1_k1_s1_c160",
    stem_size=16,
    num_features=192,
)
_register(
    "mobilenetv4_hybrid_medium_narrow",
    "er_r1_k3_s2_e4_c16",
    "uir_r1_a3_k3_s1_e3_c16 mqa_r1_k3_h4_s1_v2_d8_c16 uir_r1_a3_k0_s1_e2_c16",
    "uir_r1_a3_k3_s2_e3_c16 mqa_r1_k3_h4_s1_d8_c16 uir_r1_a3_k0_s1_e4_c16",
    "cn_r1_k1_s1_c48",
    stem_size=8,
    num_features=48,
    layer_scale_init_value=LAYER_SCALE,
)
_register(
    "mobilenetv4_hybrid_large_narrow",
    "er_r1_k3_s2_e4_c24",
    "uir_r1_a3_k5_s1_e4_c48 mqa_r1_k3_h8_s1_v2_d16_c48 uir_r1_a3_k0_s1_e4_c48",
    "uir_r1_a3_k5_s2_e4_c96 uir_r1_a5_k3_s1_e4_c96 mqa_r1_k3_h8_s1_d16_c96 uir_r1_a3_k0_s1_e4_c96",
    "cn_r1_k1_s1_c192",
    stem_size=16,
    num_features=256,
    act_layer="gelu",
    layer_scale_init_value=LAYER_SCALE,
)
