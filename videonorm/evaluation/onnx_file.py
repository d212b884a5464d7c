"""An `.onnx` file of `videonorm export`, run by onnxruntime, which is of the extra [onnx].

The file is data: operators of ONNX and their weights, no code. Its card is in its metadata.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videonorm.errors import UserError
from videonorm.evaluation.program_file import ReadProgram, check_size
from videonorm.messages import first_line, one_line

METADATA_CARD = "videonorm"  # the card's name among the metadata of a file, as JSON
SILENT = 4  # onnxruntime would print the error that it raises


def read_onnx(path: Path, device: torch.device) -> ReadProgram:
    """Load an ONNX file that `videonorm export` has written, to be run on `device`.

    Raises:
        UserError: onnxruntime is missing or has no such device, the file cannot be read, or it is not one of
            clips with a card.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(
            f"artifact ({path}) must have onnxruntime installed: pip install 'videonorm[onnx]'"
        ) from error
    provider = "CPUExecutionProvider" if device.type == "cpu" else "CUDAExecutionProvider"
    no_device = UserError(
        f"device ({device}) must be cpu for {path}: onnxruntime has no {provider} here (pip install "
        "onnxruntime-gpu brings it)"
    )
    if provider not in onnxruntime.get_available_providers():
        raise no_device
    options = onnxruntime.SessionOptions()
    options.log_severity_level = SILENT
    options.intra_op_num_threads = torch.get_num_threads()  # not all cores of a machine that is shared
    which = provider if device.type == "cpu" else (provider, {"device_id": device.index or 0})
    try:
        session = onnxruntime.InferenceSession(path, options, providers=[which])
    except Exception as error:  # onnxruntime's errors have no class in common
        raise UserError(
            f"{path} must be an ONNX file that onnxruntime can load ({one_line(error)})"
        ) from error
    if provider not in session.get_providers():  # its libraries are missing, which is but a warning
        raise no_device
    inputs, outputs = session.get_inputs(), session.get_outputs()
    shapes = [of.shape for of in inputs]
    if len(inputs) != 1 or inputs[0].type != "tensor(float)" or len(shapes[0]) != 5 or len(outputs) != 1:
        raise UserError(
            f"{path} must take one input, clips of floats (B, 3, T, H, W), to one output, and takes "
            f"{', '.join(f'{of.name} {of.type} {of.shape}' for of in inputs)} to {len(outputs)}"
        )
    card = session.get_modelmeta().custom_metadata_map.get(METADATA_CARD)
    if card is None:
        raise UserError(
            f"{path} must be made by `videonorm export`, with a model card under {METADATA_CARD!r} among its "
            "metadata"
        )
    height, width = (size if isinstance(size, int) else None for size in shapes[0][3:])

    def network(clips: Tensor) -> Tensor:
        check_size(clips, (height, width))
        if torch.is_autocast_enabled(clips.device.type):
            raise UserError(f"precision (bf16) must be fp32 for {path}, which onnxruntime runs as it is")
        feed: dict[str, Any] = {inputs[0].name: clips.float().contiguous().cpu().numpy()}
        try:
            (logits,) = session.run(None, feed)
        except Exception as error:
            raise UserError(
                f"{path} must run on clips of the shape {tuple(clips.shape)} ({first_line(error)})"
            ) from error
        return torch.from_numpy(logits).to(clips.device)

    return ReadProgram(network, (height, width), card)
