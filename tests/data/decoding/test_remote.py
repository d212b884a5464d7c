"""Videos behind URLs: read as files are, in few requests, in forked processes too, and never for ever."""

import gc
import os
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from videonorm.data import Entries, Manifest, UniformClips, VideoDataset, collate
from videonorm.data.decoding import BadVideoError, open_video, remote
from videonorm.data.decoding.container import check_file, open_container
from videonorm.data.decoding.index_store import packet_index
from videonorm.data.decoding.location import is_remote, without_credentials
from videonorm.errors import UserError


class Server(ThreadingHTTPServer):
    """Serves ``files`` (name -> content or HTTP status), and keeps the requests made."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes | int] = {}
        self.requests: list[tuple[str, int]] = []  # method, bytes sent
        self.ranges = True
        self.etag = "1"
        self.silent = threading.Event()  # set: nothing is answered
        self.closing = threading.Event()
        self.fail_from: int | None = None  # byte from which on requests fail

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def log_message(self, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        server = self.server
        if server.silent.is_set():
            server.closing.wait(20)
            self.close_connection = True
            return
        content = server.files.get(self.path.partition("?")[0].lstrip("/"), 404)
        if isinstance(content, int):
            self.send_response(content)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        status = 200
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if wanted and server.ranges:
            start, last = int(wanted[1]), int(wanted[2])
            if server.fail_from is not None and start >= server.fail_from:
                self.send_error(503)
                return
            status, content = 206, content[start : last + 1]
        # Before the client can have all of it, and look here.
        server.requests.append((self.command, len(content) if self.command == "GET" else 0))
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{server.etag}"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


@pytest.fixture
def server():
    with Server() as serving:
        thread = threading.Thread(target=serving.serve_forever, args=(0.02,))
        thread.start()
        yield serving
        serving.closing.set()
        serving.shutdown()
        thread.join()


@pytest.mark.parametrize("name", ["b_frames.mp4", "vp9.webm", "mpeg4.avi", "transport.ts"])
def test_frames_are_those_of_the_file(name, server, videos):
    server.files[name] = Path(videos(name)).read_bytes()
    with open_video(server.url(name)) as there, open_video(videos(name)) as here:
        np.testing.assert_array_equal(there.seconds, here.seconds)
        np.testing.assert_array_equal(there.read([3, 20, 39], 32), here.read([3, 20, 39], 32))


def test_a_clip_comes_in_two_requests(server, videos):
    content = Path(videos("b_frames.mp4")).read_bytes()
    server.files["v.mp4"] = content
    with open_video(server.url("v.mp4")) as video:
        video.read([0, 39])
        video.read([5])
    assert server.requests == [("HEAD", 0), ("GET", len(content))]


def test_of_a_long_video_only_what_is_wanted(server, make_video, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "BLOCK_BYTES", 4096)
    path = make_video(
        tmp_path / "long.mp4", count=200, crf="1", gop=10
    )  # its table of contents is at the end
    server.files["v.mp4"] = path.read_bytes()
    url = server.url("v.mp4")
    with open_video(url) as video:
        expected = video.read([100])
    whole = sum(sent for _, sent in server.requests)
    assert whole < 1.5 * path.stat().st_size  # read through once, for the index
    server.requests.clear()
    with open_video(url) as video:  # the index is in memory now
        np.testing.assert_array_equal(video.read([100]), expected)
    assert sum(sent for _, sent in server.requests) < path.stat().st_size / 3


def test_a_new_version_is_seen(server, make_video, tmp_path):
    server.files["v.mp4"] = make_video(tmp_path / "v.mp4", count=10).read_bytes()
    url = server.url("v.mp4")
    first = check_file(url)
    assert first == check_file(url)
    assert packet_index(url).seconds.shape == (10,)
    server.files["v.mp4"] = make_video(tmp_path / "v.mp4", count=6).read_bytes()
    assert packet_index(url).seconds.shape == (6,)
    second = check_file(url)
    server.etag = "2"
    assert second.size == check_file(url).size
    assert second.stamp != check_file(url).stamp


def test_nothing_is_left_open(server, videos):
    server.files["v.mp4"] = Path(videos("b_frames.mp4")).read_bytes()
    url = server.url("v.mp4")
    open_container(url).close()
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        open_container(url).close()
        with open_video(url) as video:
            video.read([0])
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 2


def loaded(url: str, num_workers: int) -> torch.Tensor:
    manifest = Manifest(Path("m.csv"), Entries([url] * 4, [0] * 4), num_classes=1)
    dataset = VideoDataset(manifest, UniformClips(4, 2), short_side=32, replace_bad=False)
    loader = DataLoader(
        dataset,
        batch_size=2,
        num_workers=num_workers,
        collate_fn=collate,
        multiprocessing_context="fork" if num_workers else None,
    )
    batches = list(loader)
    assert [batch.bad for batch in batches] == [[], []]
    return torch.cat([batch.frames for batch in batches])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_workers_after_the_parent_has_read(server, videos):
    server.files["v.mp4"] = Path(videos("b_frames.mp4")).read_bytes()
    url = server.url("v.mp4")
    started = time.monotonic()
    alone = loaded(url, 0)
    for _ in range(2):
        assert torch.equal(loaded(url, 2), alone)
        assert torch.equal(loaded(url, 0), alone)  # the parent's own connections are whole
    assert time.monotonic() - started < remote.NO_ANSWER_SECONDS


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_leaves_the_connections_of_its_parent_alone(server, monkeypatch):
    monkeypatch.setattr(remote, "NO_ANSWER_SECONDS", 5.0)
    server.files["v.mp4"] = b"content"
    check_file(server.url("v.mp4"))
    gc.collect()  # decoders of other tests, with threads that a forked process has not, and would wait for
    if (child := os.fork()) == 0:
        check_file(server.url("v.mp4"))
        gc.collect()  # of what is its parent's, too
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    check_file(server.url("v.mp4"))
    assert server.requests == [("HEAD", 0)] * 3  # none was answered too late, and made again by GET


@pytest.mark.parametrize(
    "content, reason",
    [
        (404, "cannot be found: HTTP status 404"),
        (403, "cannot be read: HTTP status 403"),
        (500, "cannot be read: HTTP status 500"),
        (b"", "is empty (0 bytes)"),
        (b"no video", "cannot be opened: Invalid data found when processing input"),
        (
            b"\0\0\0\x10ftypisom" + bytes(100),
            "is truncated or was never finished: an MP4 without its moov box",
        ),
    ],
)
def test_what_cannot_be_read_is_named_with_the_reason(content, reason, server):
    server.files["v.mp4"] = content
    with pytest.raises(BadVideoError) as caught:
        open_video(server.url("v.mp4"))
    assert (caught.value.path, caught.value.reason) == (server.url("v.mp4"), reason)


def test_no_server_and_one_that_does_not_answer(server, monkeypatch):
    monkeypatch.setattr(remote, "NO_ANSWER_SECONDS", 0.2)
    server.silent.set()
    with pytest.raises(BadVideoError, match="cannot be read: its server does not answer$"):
        open_video(server.url("v.mp4"))
    with pytest.raises(BadVideoError, match="cannot be read: .*Connect"):
        open_video("http://127.0.0.1:9/v.mp4")


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv", "v.ts"])
def test_a_server_that_fails_half_way(name, server, make_video, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "BLOCK_BYTES", 4096)
    monkeypatch.setattr(remote, "BLOCKS_KEPT", 1)
    path = make_video(tmp_path / name, gop=10, muxer={"movflags": "faststart"} if name == "v.mp4" else None)
    server.files[name] = path.read_bytes()
    with open_video(server.url(name)) as video:
        server.fail_from = 4096
        with pytest.raises(BadVideoError) as caught:
            video.read([39])
            video.read([0])
        assert caught.value.reason == "cannot be read: HTTP status 503"
    with pytest.raises(BadVideoError) as caught:
        open_video(server.url(f"{name}?2"))
    assert caught.value.reason == "cannot be read: HTTP status 503"
    server.fail_from = None
    with open_video(server.url(name)) as video:
        assert video.read([39]).shape == (1, 64, 64, 3)
    with open_video(str(path)) as video:  # no error of before comes up in another file
        assert video.num_frames == 40


def test_a_server_without_ranges(server, make_video, tmp_path, monkeypatch):
    server.ranges = False
    server.files["v.mp4"] = make_video(tmp_path / "v.mp4").read_bytes()
    with open_video(server.url("v.mp4")) as video:
        assert video.num_frames == 40
    monkeypatch.setattr(remote, "BLOCK_BYTES", 4096)
    with pytest.raises(
        BadVideoError, match=r"mp4\?2 cannot be read: asked for 4096 bytes, its server sent \d+$"
    ):
        open_video(server.url("v.mp4?2"))


def test_what_is_secret_in_a_url_is_not_shown(server):
    url = server.url("v.mp4").replace("//", "//me:pass@") + "?id=5&X-Amz-Signature=abc&token=def"
    with pytest.raises(BadVideoError) as caught:
        open_video(url)
    assert str(caught.value) == (
        f"http://***@127.0.0.1:{server.server_port}/v.mp4?id=5&X-Amz-Signature=***&token=*** "
        "cannot be found: HTTP status 404"
    )


@pytest.mark.parametrize("path", ["https://a/b.mp4", "s3://a/b.mp4", "simplecache::gs://a/b.mp4", "S3://a/b"])
def test_urls(path):
    assert is_remote(path)
    assert without_credentials(path) == path


@pytest.mark.parametrize(
    "path", ["/a/http://b.mp4", "a/b.mp4", "a:b.mp4", "concat:a|b", "C:\\a.mp4", "://a", "é://"]
)
def test_other_paths_are_no_urls(path):
    assert not is_remote(path)
    assert without_credentials(path) == path


def test_a_kind_of_url_that_is_not_installed_or_not_known(monkeypatch):
    def missing(url: str, **options: object) -> None:
        raise ImportError("Install s3fs to access S3")

    with pytest.raises(BadVideoError, match="cannot be opened: .*Protocol not known: nonsense"):
        open_video("nonsense://a/b.mp4")
    monkeypatch.setattr(remote.fsspec.core, "url_to_fs", missing)
    with pytest.raises(
        UserError, match=r"path \(s3://a/b.mp4\) must be .*pip install videonorm\[remote\]"
    ) as caught:
        open_video("s3://a/b.mp4")
    assert not isinstance(caught.value, BadVideoError)


def test_other_stores_of_fsspec(videos):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe_file("/bucket/v.mp4", Path(videos("b_frames.mp4")).read_bytes())
    with open_video("memory://bucket/v.mp4") as video:
        assert video.num_frames == 40
    with pytest.raises(BadVideoError, match="is a directory"):
        open_video("memory://bucket")
    with pytest.raises(BadVideoError, match="cannot be found$"):
        open_video("memory://bucket/w.mp4")
    with open_video(f"file://{videos('b_frames.mp4')}") as video:
        assert video.num_frames == 40
