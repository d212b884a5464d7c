"""How a training step runs the network: as it is, compiled, or as CUDA graphs."""

import math
from collections.abc import Sized
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import BatchSampler

from videonorm.errors import UserError
from videonorm.evaluation.scores import Network
from videonorm.layers import MovingAverageBatchNorm3d, estimated_batch_norms
from videonorm.training.compiled_network import CompiledNetwork, CompileMode
from videonorm.training.graphed_network import GraphedNetwork
from videonorm.training.micro_batches import shares_statistics


class StepExecution:
    """Clips (B, 3, T, H, W) to logits, in the steps of a training; all else runs the network itself.

    Args:
        network: what is trained.
        compile: mode of torch.compile, or None.
        cuda_graph: capture and replay it, see ``GraphedNetwork``.

    Raises:
        UserError: both are asked for.
    """

    def __init__(self, network: nn.Module, compile: CompileMode | None, cuda_graph: bool) -> None:
        if compile is not None and cuda_graph:
            raise UserError(
                f"model.cuda_graph (true) must be false with model.compile ({compile}): reduce-overhead is what "
                "captures a compiled network"
            )
        self.compile = compile
        self.cuda_graph = cuda_graph
        self._network = network
        self._run: Network = network
        self._replayed = 0

    def __call__(self, clips: Tensor) -> Tensor:
        return self._run(clips)

    def __getstate__(self) -> dict[str, Any]:  # a copy of a model is not compiled, nor are graphs copied
        return {**self.__dict__, "_run": self._network}

    @property
    def _name(self) -> str:
        return "model.cuda_graph (true)" if self.cuda_graph else f"model.compile ({self.compile})"

    def _refuse(self, requirement: str) -> UserError:
        return UserError(f"{self._name} must be {'false' if self.cuda_graph else 'null'} {requirement}")

    def check(self, trainer: Trainer) -> None:
        """Raise UserError for a training that cannot be run so, before anything is written."""
        captures = self.cuda_graph or self.compile == "reduce-overhead"
        if not self.cuda_graph and self.compile is None:
            return
        device = trainer.strategy.root_device
        if captures and device.type != "cuda":
            raise self._refuse(f"on {device.type}: CUDA graphs are of a CUDA device")
        if captures and not isinstance(trainer.strategy, SingleDeviceStrategy):
            strategy = type(trainer.strategy).__name__
            raise self._refuse(f"with {strategy}: its graphs hold no communication between devices")
        if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
            strategy = type(trainer.strategy).__name__
            raise self._refuse(f"with {strategy}, which leaves no whole network on a device")
        if shares_statistics(self._network, trainer):
            raise self._refuse(
                f"for AccumulatedBatchNorm3d with trainer.accumulate_grad_batches "
                f"({trainer.accumulate_grad_batches}): how often a block is passed follows from the values"
            )
        if self.compile == "reduce-overhead" and trainer.accumulate_grad_batches > 1:
            raise UserError(
                f"trainer.accumulate_grad_batches ({trainer.accumulate_grad_batches}) must be 1 with {self._name}, "
                "whose graphs overwrite gradients that wait for others (model.cuda_graph accumulates)"
            )
        self._check_norms(trainer)

    def _check_norms(self, trainer: Trainer) -> None:
        batch_norms = estimated_batch_norms(self._network).values()
        for norm in batch_norms:
            if norm.training and norm.momentum is None:
                raise self._refuse(
                    f"for {type(norm).__name__} with momentum (null), whose share is a count that is read"
                )
        moving = any(isinstance(module, MovingAverageBatchNorm3d) for module in self._network.modules())
        if moving and not self.cuda_graph:
            raise self._refuse("for MovingAverageBatchNorm3d, whose backward writes a buffer")
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            averages = isinstance(callback, StochasticWeightAveraging)
            if averages and any(isinstance(module, _BatchNorm) for module in self._network.modules()):
                raise self._refuse(
                    f"with trainer.callbacks ({type(callback).__name__}), which ends with an epoch of batch "
                    "norms without momentum"
                )

    def check_shapes(self, number: int, cause: str) -> None:
        """Raise UserError if batches of so many shapes, by a cause, are too many."""
        if self.cuda_graph and number > 1:
            raise self._refuse(f"with {cause}: its graphs are of one shape, not {number}")

    def begin(self, trainer: Trainer) -> None:
        """Be ready for the first step.

        Raises:
            UserError: the last batch of an epoch is smaller.
        """
        batches = getattr(trainer.train_dataloader, "batch_sampler", None)
        if isinstance(batches, BatchSampler) and not batches.drop_last and isinstance(batches.sampler, Sized):
            whole, left = divmod(len(batches.sampler), batches.batch_size)
            steps = math.inf if trainer.max_steps < 0 else trainer.max_steps
            reached = min(trainer.num_training_batches, steps * trainer.accumulate_grad_batches)
            if whole and left and reached > whole:
                self.check_shapes(2, f"a last batch of {left} clips, which drop_last leaves out")
        if self.compile is not None:
            self._run = CompiledNetwork(self._network, self.compile)
        elif self.cuda_graph:
            self._run = GraphedNetwork(self._network)

    def settle(self) -> None:
        """See ``GraphedNetwork.settle``."""
        if isinstance(self._run, GraphedNetwork):
            self._run.settle()

    def end(self) -> None:
        """Free what steps have needed."""
        self._replayed = self._count()
        self._run = self._network

    def _count(self) -> int:
        return self._run.replayed if isinstance(self._run, GraphedNetwork) else self._replayed

    def record(self) -> dict[str, Any]:
        """For run.json: what was asked for, and of a captured network the batches of this session so far."""
        replayed = self._count() if self.cuda_graph else None
        return {"compile": self.compile, "cuda_graph": self.cuda_graph, "replayed_batches": replayed}
