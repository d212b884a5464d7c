"""Norms, all called `norm(x, residual=None)`, and convolutions with standardized or normalized weights."""

from videonorm.layers.batch_channel_norm import BatchChannelNorm3d
from videonorm.layers.batch_norm import BatchNorm3d
from videonorm.layers.frozen_batch_norm import FrozenBatchNorm3d
from videonorm.layers.group_norm import GroupNorm3d, InstanceNorm3d, LayerNorm3d
from videonorm.layers.grouped_standardization import group_weight_standardization
from videonorm.layers.max_pool import MaxPool3d
from videonorm.layers.no_norm import NoNorm
from videonorm.layers.norm import Norm, is_norm, norm_layers
from videonorm.layers.precise_batch_norm import estimated_batch_norms, precise_statistics
from videonorm.layers.recomputation import recompute_norms, require_recomputable_norm
from videonorm.layers.reparametrized_conv import ReparametrizedConv3d
from videonorm.layers.sub_batch_norm import SubBatchNorm3d
from videonorm.layers.sync_batch_norm import SyncBatchNorm3d, convert_sync_batch_norm
from videonorm.layers.weight_norm_conv import WeightNormConv3d
from videonorm.layers.ws_conv import WSCenterOnlyConv3d, WSConv3d, WSScaleOnlyConv3d

__all__ = [
    "BatchChannelNorm3d",
    "BatchNorm3d",
    "FrozenBatchNorm3d",
    "GroupNorm3d",
    "InstanceNorm3d",
    "LayerNorm3d",
    "MaxPool3d",
    "NoNorm",
    "Norm",
    "ReparametrizedConv3d",
    "SubBatchNorm3d",
    "SyncBatchNorm3d",
    "WSCenterOnlyConv3d",
    "WSConv3d",
    "WSScaleOnlyConv3d",
    "WeightNormConv3d",
    "convert_sync_batch_norm",
    "estimated_batch_norms",
    "group_weight_standardization",
    "is_norm",
    "norm_layers",
    "precise_statistics",
    "recompute_norms",
    "require_recomputable_norm",
]
