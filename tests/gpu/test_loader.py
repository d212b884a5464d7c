import av
import numpy as np
import torch

from videonorm.data import Entries, Entry, Manifest, RandomClips, VideoDataset, VideoLoader, Workers


def write_video(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25, options={"b": "1M"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(12):
            picture = np.full((48, 64, 3), 20 * number, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())


def test_batches_come_pinned_and_are_those_of_this_process(tmp_path):
    paths = [tmp_path / f"{number}.mp4" for number in range(6)]
    for path in paths:
        write_video(path)
    entries = [Entry(str(path), label) for label, path in enumerate(paths)]
    dataset = VideoDataset(
        Manifest(tmp_path / "m.csv", Entries.of(entries), 6), RandomClips(4, 2), replace_bad=True
    )
    device = torch.device("cuda", torch.cuda.current_device())
    with Workers(2, time_limit_seconds=60) as workers:
        loaders = VideoLoader(dataset, 2, workers, pin_for=device), VideoLoader(dataset, 2)
        for ours, alone in zip(*loaders, strict=True):
            assert ours.frames.is_pinned() and not alone.frames.is_pinned()
            assert torch.equal(ours.to("cuda").frames.cpu(), alone.frames)
            assert ours.label.tolist() == alone.label.tolist()
