"""Video decoders behind one interface: the same frames for the same indices, whichever is used."""

from functools import cache
from importlib import import_module
from typing import Literal

from videonorm.data.decoding.pyav import PyAVReader
from videonorm.data.decoding.reader import BadVideoError, Reader
from videonorm.errors import UserError

__all__ = ["BadVideoError", "Decoder", "Reader", "available_decoders", "check_decoder", "open_video"]

Decoder = Literal["auto", "pyav", "torchcodec", "decord"]


def open_video(path: str, decoder: Decoder = "auto") -> Reader:
    """Open a video file; close it again, best by ``with``.

    Args:
        decoder: ``auto`` is pyav, which is always installed, is as fast as FFmpeg itself, and reads every
            container right; the others are for those who want them.

    Raises:
        BadVideoError: a file that cannot be used, or that the decoder named is known to read wrongly.
        UserError: the decoder does not work on this machine.
    """
    check_decoder(decoder)
    # Imported here: torchcodec and decord need not be installed.
    match decoder:
        case "torchcodec":
            from videonorm.data.decoding.torchcodec import TorchcodecReader

            return TorchcodecReader(path)
        case "decord":
            from videonorm.data.decoding.decord import DecordReader

            return DecordReader(path)
        case _:
            return PyAVReader(path)


def check_decoder(decoder: Decoder) -> None:
    """Raise UserError for a decoder that does not work on this machine."""
    if decoder not in ("auto", "pyav", "torchcodec", "decord"):
        raise UserError(f"decoder ({decoder}) must be auto, pyav, torchcodec or decord")
    if problem := _problem(decoder):
        raise UserError(f"decoder ({decoder}) must be installed and working: {problem}")


def available_decoders() -> dict[str, str | None]:
    """Each decoder with the reason why it does not work on this machine, ``None`` where it does."""
    return {"pyav": _problem("pyav"), "torchcodec": _problem("torchcodec"), "decord": _problem("decord")}


@cache
def _problem(decoder: Decoder) -> str | None:
    module = {"auto": "av", "pyav": "av", "torchcodec": "torchcodec.decoders", "decord": "decord"}[decoder]
    try:
        import_module(module)
    except Exception as error:  # libraries that do not load raise what they like
        return str(error).strip().partition("\n")[0]
    if decoder == "torchcodec" and import_module("torchcodec").ffmpeg_major_version is None:
        return "torchcodec finds no FFmpeg libraries beside it"
    return None
