"""Norms, all called `norm(x, residual=None)`, and convolutions with standardized or normalized weights."""

from videonorm.layers.accumulated_batch_norm import (
    AccumulatedBatchNorm3d,
    accumulated_batch_norms,
    accumulated_loss,
)
from videonorm.layers.batch_channel_norm import BatchChannelNorm3d
from videonorm.layers.batch_norm import BatchNorm3d
from videonorm.layers.batch_renorm import BatchRenorm3d
from videonorm.layers.dynamic_erf import DynamicErf3d
from videonorm.layers.dynamic_tanh import DynamicTanh3d
from videonorm.layers.evo_norm import EvoNormS0
from videonorm.layers.filter_response_norm import FilterResponseNorm3d
from videonorm.layers.frozen_batch_norm import FrozenBatchNorm3d
from videonorm.layers.group_norm import GroupNorm3d, InstanceNorm3d, LayerNorm3d
from videonorm.layers.grouped_standardization import group_weight_standardization
from videonorm.layers.imposed_batch_norm import ImposedBatchNorm3d
from videonorm.layers.max_pool import MaxPool3d
from videonorm.layers.moving_average_batch_norm import MovingAverageBatchNorm3d
from videonorm.layers.no_norm import NoNorm
from videonorm.layers.norm import Norm, is_norm, norm_layers
from videonorm.layers.precise_batch_norm import estimated_batch_norms, precise_statistics
from videonorm.layers.proxy_norm import ProxyNorm3d
from videonorm.layers.recomputation import Recompute, recompute, require_recomputable_norm
from videonorm.layers.reparametrized_conv import ReparametrizedConv3d
from videonorm.layers.sub_batch_norm import SubBatchNorm3d
from videonorm.layers.sync_batch_norm import SyncBatchNorm3d, convert_sync_batch_norm
from videonorm.layers.weight_norm_conv import WeightNormConv3d
from videonorm.layers.ws_conv import WSCenterOnlyConv3d, WSConv3d, WSScaleOnlyConv3d

__all__ = [
    "AccumulatedBatchNorm3d",
    "BatchChannelNorm3d",
    "BatchNorm3d",
    "BatchRenorm3d",
    "DynamicErf3d",
    "DynamicTanh3d",
    "EvoNormS0",
    "FilterResponseNorm3d",
    "FrozenBatchNorm3d",
    "GroupNorm3d",
    "ImposedBatchNorm3d",
    "InstanceNorm3d",
    "LayerNorm3d",
    "MaxPool3d",
    "MovingAverageBatchNorm3d",
    "NoNorm",
    "Norm",
    "ProxyNorm3d",
    "Recompute",
    "ReparametrizedConv3d",
    "SubBatchNorm3d",
    "SyncBatchNorm3d",
    "WSCenterOnlyConv3d",
    "WSConv3d",
    "WSScaleOnlyConv3d",
    "WeightNormConv3d",
    "accumulated_batch_norms",
    "accumulated_loss",
    "convert_sync_batch_norm",
    "estimated_batch_norms",
    "group_weight_standardization",
    "is_norm",
    "norm_layers",
    "precise_statistics",
    "recompute",
    "require_recomputable_norm",
]
