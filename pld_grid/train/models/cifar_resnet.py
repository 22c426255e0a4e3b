"""Residual networks for 32-pixel images, as the knowledge-distillation literature has them on CIFAR-100.

They are those of the benchmark that most of it shares (Tian et al., "Contrastive Representation Distillation", ICLR
2020): ResNets of three stages (He et al. 2016, section 4.2; "x4" is four times as wide behind a stem of 32), a
ResNet-50 with the stages of ImageNet's, and Wide ResNets (Zagoruyko and Komodakis 2016). All begin with a 3x3
convolution without pooling and halve the resolution at the start of every stage but the first.

Initial weights as there: convolutions normal with variance 2 / (k^2 * channels out), normalisations the identity, the
classifier torch's default, with zero biases in Wide ResNets.

Shape suffixes: N images, C channels, H and W pixels, F features, K classes.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from timm.layers import ClassifierHead
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn

# `register_model` looks a model's facts up here; there are no published weights.
default_cfgs = generate_default_cfgs(
    {
        f"cifar_{name}": {
            "input_size": (3, 32, 32),
            "num_classes": 100,
            "first_conv": "body.0",
            "classifier": "head.fc",
        }
        for name in ("resnet20", "resnet56", "resnet8x4", "resnet32x4", "resnet50", "wrn40_1", "wrn40_2")
    }
)


class CifarNet(nn.Module):
    """Convolutional layers, the mean over the pixels, a linear classifier; with timm's interface.

    Args:
        body: maps images (N, C, H, W) to feature maps (N, F, H', W').
        num_features: F.
        num_classes: K; 0 leaves the classifier out.
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
        """The last layer."""
        classifier: nn.Module = self.head.fc
        return classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new last layer, for another number of classes."""
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool)

    def forward_features(self, x_NCHW: Tensor) -> Tensor:
        """Feature maps (N, F, H', W')."""
        maps_NFHW: Tensor = self.body(x_NCHW)
        return maps_NFHW

    def forward_head(self, maps_NFHW: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits (N, K) of feature maps; with `pre_logits` their means (N, F)."""
        out: Tensor = self.head(maps_NFHW, pre_logits=pre_logits)
        return out

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Logits (N, K) of normalised images."""
        return self.forward_head(self.forward_features(x_NCHW))


class PreActivatedBlock(nn.Module):
    """Wide ResNet's block: normalisation and ReLU before each of two 3x3 convolutions.

    Where the number of channels changes, the shortcut is a 1x1 convolution that begins after the first ReLU.
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
        """Feature maps of the block's width and resolution."""
        active_NCHW = self.act(self.bn1(x_NCHW))
        kept_NCHW = x_NCHW if self.shortcut is None else self.shortcut(active_NCHW)
        added_NCHW: Tensor = self.conv2(self.act(self.bn2(self.conv1(active_NCHW))))
        return kept_NCHW + added_NCHW


def _post_activated(kind: type[BasicBlock | Bottleneck], inputs: int, outputs: int, stride: int) -> nn.Module:
    """ResNet's block: ReLU after the sum; a normalised 1x1 convolution in the shortcut where the shape changes."""
    shortcut = None
    if stride != 1 or inputs != outputs:
        shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
    return kind(inputs, outputs // kind.expansion, stride, shortcut)


def _stages(
    block: Callable[[int, int, int], nn.Module], channels: int, widths: Sequence[int], depths: Sequence[int]
) -> Iterator[nn.Module]:
    """The blocks of all stages, behind so many channels; each stage but the first begins with a stride of 2."""
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        for place in range(depth):
            yield block(channels, width, 2 if stage and not place else 1)
            channels = width


def _resnet(
    kind: type[BasicBlock | Bottleneck],
    stem: int,
    widths: Sequence[int],
    depths: Sequence[int],
    num_classes: int,
    in_chans: int,
) -> CifarNet:
    """A ResNet with so many channels in its stem and after each stage, and so many blocks per stage."""
    return CifarNet(
        nn.Sequential(
            nn.Conv2d(in_chans, stem, 3, padding=1, bias=False),
            nn.BatchNorm2d(stem),
            nn.ReLU(inplace=True),
            *_stages(partial(_post_activated, kind), stem, widths, depths),
        ),
        widths[-1],
        num_classes,
    )


def _wide_resnet(widening: int, num_classes: int, in_chans: int) -> CifarNet:
    """A Wide ResNet of depth 40: six blocks per stage, `widening` times as wide as a ResNet's."""
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


def _build(variant: str, network: Callable[..., CifarNet], pretrained: bool, options: dict[str, Any]) -> CifarNet:
    """A network by timm's own way, which knows the number of classes and channels."""
    built: CifarNet = build_model_with_cfg(network, variant, pretrained, **options)
    return built


@register_model
def cifar_resnet20(pretrained: bool = False, **options: Any) -> CifarNet:
    """ResNet-20: three basic blocks per stage."""
    network = partial(_resnet, BasicBlock, 16, (16, 32, 64), (3, 3, 3))
    return _build("cifar_resnet20", network, pretrained, options)


@register_model
def cifar_resnet56(pretrained: bool = False, **options: Any) -> CifarNet:
    """ResNet-56: nine basic blocks per stage."""
    network = partial(_resnet, BasicBlock, 16, (16, 32, 64), (9, 9, 9))
    return _build("cifar_resnet56", network, pretrained, options)


@register_model
def cifar_resnet8x4(pretrained: bool = False, **options: Any) -> CifarNet:
    """ResNet-8x4: one wide basic block per stage."""
    network = partial(_resnet, BasicBlock, 32, (64, 128, 256), (1, 1, 1))
    return _build("cifar_resnet8x4", network, pretrained, options)


@register_model
def cifar_resnet32x4(pretrained: bool = False, **options: Any) -> CifarNet:
    """ResNet-32x4: five wide basic blocks per stage."""
    network = partial(_resnet, BasicBlock, 32, (64, 128, 256), (5, 5, 5))
    return _build("cifar_resnet32x4", network, pretrained, options)


@register_model
def cifar_resnet50(pretrained: bool = False, **options: Any) -> CifarNet:
    """ResNet-50: ImageNet's four stages of bottlenecks behind the small stem."""
    network = partial(_resnet, Bottleneck, 64, (256, 512, 1024, 2048), (3, 4, 6, 3))
    return _build("cifar_resnet50", network, pretrained, options)


@register_model
def cifar_wrn40_1(pretrained: bool = False, **options: Any) -> CifarNet:
    """WRN-40-1: Wide ResNet of depth 40, as wide as a ResNet."""
    return _build("cifar_wrn40_1", partial(_wide_resnet, 1), pretrained, options)


@register_model
def cifar_wrn40_2(pretrained: bool = False, **options: Any) -> CifarNet:
    """WRN-40-2: Wide ResNet of depth 40, twice as wide."""
    return _build("cifar_wrn40_2", partial(_wide_resnet, 2), pretrained, options)
