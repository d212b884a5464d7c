"""What every norm layer has in common: the call `norm(x, residual)`, the activation, the role `is_norm`."""

from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videonorm.layers.leaf import is_traced, leaf

Activation = Literal["relu"]
TORCH_NORMS = (
    nn.modules.batchnorm._NormBase,  # BatchNorm, SyncBatchNorm, InstanceNorm
    nn.GroupNorm,
    nn.LayerNorm,
)


def is_norm(module: nn.Module) -> bool:
    """Whether the module has the role of a norm layer: ours say so themselves, torch's are known."""
    return getattr(module, "is_norm", False) or isinstance(module, TORCH_NORMS)


def norm_layers(model: nn.Module) -> Iterator[nn.Module]:
    """The norm layers of a model. A norm that is built from other norms counts once."""
    for child in [model] if is_norm(model) else model.children():
        if is_norm(child):
            yield child
        else:
            yield from norm_layers(child)


class Norm(nn.Module):
    """Base of all norm layers: normalize, add a residual if there is one, apply the activation if it is set.

    Code that treats norms apart (zero gamma, weight decay, freezing) asks for the role, ``is_norm``, and not
    for a class. Affine parameters are ``weight`` and ``bias`` where they exist.

    Args:
        num_channels: C.
        activation: "relu" or None. A public attribute: a block may set it after it has made its norm.

    Shape:
        x, residual and the result (B, C, T, H, W). The result has the dtype and memory format of x.
    """

    is_norm: ClassVar[bool] = True
    needs_conv_bias: ClassVar[bool] = False
    """Whether the convolution before this layer must have a bias, because the layer adds none."""
    activation_parameters: ClassVar[Mapping[str, float]] = {}
    """Parameters (C,) that a layer has only where it has an activation, and what they start at."""

    def __init__(self, num_channels: int, *, activation: Activation | None = None) -> None:
        nn.Module.__init__(self)  # not super(): a batch norm has torch's as its next base
        if num_channels < 1:
            raise ValueError(f"num_channels ({num_channels}) must be at least 1")
        self.num_channels = num_channels
        self.activation = activation

    @property
    def activation(self) -> Activation | None:
        return self._activation

    @activation.setter
    def activation(self, activation: Activation | None) -> None:
        if activation not in ("relu", None):
            raise ValueError(f"activation ({activation!r}) must be 'relu' or None")
        self._activation: Activation | None = activation
        for name, start in self.activation_parameters.items():
            if activation is None:
                self.register_parameter(name, None)
            elif getattr(self, name) is None:
                like = self.weight
                assert isinstance(like, nn.Parameter)
                del self._parameters[name]  # to come behind the others
                self.register_parameter(name, nn.Parameter(torch.full_like(like, start), like.requires_grad))

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if is_traced(x):
            return leaf(self, x, residual)
        y = self.normalize(x)
        if residual is not None:
            # `to` would write the dtype met in tracing into an exported program.
            y = (y + residual).type_as(y)
        return self.activate(y)

    def activate(self, y: Tensor) -> Tensor:
        """Apply the activation to y, which may be overwritten."""
        return F.relu(y, inplace=True) if self.activation == "relu" else y

    def normalize(self, x: Tensor) -> Tensor:
        """Normalize x into a new tensor, which the caller may overwrite."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"{self.num_channels}" + (f", activation={self.activation!r}" if self.activation else "")


class AffineNorm(Norm):
    """A norm that learns ``weight`` and ``bias``, (C,), from 1 and 0."""

    def __init__(self, num_channels: int, *, activation: Activation | None = None) -> None:
        super().__init__(num_channels)
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))
        self.activation = activation  # whose parameters are made like the weight

    def scale_and_shift(self, z: Tensor, scale: Tensor | float = 1.0) -> Tensor:
        """weight * scale * z + bias, in the dtype of z.

        Args:
            scale: by channel, (C, 1, 1, 1), or by clip too, (B, C, 1, 1, 1): multiplied before z is.
        """
        weight, bias = (parameter.to(z.dtype).view(-1, 1, 1, 1) for parameter in (self.weight, self.bias))
        return z * (weight * scale) + bias
