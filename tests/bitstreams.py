"""Streams that no encoder at hand makes: pictures coded as two fields, and VVC."""

import base64
import io
import zlib
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av

SIDE = 64  # pixels
CLOSED = [0, 3, 1, 2, 6, 4, 5, 7]  # the pictures of a group in order of decoding: I P B B P B B P
OPEN = [2, 0, 1, 5, 3, 4, 7, 6]  # I B B P B B P B, the first two of them shown before the I


class Coded(NamedTuple):
    """A picture in order of decoding."""

    units: list[bytes]  # its bytes, or those of each field
    number: int  # in order of display
    is_key: bool = False


def bits(*parts: int | str) -> str:
    """Numbers in Exp-Golomb code, strings of bits as they are."""
    coded = ""
    for part in parts:
        digits = part if isinstance(part, str) else f"{part + 1:b}"
        coded += digits if isinstance(part, str) else "0" * (len(digits) - 1) + digits
    return coded


def aligned(coded: str, fill: str = "0") -> str:
    return coded + fill * (-len(coded) % 8)


def to_bytes(coded: str) -> bytes:
    return int("1" + aligned(coded), 2).to_bytes(len(aligned(coded)) // 8 + 1, "big")[1:]


def h264_unit(head: int, coded: str) -> bytes:
    """A NAL unit: with its stop bit, and guarded against start codes inside."""
    content = b""
    for byte in to_bytes(coded + "1"):
        content += b"\3" if content.endswith(b"\0\0") and byte < 4 else b""
        content += bytes([byte])
    return b"\0\0\0\1" + bytes([head]) + content


def h264_fields(groups: int = 3, *, closed: bool = True) -> list[Coded]:
    """Groups of pictures of two fields each (PAFF), each the first half of a picture and then the second.

    Args:
        closed: every group begins with an IDR picture; else all but the first begin with a recovery point,
            and with pictures that are shown before it, as broadcasts do.
    """
    blocks = SIDE // 16
    size = bits(blocks - 1, blocks // 2 - 1)
    # Main profile; 4 bits of frame_num, 8 of the order of display; 2 references; one picture held back.
    further = "0" * 7 + "0" + "1" + "1" + bits(0, 0, 8, 8, 1, 2)
    sps = h264_unit(
        0x67, f"{77:08b}" + "0" * 8 + f"{30:08b}" + bits(0, 0, 0, 4, 2, "0") + size + "00101" + further
    )
    pps = h264_unit(0x68, bits(0, 0, "00", 0, 0, 0, "000", 0, 0, 0, "100"))
    recovery = h264_unit(6, f"{6:08b}{1:08b}" + aligned(bits(0, "1000", "1")))
    coded: list[Coded] = []
    frame_num = zero = 0
    for group in range(groups):
        is_idr = closed or group == 0
        order = CLOSED if is_idr else OPEN
        for place, offset in enumerate(order):
            number = len(order) * group + offset
            is_b = offset < max(order[:place], default=-1)
            if is_idr and place == 0:
                frame_num, zero = 0, number
            units = []
            for bottom in (0, 1):
                is_intra = place == 0 and not bottom
                is_whole = place == 0  # nothing in it is predicted
                head = 0x01 if is_b else 0x65 if is_intra and is_idr else 0x41
                header = bits(0, 7 if is_intra else 6 if is_b else 5, 0, f"{frame_num % 16:04b}1{bottom}")
                header += bits(group % 2) if head == 0x65 else ""
                header += f"{(2 * (number - zero) + bottom) % 256:08b}"
                header += "" if is_intra else "1000" if is_b else "00"  # direct prediction; lists as they are
                header += "" if is_b else "00" if head == 0x65 else "0"  # how references are marked
                header += bits(0, 1)  # quantizer as it is, no deblocking
                # A block of samples as they are; the others too, or else as predicted.
                as_it_is = 25 + (0 if is_intra else 23 if is_b else 5)
                for block in range(blocks * blocks // 2 if is_whole else 1):
                    header = aligned(header + bits(*([] if is_intra else [0]), as_it_is))
                    header += f"{36 + 8 * number + 3 * bottom + block % 2:08b}" * 256 + f"{128:08b}" * 128
                header += "" if is_whole else bits(blocks * blocks // 2 - 1)
                front = sps + pps + (b"" if is_idr else recovery) if is_intra else b""
                units.append(front + h264_unit(head, header))
            coded.append(Coded(units, number, place == 0))
            frame_num += not is_b
    return coded


def mpeg2_fields(count: int = 12) -> list[Coded]:
    """Pictures of two fields, each of one grey: ITU-T H.262, 6.2, with nothing but what it asks for."""
    sequence = b"\0\0\1\xb3" + to_bytes(
        f"{SIDE:012b}{SIDE:012b}" + "00010011" + "1" * 18 + "1" + f"{20:010b}" + "000"
    )
    sequence += b"\0\0\1\xb5" + to_bytes(
        "0001" + "01001000" + "0" + "01" + "0000" + "0" * 12 + "1" + "0" * 16
    )
    coded: list[Coded] = []
    for number in range(count):
        units = []
        for structure in ("01", "10"):  # top, bottom
            unit = b"\0\0\1\0" + to_bytes(f"{number:010b}001" + "1" * 16 + "0")
            unit += b"\0\0\1\xb5" + to_bytes("1000" + "1" * 16 + "00" + structure + "0" * 12)
            grey = 4 * number + int(structure, 2) + 1  # above the middle
            for row in range(SIDE // 32):
                level = f"{grey:b}"
                first = ("100", "00", "01", "101", "110", "1110", "11110")[len(level)] + level + "10"
                block = "11" + first + "10010" * 3 + "0010" * 2
                others = ("11" + "10010" * 4 + "0010" * 2) * (SIDE // 16 - 1)
                unit += b"\0\0\1" + bytes([1 + row]) + to_bytes("000010" + block + others)
            units.append(unit)
        units[0] = sequence + units[0]
        coded.append(Coded(units, number, True))
    return coded


def vvc() -> list[Coded]:
    """33 pictures of 32 x 32 by VVenC: two IDR pictures, each followed by 15 that are shown before (RADL)."""
    pyramid = [15, 7, 3, 1, 0, 2, 5, 4, 6, 11, 9, 8, 10, 13, 12, 14]
    order = [*pyramid, *(16 + number for number in pyramid), 32]
    with av.open(io.BytesIO(zlib.decompress(base64.b85decode(VVC))), format="vvc") as container:
        packets = [bytes(packet) for packet in container.demux() if packet.size]
    return [
        Coded([content], number, number in (15, 31)) for content, number in zip(packets, order, strict=True)
    ]


def write(path: Path, codec: str, coded: list[Coded], *, paired: bool = False, by_dts: bool = False) -> Path:
    """Put pictures into a container, 25 a second.

    Args:
        paired: both fields in one packet.
        by_dts: the time of display is said to be that of decoding.
    """
    late = max(picture.number - place for place, picture in enumerate(coded))
    raw = io.BytesIO(b"".join(unit for picture in coded for unit in picture.units))
    format = "mpegvideo" if codec == "mpeg2video" else codec
    with av.open(raw, format=format) as source, av.open(str(path), "w") as output:
        if codec == "vvc":  # without an encoder it is no template
            stream = output.add_mux_stream(codec, rate=25, width=32, height=32)
        else:
            stream = output.add_stream_from_template(source.streams.video[0])
        for place, picture in enumerate(coded):
            units = [b"".join(picture.units)] if paired else picture.units
            for half, unit in enumerate(units):
                packet = av.Packet(unit)
                packet.stream = stream
                packet.time_base = Fraction(1, 50)
                packet.dts = 2 * place + half
                packet.pts = packet.dts if by_dts else 2 * (picture.number + late) + half
                packet.duration = 2 // len(units)
                packet.is_keyframe = picture.is_key and half == 0
                output.mux(packet)
    return path


VVC = (
    r"c-muNU|?ie*uemzDjB+&1R59^8aWiD8YK4r+t6||;vf^}0j>#(94-<a-72mtx-Y)EGJTS-XG+Ib!HP~(L8VDbJ`;srd313^bU2(8"
    r"$Z`m6QREijh-6}MV&PU~V(AdbQ1E1tQ8*!(;i#f`#6<PPQ%9J*z!||g0SpYx3<5xcaU#SGjSLJe0v!`-Sq7<#ERWb6+Wz2$<?DZK"
    r"OXa{Ki!{KL&=lE=9Ewc&2NdG=--<r~7F!IF5}v|)ae~4L0VU}V3j6k#*nkC>K;%TGuwGmUw3_4CA4R*}bzrfj5Gm0qj2BNtatNsX"
    r"QLx);gDS&0@r6etn?U}7(+;SniB4R}%OY{?&#nik8U!c4@MPg|+z(X`7nhv)>LHRja2M-NoCFM_B<T-p7ob|83bcSjS^5LI1&Tlm"
    r"I276bpj)6h@zo;<xV>;=Oee0?<xIvj#&F`3omiY{IbqhMr-^XWM-waw3AP5DVE_N$9XPQ8HO0n4Qf#4_^1t*3)cE(slVV-rDc1hK"
    r"_yN?2as($?U^-CT|FH&D$`e<b4aJdW197C;NE~T47gw51#gS$cairNy>}j?XN183fo@Ogi(=1e+cS_^MY!>Mciu+&L005GIe4h"
)
