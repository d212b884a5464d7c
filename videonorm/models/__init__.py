"""Networks for clips with norm and convolution as parts, and the conversion of other people's networks."""

from videonorm.models.conv_norm import ConvFactory, NormFactory
from videonorm.models.conversion import convert
from videonorm.models.conversion_report import Change, ConversionReport, Left
from videonorm.models.described import converted, folded
from videonorm.models.folding import fold
from videonorm.models.nf_resnet3d import NFResNet3d
from videonorm.models.pytorchvideo import from_pytorchvideo
from videonorm.models.resnet3d import ResNet3d
from videonorm.models.resnetv2_3d import ResNetV2_3d
from videonorm.models.vgg3d import VGG3d
from videonorm.models.weights.implied import implied_backbone
from videonorm.models.weights.matching import Report, load_foreign
from videonorm.models.weights.reading import read_state_dict, read_torch

__all__ = [
    "Change",
    "ConvFactory",
    "ConversionReport",
    "Left",
    "NFResNet3d",
    "NormFactory",
    "Report",
    "ResNet3d",
    "ResNetV2_3d",
    "VGG3d",
    "convert",
    "converted",
    "fold",
    "folded",
    "from_pytorchvideo",
    "implied_backbone",
    "load_foreign",
    "read_state_dict",
    "read_torch",
]
