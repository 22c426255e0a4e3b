"""MobileNetV4 for images of a few hundred pixels: the five published layouts, narrow and shallow.

The published ones have a total stride of 32 and end 16-pixel images at one pixel after half their depth. These keep
each layout's blocks (plain convolutions in Small; a fused inverted bottleneck, then universal inverted bottlenecks
above; mobile attention and layer scale in Hybrid; timm's activations) at a total stride of 8 and a fifth of the depth.
"""

from typing import Any

from timm.models import MobileNetV3, build_model_with_cfg, generate_default_cfgs, register_model

# timm's models are all built from such strings, but their decoder has no public name.
from timm.models._efficientnet_builder import decode_arch_def

# `register_model` looks a model's facts up here; there are no published weights.
default_cfgs = generate_default_cfgs(
    {
        f"mobilenetv4_{name}_narrow": {"first_conv": "conv_stem", "classifier": "classifier"}
        for name in ("conv_small", "conv_medium", "conv_large", "hybrid_medium", "hybrid_large")
    }
)
# timm's 1e-5 would take more updates to grow than a small training has.
LAYER_SCALE = 0.1


def _build(variant: str, stages: list[list[str]], pretrained: bool, options: dict[str, Any]) -> MobileNetV3:
    """A MobileNetV4 (timm's class has the older name) of those stages: timm's block strings, a list per stage."""
    built: MobileNetV3 = build_model_with_cfg(
        MobileNetV3,
        variant,
        pretrained,
        block_args=decode_arch_def(stages),  # type: ignore[no-untyped-call]
        **{"head_bias": False, "head_norm": True} | options,
    )
    return built


@register_model
def mobilenetv4_conv_small_narrow(pretrained: bool = False, **options: Any) -> MobileNetV3:
    """Conv Small: plain convolutions, then universal inverted bottlenecks."""
    stages = [
        ["cn_r1_k3_s1_e1_c8"],
        ["cn_r1_k3_s2_e1_c16"],
        ["uir_r1_a3_k3_s2_e3_c16", "uir_r1_a0_k3_s1_e2_c16", "uir_r1_a3_k0_s1_e4_c16"],
        ["cn_r1_k1_s1_c32"],
    ]
    defaults = {"stem_size": 8, "num_features": 32}
    return _build("mobilenetv4_conv_small_narrow", stages, pretrained, defaults | options)


@register_model
def mobilenetv4_conv_medium_narrow(pretrained: bool = False, **options: Any) -> MobileNetV3:
    """Conv Medium: a fused inverted bottleneck, then universal ones."""
    stages = [
        ["er_r1_k3_s2_e2_c8"],
        ["uir_r1_a3_k3_s1_e3_c8"],
        ["uir_r1_a3_k3_s2_e3_c16", "uir_r1_a3_k3_s1_e3_c16", "uir_r1_a3_k0_s1_e3_c16", "uir_r1_a0_k0_s1_e2_c16"],
        ["cn_r1_k1_s1_c48"],
    ]
    defaults = {"stem_size": 8, "num_features": 48}
    return _build("mobilenetv4_conv_medium_narrow", stages, pretrained, defaults | options)


@register_model
def mobilenetv4_conv_large_narrow(pretrained: bool = False, **options: Any) -> MobileNetV3:
    """Conv Large: Conv Medium's blocks, wider, with larger kernels."""
    stages = [
        ["er_r1_k3_s2_e4_c32"],
        ["uir_r1_a3_k5_s1_e4_c48", "uir_r1_a3_k3_s1_e4_c48"],
        ["uir_r1_a3_k5_s2_e4_c80", "uir_r1_a5_k3_s1_e4_c80", "uir_r1_a3_k0_s1_e4_c80"],
        ["cn_r1_k1_s1_c160"],
    ]
    defaults = {"stem_size": 16, "num_features": 192}
    return _build("mobilenetv4_conv_large_narrow", stages, pretrained, defaults | options)


@register_model
def mobilenetv4_hybrid_medium_narrow(pretrained: bool = False, **options: Any) -> MobileNetV3:
    """Hybrid Medium: Conv Medium's blocks with mobile attention between them."""
    stages = [
        ["er_r1_k3_s2_e4_c16"],
        ["uir_r1_a3_k3_s1_e3_c16", "mqa_r1_k3_h4_s1_v2_d8_c16", "uir_r1_a3_k0_s1_e2_c16"],
        ["uir_r1_a3_k3_s2_e3_c16", "mqa_r1_k3_h4_s1_d8_c16", "uir_r1_a3_k0_s1_e4_c16"],
        ["cn_r1_k1_s1_c48"],
    ]
    defaults = {"stem_size": 8, "num_features": 48, "layer_scale_init_value": LAYER_SCALE}
    return _build("mobilenetv4_hybrid_medium_narrow", stages, pretrained, defaults | options)


@register_model
def mobilenetv4_hybrid_large_narrow(pretrained: bool = False, **options: Any) -> MobileNetV3:
    """Hybrid Large: Hybrid Medium's blocks, wider, with larger kernels and GELU."""
    stages = [
        ["er_r1_k3_s2_e4_c24"],
        ["uir_r1_a3_k5_s1_e4_c48", "mqa_r1_k3_h8_s1_v2_d16_c48", "uir_r1_a3_k0_s1_e4_c48"],
        ["uir_r1_a3_k5_s2_e4_c96", "uir_r1_a5_k3_s1_e4_c96", "mqa_r1_k3_h8_s1_d16_c96", "uir_r1_a3_k0_s1_e4_c96"],
        ["cn_r1_k1_s1_c192"],
    ]
    defaults = {"stem_size": 16, "num_features": 256, "act_layer": "gelu", "layer_scale_init_value": LAYER_SCALE}
    return _build("mobilenetv4_hybrid_large_narrow", stages, pretrained, defaults | options)
