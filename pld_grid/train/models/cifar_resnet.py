"""Residual networks for 32-pixel images, as used on CIFAR-100 in the knowledge-distillation literature.

They are those of the common benchmark (Tian et al., "Contrastive Representation Distillation", ICLR
2020): ResNets of three stages (He et al. 2016, section 4.2; "x4" is four times as wide behind a stem of 32), a
ResNet-50 with the stages of ImageNet's, and Wide ResNets (Zagoruyko and Komodakis 2016). All begin with a 3x3
convolution without pooling and halve the resolution at the start of every stage but the first.

Initial weights follow the benchmark: convolutions normal with variance 2 / (k^2 * channels out), normalizations
the identity, the classifier torch's default, with zero biases in Wide ResNets.

Shape suffixes: N images, C channels, H and W pixels, F features, K classes.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from timm.layers import ClassifierHead
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn

# Raised whenever a change gives other numbers: it is part of every cell.
REVISION = 1

# `register_model` reads a model's configuration here; there are no published weights.
default_cfgs: dict[str, Any] = {}


class CifarNet(nn.Module):
    """Convolutional layers, average pooling and a linear classifier, with timm's interface.

    Args:
        body: Maps images (N, C, H, W) to feature maps (N, F, H', W').
        num_features: F.
        num_classes: K; 0 omits the classifier.
    """

    def __init__(self, body: nn.Module, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.num_features, self.num_classes = num_features, num_classes
        self.body = body
        self.head = ClassifierHead(num_features, num_classes)
        for module in self.body.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def get_classifier(self) -> nn.Module:
        """Return the last layer."""
        classifier: nn.Module = self.head.fc
        return classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the last layer, for another number of classes."""
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool)

    def forward_features(self, x_NCHW: Tensor) -> Tensor:
        """Return feature maps (N, F, H', W')."""
        maps_NFHW: Tensor = self.body(x_NCHW)
        return maps_NFHW

    def forward_head(self, maps_NFHW: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the logits (N, K) of feature maps, or with `pre_logits` their means (N, F)."""
        out: Tensor = self.head(maps_NFHW, pre_logits=pre_logits)
        return out

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the logits (N, K) of normalized images."""
        return self.forward_head(self.forward_features(x_NCHW))


class PreActivatedBlock(nn.Module):
    """Wide ResNet's block: normalization and ReLU before each of two 3x3 convolutions.

    Where the number of channels changes, the shortcut is a 1x1 convolution after the first ReLU.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.act = nn.ReLU(inplace=True)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else None

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return feature maps of the block's width and resolution."""
        active_NCHW = self.act(self.bn1(x_NCHW))
        shortcut_NCHW = x_NCHW if self.shortcut is None else self.shortcut(active_NCHW)
        residual_NCHW: Tensor = self.conv2(self.act(self.bn2(self.conv1(active_NCHW))))
        return shortcut_NCHW + residual_NCHW


def _post_activation_block(block: type[BasicBlock | Bottleneck], inputs: int, outputs: int, stride: int) -> nn.Module:
    """Build ResNet's block: ReLU after the sum, and a 1x1 convolution in the shortcut where the shape changes."""
    shortcut = None
    if stride != 1 or inputs != outputs:
        shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
    return block(inputs, outputs // block.expansion, stride, shortcut)


def _stages(
    block: Callable[[int, int, int], nn.Module], channels: int, widths: Sequence[int], depths: Sequence[int]
) -> Iterator[nn.Module]:
    """Yield the blocks of all stages, for an input of `channels`; each stage but the first starts with stride 2."""
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        for position in range(depth):
            yield block(channels, width, 2 if stage and not position else 1)
            channels = width


def _resnet(
    block: type[BasicBlock | Bottleneck],
    stem: int,
    widths: Sequence[int],
    depths: Sequence[int],
    num_classes: int,
    in_chans: int,
) -> CifarNet:
    """Build a ResNet from the channels of its stem and stages (widths) and the blocks per stage (depths)."""
    return CifarNet(
        nn.Sequential(
            nn.Conv2d(in_chans, stem, 3, padding=1, bias=False),
            nn.BatchNorm2d(stem),
            nn.ReLU(inplace=True),
            *_stages(partial(_post_activation_block, block), stem, widths, depths),
        ),
        widths[-1],
        num_classes,
    )


def _wide_resnet(widening: int, num_classes: int, in_chans: int) -> CifarNet:
    """Build a Wide ResNet of depth 40: six blocks per stage, `widening` times as wide as a ResNet's."""
    widths = [widening * width for width in (16, 32, 64)]
    net = CifarNet(
        nn.Sequential(
            nn.Conv2d(in_chans, 16, 3, padding=1, bias=False),
            *_stages(PreActivatedBlock, 16, widths, (6, 6, 6)),
            nn.BatchNorm2d(widths[-1]),
            nn.ReLU(inplace=True),
        ),
        widths[-1],
        num_classes,
    )
    if isinstance(net.head.fc, nn.Linear):
        nn.init.zeros_(net.head.fc.bias)
    return net


def _register(variant: str, network: Callable[..., CifarNet]) -> None:
    """Register a network under a name; timm passes the number of classes and channels."""
    config = {"input_size": (3, 32, 32), "num_classes": 100, "first_conv": "body.0", "classifier": "head.fc"}
    default_cfgs.update(generate_default_cfgs({variant: config}))

    def build(pretrained: bool = False, **options: Any) -> CifarNet:
        model: CifarNet = build_model_with_cfg(network, variant, pretrained, **options)
        return model

    build.__name__ = variant
    register_model(build)


_register("cifar_resnet20", partial(_resnet, BasicBlock, 16, (16, 32, 64), (3, 3, 3)))
_register("cifar_resnet56", partial(_resnet, BasicBlock, 16, (16, 32, 64), (9, 9, 9)))
_register("cifar_resnet8x4", partial(_resnet, BasicBlock, 32, (64, 128, 256), (1, 1, 1)))
_register("cifar_resnet32x4", partial(_resnet, BasicBlock, 32, (64, 128, 256), (5, 5, 5)))
# ImageNet's four stages of bottlenecks behind the small stem.
_register("cifar_resnet50", partial(_resnet, Bottleneck, 64, (256, 512, 1024, 2048), (3, 4, 6, 3)))
_register("cifar_wrn40_1", partial(_wide_resnet, 1))
_register("cifar_wrn40_2", partial(_wide_resnet, 2))
