"""The sound of a transcoded file."""

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
from av.container import OutputContainer
from pictures import pulled

from videonorm.data import BadVideoError
from videonorm.data.decoding.container import DECODER_ERRORS, open_container

RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)  # that AAC has, per second


class Sound:
    """The best audio stream of a source, encoded anew as AAC. Its packets that are damaged fall silent.

    Raises:
        BadVideoError: there is one that cannot be decoded.
    """

    def __init__(self, source: str, container: OutputContainer) -> None:
        self._source = source
        self._container = container
        self._to: Any = None
        with open_container(source) as sources:
            best: Any = sources.streams.best("audio")
            if best is not None:
                if best.codec_context is None:
                    raise BadVideoError(source, "has sound in a codec that this FFmpeg cannot decode")
                rate = best.codec_context.sample_rate
                self._to = container.add_stream("aac", rate=next(filter(rate.__le__, RATES), RATES[-1]))
                self._to.layout = "mono" if best.codec_context.channels == 1 else "stereo"

    def copy(self, start: float, end: float | None) -> None:
        """Encode the samples from ``start`` to ``end``, in seconds of the source's clock."""
        if self._to is None:
            return
        graph: Any = None
        looks = None
        for samples in _decoded(self._source):
            now = (samples.sample_rate, samples.format.name, samples.layout.name)
            if now != looks:  # streams cut together may change their looks
                self._finish(graph)
                graph, looks = self._graph(samples, start, end, is_first=graph is None), now
            try:
                graph.push(samples)
            except av.EOFError:
                break  # all that follows is cut off
            self._encode(graph)
        self._finish(graph)
        self._container.mux(self._to.encode(None))

    def _graph(self, samples: av.AudioFrame, start: float, end: float | None, *, is_first: bool) -> Any:
        graph = av.filter.Graph()
        trim = {"start": f"{start:.6f}"}
        if end is not None:
            trim["end"] = f"{end:.6f}"
        rate = str(self._to.codec_context.sample_rate)
        # What is missing, by the timestamps, is filled with silence; what overlaps is cut.
        gaps = {"async": "1", **({"first_pts": "0"} if is_first else {})}
        chain = [
            graph.add_abuffer(
                sample_rate=samples.sample_rate,
                format=samples.format,
                layout=samples.layout,
                time_base=samples.time_base,
            ),
            graph.add("atrim", **trim),
            graph.add("asetpts", expr=f"PTS-{start:.6f}/TB"),
            graph.add("aresample", osr=rate, **gaps),
            graph.add("aformat", sample_fmts="fltp", sample_rates=rate, channel_layouts=self._to.layout.name),
        ]
        graph.link_nodes(*chain, graph.add("abuffersink")).configure()
        return graph

    def _finish(self, graph: Any) -> None:
        if graph is not None:
            graph.push(None)
            self._encode(graph)

    def _encode(self, graph: Any) -> None:
        for samples in pulled(graph):
            self._container.mux(self._to.encode(samples))


def _decoded(path: str) -> Iterator[av.AudioFrame]:
    """Its sound, with times in samples: a container may count in whole packets, or not at all."""
    following = Fraction(0)  # seconds at which what comes next should begin
    with open_container(path) as container:
        stream: Any = container.streams.best("audio")
        for packet in container.demux(stream):
            try:
                decoded = packet.decode()
            except DECODER_ERRORS:
                continue
            for samples in decoded:
                begins = following if samples.pts is None else samples.pts * samples.time_base
                samples.time_base = Fraction(1, samples.sample_rate)
                samples.pts = round(begins / samples.time_base)
                following = begins + samples.samples * samples.time_base
                yield samples
