"""Operators, one a file: schema, differentiable reference, an implementation for each device, autograd."""

from videonorm.ops.group_norm import group_norm, group_norm_and_statistics, group_norm_reference
from videonorm.ops.registration import use
from videonorm.ops.weight_standardize import EpsPlacement, weight_standardize, weight_standardize_reference

__all__ = [
    "EpsPlacement",
    "group_norm",
    "group_norm_and_statistics",
    "group_norm_reference",
    "use",
    "weight_standardize",
    "weight_standardize_reference",
]
