"""A network as a program in torch's own operators, which runs where videonorm is not installed.

Convolutions with a computed weight, and the batch norms behind convolutions, become plain convolutions, and
what operators of ours remain is decomposed as their references say.
"""

import copy
import dataclasses
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from videonorm.errors import UserError
from videonorm.evaluation.artifact import PROGRAM_CARD, Card
from videonorm.evaluation.onnx_file import METADATA_CARD
from videonorm.evaluation.program_file import PROGRAM_MEMBER
from videonorm.messages import one_line
from videonorm.models import fold
from videonorm.ops import DECOMPOSITIONS

# A size of 1, at the input or behind the last stride, would be taken for a constant.
TRACED_CLIPS = 2
TRACED_FRAMES = 64  # still several behind temporal strides of 16
TRACED_PIXELS = 128  # and behind spatial ones of 32


def trace(network: nn.Module, card: Card, any_size: bool = False) -> ExportedProgram:
    """Trace `network`, in eval mode, for any number of clips B and frames T, at the card's crop size.

    Args:
        any_size: for clips of any height and width, too.

    Raises:
        UserError: the network sets a limit to any of them, or cannot be traced.
    """
    network, size = copy.deepcopy(network), card.input.crop_size
    dynamic = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC}
    if any_size:
        size = max(size, TRACED_PIXELS)
        dynamic |= {3: Dim.DYNAMIC, 4: Dim.DYNAMIC}
    clips = torch.zeros(TRACED_CLIPS, 3, max(card.input.num_frames, TRACED_FRAMES), size, size)
    try:
        fold(network, tuple(clips.shape))
        with torch.no_grad():
            program: ExportedProgram = torch.export.export(network, (clips,), dynamic_shapes=(dynamic,))
            program = program.run_decompositions(DECOMPOSITIONS)
    except (RuntimeError, ValueError) as error:
        raise _bound(card, one_line(error)) from error
    for limits in program.range_constraints.values():
        if limits.lower > 2 or limits.upper < 2**62:
            raise _bound(card, f"it takes {limits.lower} to {limits.upper} of one")
    for node in list(program.graph.nodes):
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            program.graph.erase_node(node)  # it holds on to a dtype met in tracing, and would forbid autocast
        for key in ("stack_trace", "from_node"):  # much of a file, with paths of this machine
            node.meta.pop(key, None)
    program.graph_module.recompile()
    program.example_inputs = None  # the clips of the trace, which would be one
    return program


def _bound(card: Card, reason: str) -> UserError:
    name = card.backbone["class_path"]
    return UserError(
        f"backbone ({name}) must take any number of clips and frames to become a program, and with any_size "
        f"of pixels: {reason}"
    )


def save_program(program: ExportedProgram, card: Card, path: Path) -> None:
    """Write a `.pt2` file without a pickle, and with its card, so that it can be evaluated by itself."""
    text = json.dumps(dataclasses.asdict(card), indent=2)
    buffer = io.BytesIO()  # torch's own writer says of a full disk that a position is unexpected
    torch.export.save(program, buffer, extra_files={PROGRAM_CARD: text})
    free = io.BytesIO()
    with zipfile.ZipFile(buffer) as traced, zipfile.ZipFile(free, "w") as archive:
        for member in traced.infolist():
            content = traced.read(member)
            archive.writestr(member, _freed(content) if member.filename.endswith(PROGRAM_MEMBER) else content)
    path.write_bytes(free.getbuffer())


def _freed(program: bytes) -> bytes:
    """A serialized program, without the limits to its sizes that come of the trace alone.

    Tracing takes a size for at least 2, and notes what else it has asked: whether one behind a stride is 1,
    for the memory format alone, which is chosen anew at every call, or, in torch 2.11, whether a pool leaves
    a remainder. It goes on alike after either answer. That a network does not is found by trying the program.
    """
    fields = json.loads(program)
    for limits in fields["range_constraints"].values():
        limits["min_val"] = 1
    fields["guards_code"] = []
    return json.dumps(fields).encode()


def save_onnx(program: ExportedProgram, card: Card, path: Path) -> None:
    """Write an ONNX file: `clips` (B, 3, T, H, W) to `logits` (B, num_classes), the card as metadata."""
    names: dict[str, Any] = {"input_names": ["clips"], "output_names": ["logits"]}
    try:
        onnx_program = torch.onnx.export(program, dynamo=True, verbose=False, **names)
    except torch.onnx.OnnxExporterError as error:
        name = card.backbone["class_path"]
        raise UserError(
            f"backbone ({name}) must be of operators that ONNX has ({one_line(error)})"
        ) from error
    assert onnx_program is not None
    onnx_program.model.metadata_props[METADATA_CARD] = json.dumps(dataclasses.asdict(card))
    onnx_program.save(path)
