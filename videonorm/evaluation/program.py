"""A network as a program in torch's own operators, which runs where videonorm is not installed.

Convolutions with a computed weight (weight standardization, weight normalization) become plain ones that hold
it, and our fused norm is traced as torch's group norm, addition and ReLU.
"""

import copy
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config as shape_reasoning
from torch.overrides import TorchFunctionMode
from torch.utils._sympy.numbers import int_oo
from torch.utils._sympy.value_ranges import ValueRanges

from videonorm.errors import UserError
from videonorm.evaluation.artifact import PROGRAM_CARD, Card


def fold(network: nn.Module) -> nn.Module:
    """A copy of `network` whose convolutions with a computed weight are plain ones that hold it."""
    network = copy.deepcopy(network)
    for path, module in list(network.named_modules()):
        if hasattr(module, "effective_weight"):
            network.set_submodule(path, _plain_conv(module))
    return network


def trace(network: nn.Module, card: Card) -> ExportedProgram:
    """Trace `network`, in eval mode, for any number of clips B and frames T at the card's crop size.

    Raises UserError if the network sets a limit to either.
    """
    size = card.input.crop_size
    clips = torch.zeros(2, 3, max(card.input.num_frames, 2), size, size)  # 1 would be taken for a constant
    # Size-oblivious, or the program would be bound to the B and T at which no size inside it is 1.
    size_oblivious = shape_reasoning.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]
    with torch.no_grad(), size_oblivious, _StandardOperators():
        try:
            program = torch.export.export(
                fold(network), (clips,), dynamic_shapes=({0: Dim.DYNAMIC, 2: Dim.DYNAMIC},)
            )
        except torch._dynamo.exc.UserError as error:
            raise _bound(card, str(error)) from error
    for symbol, limits in program.range_constraints.items():
        if limits.upper != int_oo or limits.lower > 2:
            raise _bound(card, f"it takes {limits.lower} to {limits.upper}")
        program.range_constraints[symbol] = ValueRanges(1, int_oo)
    # Whether a size is 1 is asked for the memory format alone, which is chosen anew at every call.
    program._guards_code = [guard for guard in program._guards_code if not guard.endswith(("!= 1", "> 1"))]
    # These fix the dtypes met in tracing, and would forbid autocast.
    dtype_checks = torch.ops.aten._assert_tensor_metadata.default
    for node in program.graph.find_nodes(op="call_function", target=dtype_checks):
        program.graph.erase_node(node)
    program.graph_module.recompile()
    ours = {str(node.target) for node in program.graph.nodes if str(node.target).startswith("videonorm.")}
    assert not ours, f"no standard form is known for {ours}"
    return program


def _bound(card: Card, reason: str) -> UserError:
    name, reason = card.backbone["class_path"], " ".join(reason.split())
    return UserError(
        f"backbone ({name}) must take any number of clips and frames to become a program: {reason}"
    )


def save_program(program: ExportedProgram, card: Card, path: Path) -> None:
    """Write a `.pt2` file that carries its card, so that it can be evaluated by itself."""
    text = json.dumps(dataclasses.asdict(card), indent=2)
    torch.export.save(program, path, extra_files={PROGRAM_CARD: text})


def save_onnx(program: ExportedProgram, card: Card, path: Path) -> None:
    """Write an ONNX file: `clips` (B, 3, T, H, W) to `logits` (B, num_classes), the card as metadata."""
    names: dict[str, Any] = {"input_names": ["clips"], "output_names": ["logits"]}
    onnx_program = torch.onnx.export(program, dynamo=True, verbose=False, **names)
    assert onnx_program is not None
    onnx_program.model.metadata_props["videonorm"] = json.dumps(dataclasses.asdict(card))
    onnx_program.save(path)


def load_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    """The network of an ONNX file, clips (B, 3, T, H, W) to logits, by onnxruntime on the CPU."""
    import onnxruntime  # of the extra [onnx]

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda clips: torch.from_numpy(session.run(None, {"clips": clips.numpy()})[0])


def _plain_conv(conv: Any) -> nn.Conv3d:
    plain = nn.Conv3d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        stride=conv.stride,
        padding=conv.padding,
        dilation=conv.dilation,
        groups=conv.groups,
        bias=conv.bias is not None,
        padding_mode=conv.padding_mode,
    )
    bias = {} if conv.bias is None else {"bias": conv.bias}
    plain.load_state_dict({"weight": conv.effective_weight(), **bias})
    return plain


class _StandardOperators(TorchFunctionMode):
    """Runs videonorm's ops as torch's own while a program is traced."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if str(func) == "videonorm.group_norm":
            func = _group_norm
        return func(*args, **(kwargs or {}))


def _group_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    num_groups: int,
    eps: float,
    relu: bool,
) -> tuple[Tensor, None, None]:
    """videonorm::group_norm for inference, which has no use for the statistics."""
    y = F.group_norm(x, num_groups, weight, bias, eps)
    if residual is not None:
        y = y + residual
    return (F.relu(y) if relu else y), None, None
