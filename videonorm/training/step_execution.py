"""How a training step runs the network: as it is, compiled, or as CUDA graphs."""

import math
from collections.abc import Iterable, Sized
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import BatchSampler

from videonorm.errors import UserError
from videonorm.evaluation.scores import Network
from videonorm.layers import MovingAverageBatchNorm3d, SyncBatchNorm3d, estimated_batch_norms
from videonorm.messages import counted
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
                f"model.cuda_graph (true) must be false with model.compile ({compile}): a compiled network "
                "is captured by reduce-overhead"
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
        if self.compile is None and not self.cuda_graph:
            return
        strategy = trainer.strategy
        if not isinstance(strategy, SingleDeviceStrategy | DDPStrategy):
            raise self._refuse(f"with {type(strategy).__name__}: no device has the whole network there")
        if self.cuda_graph or self.compile == "reduce-overhead":
            if not isinstance(strategy, SingleDeviceStrategy):
                raise self._refuse(
                    f"with {type(strategy).__name__}: its graphs are of a training on one device"
                )
            if strategy.root_device.type != "cuda":
                raise self._refuse(f"on {strategy.root_device.type}: only a CUDA device has graphs")
        accumulate = trainer.accumulate_grad_batches
        if self.compile == "reduce-overhead" and accumulate > 1:
            raise UserError(
                f"trainer.accumulate_grad_batches ({accumulate}) must be 1 with {self._name}, whose graphs "
                "overwrite the gradients of the batch before (model.cuda_graph accumulates)"
            )
        if shares_statistics(self._network, trainer):
            raise self._refuse(
                f"for AccumulatedBatchNorm3d with trainer.accumulate_grad_batches ({accumulate}): how often "
                "clips pass a block follows from the values"
            )
        self._check_norms(trainer)

    def _check_norms(self, trainer: Trainer) -> None:
        modules = list(self._network.modules())
        for norm in estimated_batch_norms(self._network).values():
            if norm.training and norm.momentum is None:
                name = type(norm).__name__
                raise self._refuse(f"for {name} with momentum null: each step would read how many there were")
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, StochasticWeightAveraging) and _any(modules, _BatchNorm):
                name = type(callback).__name__
                raise self._refuse(
                    f"with trainer.callbacks ({name}), which sets batch norms' momentum to null"
                )
        if self.compile is not None and _any(modules, MovingAverageBatchNorm3d):
            raise self._refuse("for MovingAverageBatchNorm3d, whose backward writes a buffer")
        if trainer.world_size > 1 and _any(modules, SyncBatchNorm3d):
            raise self._refuse(
                f"for SyncBatchNorm3d with trainer.devices ({trainer.world_size}): its graph holds no "
                "exchange between devices"
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
                self.check_shapes(2, f"a last batch of {counted(left, 'clip')}, which drop_last leaves out")
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


def _any(modules: Iterable[nn.Module], kind: type[nn.Module]) -> bool:
    return any(isinstance(module, kind) for module in modules)
