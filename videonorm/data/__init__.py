"""Videos to batches: manifest, sampling, decoding, dataset, transforms."""

from videonorm.data.bad_videos import BadVideo, BadVideos
from videonorm.data.dataset import Batch, VideoDataset, collate
from videonorm.data.decoding import (
    BadVideoError,
    Decoder,
    available_decoders,
    check_decoder,
    open_video,
)
from videonorm.data.entries import Entries, Entry
from videonorm.data.held_out import hold_out
from videonorm.data.loader import EpochSampler, VideoLoader, decoding_workers
from videonorm.data.manifest import Manifest, read_manifest
from videonorm.data.motion import MotionClips
from videonorm.data.sampling import (
    ClipStarts,
    RandomClips,
    ShortVideo,
    SlidingClips,
    StretchedClips,
    UniformClips,
    frame_indices,
    nearest_frames,
    random_clip_start,
)
from videonorm.data.source import Manifests, Source
from videonorm.data.splits import Split
from videonorm.data.transforms import Crop, EvalTransform, RandomCrop, RandomResizedCrop, TrainTransform
from videonorm.data.workers import WorkerDied, Workers

__all__ = [
    "BadVideo",
    "BadVideoError",
    "BadVideos",
    "Batch",
    "ClipStarts",
    "Crop",
    "Decoder",
    "Entries",
    "Entry",
    "EpochSampler",
    "EvalTransform",
    "Manifest",
    "Manifests",
    "MotionClips",
    "RandomClips",
    "RandomCrop",
    "RandomResizedCrop",
    "ShortVideo",
    "SlidingClips",
    "Source",
    "Split",
    "StretchedClips",
    "TrainTransform",
    "UniformClips",
    "VideoDataset",
    "VideoLoader",
    "WorkerDied",
    "Workers",
    "available_decoders",
    "check_decoder",
    "collate",
    "decoding_workers",
    "frame_indices",
    "hold_out",
    "nearest_frames",
    "open_video",
    "random_clip_start",
    "read_manifest",
]
