"""Operators, one a file: schema, differentiable reference, an implementation for each device, autograd."""

from videonorm.ops import convolution_backward, group_norm, weight_standardize
from videonorm.ops.registration import DECOMPOSITIONS, use

__all__ = ["DECOMPOSITIONS", "convolution_backward", "group_norm", "use", "weight_standardize"]
