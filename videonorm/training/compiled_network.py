"""The network of a training step by torch.compile."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

from videonorm.errors import UserError
from videonorm.messages import first_line

CompileMode = Literal["default", "reduce-overhead"]
SHAPES = 64  # torch's limit of 8 is below the number that Multigrid may have


class CompiledNetwork:
    """Clips (B, 3, T, H, W) to logits, compiled as one graph for each shape of the clips.

    A function that calls the network is what is compiled: modules, and their names in a checkpoint, stay.

    Args:
        network: in training mode.
        mode: of torch.compile.
    """

    def __init__(self, network: nn.Module, mode: CompileMode) -> None:
        self._name = type(network).__name__
        self._mode = mode

        def run(clips: Tensor) -> Tensor:
            logits: Tensor = network(clips)
            return logits

        config = torch._dynamo.config
        config.recompile_limit = max(config.recompile_limit, SHAPES)
        self._run = torch.compile(run, mode=mode, fullgraph=True, dynamic=False)

    def __call__(self, clips: Tensor) -> Tensor:
        if self._mode == "reduce-overhead":
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        try:
            return self._run(clips)
        except (TorchDynamoException, FailOnRecompileLimitHit) as error:
            raise UserError(
                f"model.compile ({self._mode}) must be null for {self._name}, of which torch makes no graph: "
                f"{first_line(error)}"
            ) from error
