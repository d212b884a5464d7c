"""Videos to batches: manifest, sampling, decoding, dataset, transforms."""

from videonorm.data.bad_videos import BadVideo, BadVideos
from videonorm.data.dataset import Batch, Sample, VideoDataset, collate
from videonorm.data.decoding import (
    BadVideoError,
    Decoder,
    Reader,
    available_decoders,
    check_decoder,
    open_video,
)
from videonorm.data.manifest import Entry, Manifest, Split, read_manifest
from videonorm.data.motion import MotionClips
from videonorm.data.sampling import (
    ClipStarts,
    RandomClips,
    Sampling,
    ShortVideo,
    UniformClips,
    clip_span,
    frame_indices,
    random_clip_start,
    uniform_clip_starts,
)
from videonorm.data.source import Manifests, Source
from videonorm.data.transforms import EvalTransform, TrainTransform

__all__ = [
    "BadVideo",
    "BadVideoError",
    "BadVideos",
    "Batch",
    "ClipStarts",
    "Decoder",
    "Entry",
    "EvalTransform",
    "Manifest",
    "Manifests",
    "MotionClips",
    "RandomClips",
    "Reader",
    "Sample",
    "Sampling",
    "ShortVideo",
    "Source",
    "Split",
    "TrainTransform",
    "UniformClips",
    "VideoDataset",
    "available_decoders",
    "check_decoder",
    "clip_span",
    "collate",
    "frame_indices",
    "open_video",
    "random_clip_start",
    "read_manifest",
    "uniform_clip_starts",
]
