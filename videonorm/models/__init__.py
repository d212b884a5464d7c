"""Networks for clips with norm and convolution as parts, and the conversion of other people's networks."""

from videonorm.models.conv_norm import ConvFactory, NormFactory
from videonorm.models.conversion import convert
from videonorm.models.conversion_report import Change, ConversionReport, Left
from videonorm.models.folding import fold
from videonorm.models.pytorchvideo import from_pytorchvideo
from videonorm.models.resnet3d import ResNet3d
from videonorm.models.vgg3d import VGG3d
from videonorm.models.weights import load_foreign, read_state_dict

__all__ = [
    "Change",
    "ConvFactory",
    "ConversionReport",
    "Left",
    "NormFactory",
    "ResNet3d",
    "VGG3d",
    "convert",
    "fold",
    "from_pytorchvideo",
    "load_foreign",
    "read_state_dict",
]
