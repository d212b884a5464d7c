"""Networks of projects that PyPI has not, in small: their modules' names, their sums.

Written from the layouts that these projects document, and knowing nothing of the readers.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


def unfilled(make: Callable[[], nn.Module]) -> nn.Module:
    """A network without the time that its first weights take: what is not loaded is anything."""
    with torch.device("meta"):
        model = make()
    return model.to_empty(device="cpu")


def randomize(make: Callable[[], nn.Module]) -> nn.Module:
    """Weights, and running statistics that are not those of a start, by which outputs are of order 1."""
    model = unfilled(make)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("num_batches_tracked"):
                tensor.fill_(7)
            elif tensor.ndim > 1:
                fan_in = tensor[0].numel()
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * (2 / fan_in) ** 0.5)
            elif name.endswith("running_var"):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            else:
                tensor.copy_(torch.rand(tensor.shape, generator=generator) - 0.3)
    return model.eval()


class ConvModule(nn.Module):
    """mmcv's: conv, bn, perhaps a ReLU."""

    def __init__(self, conv: nn.Module, channels: int, eps: float, relu: bool = True) -> None:
        super().__init__()
        self.conv = conv
        self.bn = nn.BatchNorm3d(channels, eps=eps)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(self.conv(x))
        return y.relu() if self.relu else y


class Conv2plus1d(nn.Module):
    def __init__(self, fan_in: int, fan_out: int, kernel, stride) -> None:
        super().__init__()
        t, h, w = kernel
        mid = int(3 * (fan_in * fan_out * h * w) / (fan_in * h * w + 3 * fan_out))
        self.conv_s = nn.Conv3d(fan_in, mid, (1, h, w), (1, *stride[1:]), (0, h // 2, w // 2), bias=False)
        self.bn_s = nn.BatchNorm3d(mid)
        self.conv_t = nn.Conv3d(mid, fan_out, (t, 1, 1), (stride[0], 1, 1), (t // 2, 0, 0), bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_t(self.bn_s(self.conv_s(x)).relu())


class MMActionBlock(nn.Module):
    def __init__(self, fan_in: int, planes: int, kernels, stride, factorized: bool, eps: float) -> None:
        super().__init__()

        def module(fan_in, fan_out, kernel, stride, relu) -> ConvModule:
            padding = [size // 2 for size in kernel]
            if factorized:
                conv: nn.Module = Conv2plus1d(fan_in, fan_out, kernel, stride)
            else:
                conv = nn.Conv3d(fan_in, fan_out, kernel, stride, padding, bias=False)
            return ConvModule(conv, fan_out, eps, relu)

        fan_out = planes * (4 if len(kernels) == 3 else 1)
        self.number = len(kernels)
        channels = fan_in
        strided = [kernel[1] for kernel in kernels].index(3)
        for index, kernel in enumerate(kernels):
            last = index == self.number - 1
            out = fan_out if last else planes
            steps = stride if index == strided else (1, 1, 1)
            self.add_module(f"conv{index + 1}", module(channels, out, kernel, steps, not last))
            channels = out
        self.downsample = None
        if stride[1] != 1 or fan_in != fan_out:
            self.downsample = module(fan_in, fan_out, (1, 1, 1), stride, False)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for index in range(self.number):
            y = getattr(self, f"conv{index + 1}")(y)
        return (y + (x if self.downsample is None else self.downsample(x))).relu()


class MMActionBackbone(nn.Module):
    """ResNet3d, ResNet3dSlowOnly and ResNet2Plus1d of MMAction2.

    Args:
        inflate: for each stage, for each of its blocks, whether its first convolution has 3 frames.
    """

    def __init__(
        self,
        inflate: Sequence[Sequence[int]],
        *,
        width: int = 4,
        stem_kernel=(5, 7, 7),
        stem_stride_t: int = 2,
        pool_stride_t: int = 2,
        pool2: bool = True,
        temporal_stride: int = 1,
        factorized: bool = False,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        stride, padding = (stem_stride_t, 2, 2), [size // 2 for size in stem_kernel]
        if factorized:
            stem: nn.Module = Conv2plus1d(3, width, stem_kernel, stride)
        else:
            stem = nn.Conv3d(3, width, stem_kernel, stride, padding, bias=False)
        self.conv1 = ConvModule(stem, width, eps)
        self.maxpool = nn.MaxPool3d((1, 3, 3), (pool_stride_t, 2, 2), (0, 1, 1))
        self.pool2 = nn.MaxPool3d((2, 1, 1), (2, 1, 1)) if pool2 else nn.Identity()
        channels = width
        for stage, blocks in enumerate(inflate):
            planes, layer = width * 2**stage, []
            for index, temporal in enumerate(blocks):
                t = 3 if temporal else 1
                kernels = [(t, 3, 3)] * 2 if factorized else [(t, 1, 1), (1, 3, 3), (1, 1, 1)]
                first = stage and not index
                steps = (temporal_stride, 2, 2) if first else (1, 1, 1)
                layer.append(MMActionBlock(channels, planes, kernels, steps, factorized, eps))
                channels = planes * (1 if factorized else 4)
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layer))

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool2(self.layer1(self.maxpool(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(x)))


class I3DHead(nn.Module):
    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.fc_cls = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc_cls(x.mean((2, 3, 4)))


class Recognizer3D(nn.Module):
    def __init__(self, backbone: nn.Module, channels: int, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.cls_head = I3DHead(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.cls_head(self.backbone(x))


class HaraBlock(nn.Module):
    """The basic block of 3D-ResNets-PyTorch."""

    def __init__(self, fan_in: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(fan_in, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(planes)
        self.conv2 = nn.Conv3d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm3d(planes)
        self.downsample = None
        if stride != 1 or fan_in != planes:
            conv = nn.Conv3d(fan_in, planes, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm3d(planes))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (y + (x if self.downsample is None else self.downsample(x))).relu()


class HaraResNet(nn.Module):
    """The ResNet of 3D-ResNets-PyTorch, of basic blocks."""

    def __init__(self, blocks: Sequence[int], num_classes: int, width: int = 4) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(3, width, 7, (1, 2, 2), 3, bias=False)
        self.bn1 = nn.BatchNorm3d(width)
        self.maxpool = nn.MaxPool3d(3, 2, 1)
        channels = width
        for stage, number in enumerate(blocks):
            planes, layer = width * 2**stage, []
            for index in range(number):
                layer.append(HaraBlock(channels, planes, 2 if stage and not index else 1))
                channels = planes
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layer))
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.bn1(self.conv1(x)).relu())
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3, 4)))
