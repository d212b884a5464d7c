"""The sound of a transcoded file."""

from collections.abc import Iterator
from typing import Any

import av
from av.container import OutputContainer
from pictures import pulled

from videonorm.data.decoding.container import DECODER_ERRORS, open_container


class Sound:
    """The best audio stream of a source, encoded anew as AAC. Its packets that are damaged fall silent."""

    def __init__(self, source: str, container: OutputContainer) -> None:
        self._source = source
        self._container = container
        self._to: Any = None
        with open_container(source) as sources:
            best: Any = sources.streams.best("audio")
            if best is not None and best.codec_context is not None:
                self._to = container.add_stream("aac", rate=min(best.codec_context.sample_rate, 48_000))
                self._to.layout = "mono" if best.codec_context.channels == 1 else "stereo"

    def copy(self, start: float, end: float | None) -> None:
        """Encode the samples from ``start`` to ``end``, in seconds of the source's clock."""
        if self._to is None:
            return
        graph = None
        for samples in _decoded(self._source):
            graph = graph or self._graph(samples, start, end)
            try:
                graph.push(samples)
            except av.EOFError:
                break  # all that follows is cut off
            self._encode(graph)
        if graph is not None:
            graph.push(None)
            self._encode(graph)
        self._container.mux(self._to.encode(None))

    def _graph(self, samples: av.AudioFrame, start: float, end: float | None) -> Any:
        graph = av.filter.Graph()
        trim = {"start": f"{start:.6f}"}
        if end is not None:
            trim["end"] = f"{end:.6f}"
        to = self._to
        chain = [
            graph.add_abuffer(
                sample_rate=samples.sample_rate,
                format=samples.format,
                layout=samples.layout,
                time_base=samples.time_base,
            ),
            graph.add("atrim", **trim),
            graph.add("asetpts", expr=f"PTS-{start:.6f}/TB"),
            graph.add(
                "aformat",
                sample_fmts="fltp",
                sample_rates=str(to.codec_context.sample_rate),
                channel_layouts=to.layout.name,
            ),
        ]
        graph.link_nodes(*chain, graph.add("abuffersink")).configure()
        return graph

    def _encode(self, graph: Any) -> None:
        for samples in pulled(graph):
            self._container.mux(self._to.encode(samples))


def _decoded(path: str) -> Iterator[av.AudioFrame]:
    with open_container(path) as container:
        stream: Any = container.streams.best("audio")
        for packet in container.demux(stream):
            try:
                yield from packet.decode()
            except DECODER_ERRORS:
                continue
