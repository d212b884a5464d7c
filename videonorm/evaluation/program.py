"""A network as a program in torch's own operators, which runs where videonorm is not installed.

Convolutions with a computed weight (weight standardization, weight normalization) become plain ones that hold
it, and what operators of ours remain is decomposed as their references say.
"""

import copy
import dataclasses
import io
import json
import operator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config as shape_reasoning
from torch.utils._sympy.numbers import int_oo
from torch.utils._sympy.value_ranges import ValueRanges

from videonorm.errors import UserError
from videonorm.evaluation.artifact import PROGRAM_CARD, Card
from videonorm.evaluation.onnx_file import METADATA_CARD
from videonorm.models import convert
from videonorm.ops import DECOMPOSITIONS

TRACED_FRAMES = 64  # still several behind temporal strides of 16


def trace(network: nn.Module, card: Card) -> ExportedProgram:
    """Trace `network`, in eval mode, for any number of clips B and frames T at the card's crop size.

    Raises UserError if the network sets a limit to either.
    """
    network = copy.deepcopy(network)
    convert(network, conv=nn.Conv3d)
    size = card.input.crop_size
    # A size of 1, at the input or behind the last stride, would be taken for a constant.
    clips = torch.zeros(2, 3, max(card.input.num_frames, TRACED_FRAMES), size, size)
    # Size-oblivious, or the program would be bound to the B and T at which no size inside it is 1.
    size_oblivious = shape_reasoning.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]
    # torch 2.11 asks whether a pool leaves a remainder, which would bind the program to the answer, and goes
    # on alike after either. Later versions divide without the question.
    remainder = mock.patch.object(torch._meta_registrations, "div_rtn", operator.floordiv, create=True)
    with torch.no_grad(), size_oblivious, remainder:
        try:
            traced = torch.export.export(
                network, (clips,), dynamic_shapes=({0: Dim.DYNAMIC, 2: Dim.DYNAMIC},)
            )
        except torch._dynamo.exc.UserError as error:
            raise _bound(card, str(error)) from error
        program: ExportedProgram = traced.run_decompositions(DECOMPOSITIONS)
    for symbol, limits in program.range_constraints.items():
        if limits.upper != int_oo or limits.lower > 2:
            raise _bound(card, f"it takes {limits.lower} to {limits.upper}")
        program.range_constraints[symbol] = ValueRanges(1, int_oo)
    # Whether a size is 1 is asked for the memory format alone, which is chosen anew at every call.
    program._guards_code = [guard for guard in program._guards_code if not guard.endswith(("!= 1", "> 1"))]
    for node in list(program.graph.nodes):
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            program.graph.erase_node(node)  # it holds on to a dtype met in tracing, and would forbid autocast
        for key in ("stack_trace", "from_node"):  # much of a file, with paths of this machine
            node.meta.pop(key, None)
    program.graph_module.recompile()
    return program


def _bound(card: Card, reason: str) -> UserError:
    name, reason = card.backbone["class_path"], " ".join(reason.split())
    return UserError(
        f"backbone ({name}) must take any number of clips and frames to become a program: {reason}"
    )


def save_program(program: ExportedProgram, card: Card, path: Path) -> None:
    """Write a `.pt2` file without a pickle, and with its card, so that it can be evaluated by itself."""
    text = json.dumps(dataclasses.asdict(card), indent=2)
    program.example_inputs = None  # the clips of the trace, which would be one
    buffer = io.BytesIO()  # torch's own writer says of a full disk that a position is unexpected
    torch.export.save(program, buffer, extra_files={PROGRAM_CARD: text})
    path.write_bytes(buffer.getbuffer())


def save_onnx(program: ExportedProgram, card: Card, path: Path) -> None:
    """Write an ONNX file: `clips` (B, 3, T, H, W) to `logits` (B, num_classes), the card as metadata."""
    names: dict[str, Any] = {"input_names": ["clips"], "output_names": ["logits"]}
    onnx_program = torch.onnx.export(program, dynamo=True, verbose=False, **names)
    assert onnx_program is not None
    onnx_program.model.metadata_props[METADATA_CARD] = json.dumps(dataclasses.asdict(card))
    onnx_program.save(path)
