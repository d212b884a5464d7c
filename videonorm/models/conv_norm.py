"""A convolution and the norm after it: the brick that ResNet3d and VGG3d are built of.

Sizes are (T, H, W). The two factories are the whole plug-in system: a model is told how to make a norm from a
number of channels and how to make a convolution from (in_channels, out_channels, kernel_size), nothing else.
"""

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from videonorm.layers import (
    Recompute,
    WeightNormConv3d,
    group_weight_standardization,
    require_recomputable_norm,
)

Size = tuple[int, int, int]
Activation = Literal["relu"] | None
NormFactory = Callable[[int], nn.Module]
ConvFactory = Callable[[int, int, Size], nn.Conv3d]


class ConvNorm(nn.Module):
    """y = activation(norm(conv(x)) + residual), the last three in one call of the norm.

    The convolution keeps the size of x but for its stride. It has a bias only where the norm asks for one
    (`needs_conv_bias`): elsewhere the norm's own bias does that work.

    Args:
        mid_channels: factorize the convolution into space, norm, ReLU and time, with so many channels between
            them: R(2+1)D, Tran et al., arXiv:1711.11248, section 3.5.
        norm, conv: factories, see above.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = (1, 1, 1),
        *,
        activation: Activation = None,
        mid_channels: int | None = None,
        norm: NormFactory,
        conv: ConvFactory,
    ) -> None:
        super().__init__()
        layer = make_norm(norm, out_channels, activation)
        bias = needs_bias(layer)
        self.conv: nn.Module
        if mid_channels is None:
            self.conv = make_conv(conv, in_channels, out_channels, kernel_size, stride, bias)
        else:
            (time, height, width), (time_stride, *space_stride) = kernel_size, stride
            self.conv = nn.Sequential(
                ConvNorm(
                    in_channels,
                    mid_channels,
                    (1, height, width),
                    (1, space_stride[0], space_stride[1]),
                    activation="relu",
                    norm=norm,
                    conv=conv,
                ),
                make_conv(conv, mid_channels, out_channels, (time, 1, 1), (time_stride, 1, 1), bias),
            )
        self.norm = layer

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        # By its name: a hook that gives back (x,) for the arguments, as fvcore's precise batch norm does,
        # would take away a residual that stands beside it.
        y: Tensor = self.norm(self.conv(x), residual=residual)
        return y


def make_norm(norm: NormFactory, num_channels: int, activation: Activation = None) -> nn.Module:
    """A norm of `videonorm.layers` that ends in `activation`.

    Raises:
        ValueError: `norm` makes something that is not called `norm(x, residual)`, such as torch's own
            BatchNorm3d.
    """
    layer = norm(num_channels)
    if not getattr(layer, "is_norm", False):
        name = type(layer).__name__
        raise ValueError(f"norm ({name}) must be one of videonorm.layers, which are called norm(x, residual)")
    layer.activation = activation  # type: ignore[assignment]  # nn.Module takes it for a Tensor or a Module
    return layer


def needs_bias(norm: nn.Module) -> bool:
    """Whether a convolution before this norm must have a bias, because the norm adds none."""
    return bool(getattr(norm, "needs_conv_bias", False))


def make_conv(
    conv: ConvFactory, in_channels: int, out_channels: int, kernel_size: Size, stride: Size, bias: bool
) -> nn.Conv3d:
    """A convolution that keeps the size but for its stride. Kernel sizes must be odd."""
    make: Callable[..., nn.Conv3d] = conv
    padding = tuple(size // 2 for size in kernel_size)
    return make(in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=bias)


def check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} ({value}) must be one of {', '.join(map(str, choices))}")


def finish(network: nn.Module, recompute: Recompute) -> None:
    """What follows when all parts of a network are there: first weights, and those standardized together.

    Raises:
        ValueError: `recompute` is unknown, or none of its norms can be recomputed.
    """
    require_recomputable_norm(network, recompute)
    _initialize(network)
    group_weight_standardization(network)


def _initialize(model: nn.Module) -> None:
    """He initialization of convolutions (fan out, arXiv:1502.01852), as in torchvision and PyTorchVideo.

    The classifier starts at a standard deviation of 0.01; norms keep what they start with.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if isinstance(module, WeightNormConv3d):
                module.reset_gain()
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
        if isinstance(module, nn.Conv3d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
