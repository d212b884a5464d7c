"""Video decoders behind one interface: the same frames for the same indices, whichever is used."""

from functools import cache
from importlib import import_module
from typing import Literal

from videonorm.data.decoding.fallback import FallbackReader, RefusalError, say
from videonorm.data.decoding.index_store import IndexStore
from videonorm.data.decoding.location import BadVideoError, is_remote
from videonorm.data.decoding.packed import PackedReader, is_packed
from videonorm.data.decoding.pyav import PyAVReader
from videonorm.data.decoding.reader import Reader
from videonorm.errors import UserError

__all__ = [
    "BadVideoError",
    "Decoder",
    "IndexStore",
    "Reader",
    "available_decoders",
    "check_decoder",
    "open_video",
]

Decoder = Literal["auto", "pyav", "torchcodec", "torchcodec_cuda", "decord"]


def open_video(path: str, decoder: Decoder = "auto", store: IndexStore | None = None) -> Reader:
    """Open a video file; close it again, best by ``with``.

    Args:
        decoder: ``auto`` is pyav, which is always installed, is as fast as FFmpeg itself, and reads every
            container right; the others are for those who want them. ``torchcodec_cuda`` decodes on the GPU.
            A file that they cannot read, or that is of a kind that they are not proved to read right, is read
            by pyav, which a warning says once for each decoder and reason.
        store: where packet indices are kept for other processes and later runs.

    Raises:
        BadVideoError: a file that cannot be used.
        UserError: the decoder does not work on this machine, or in this process.
    """
    check_decoder(decoder)
    if is_packed(path):
        return PackedReader(path)
    if decoder in ("auto", "pyav"):
        return PyAVReader(path, store)
    try:
        return FallbackReader(_open_by(decoder, path, store), decoder, store)
    except RefusalError as error:
        refusal = error
    reader = PyAVReader(path, store)
    say(path, decoder, refusal)
    return reader


def _open_by(decoder: Decoder, path: str, store: IndexStore | None) -> Reader:
    if is_remote(path):
        raise RefusalError("reads local files only")
    # Imported here: torchcodec and decord need not be installed.
    if decoder == "decord":
        from videonorm.data.decoding.decord import DecordReader

        return DecordReader(path, store)
    from videonorm.data.decoding.torchcodec import TorchcodecReader

    return TorchcodecReader(path, store, device="cuda" if decoder == "torchcodec_cuda" else "cpu")


def check_decoder(decoder: Decoder) -> None:
    """Raise UserError for a decoder that does not work on this machine."""
    if decoder not in _MODULES:
        *names, last = _MODULES
        raise UserError(f"decoder ({decoder}) must be {', '.join(names)} or {last}")
    if problem := _problem(decoder):
        raise UserError(f"decoder ({decoder}) must be installed and working: {problem}")


def available_decoders() -> dict[str, str | None]:
    """Each decoder with the reason why it does not work on this machine, ``None`` where it does."""
    return {decoder: _problem(decoder) for decoder in _MODULES if decoder != "auto"}


_MODULES: dict[Decoder, str] = {
    "auto": "av",
    "pyav": "av",
    "torchcodec": "torchcodec.decoders",
    "torchcodec_cuda": "torchcodec.decoders",
    "decord": "decord",
}


@cache
def _problem(decoder: Decoder) -> str | None:
    try:
        import_module(_MODULES[decoder])
    except Exception as error:  # libraries that do not load raise what they like
        return str(error).strip().partition("\n")[0]
    if "torchcodec" in decoder and import_module("torchcodec").ffmpeg_major_version is None:
        return "torchcodec finds no FFmpeg libraries beside it"
    if decoder == "torchcodec_cuda" and not import_module("torch").cuda.is_available():
        return "torch finds no GPU"
    return None
