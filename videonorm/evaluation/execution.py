"""How a network is run: as it is, or faster in ways whose deviation from it is measured and told."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from videonorm.errors import UserError
from videonorm.evaluation.scores import Network
from videonorm.messages import counted

Precision = Literal["fp32", "bf16"]
Way = Literal["channels_last", "bf16", "compile"]


@dataclass(frozen=True)
class Deviation:
    """The largest difference from the plain network, which is fp32 in contiguous memory, on the first clips.

    Args:
        ways: all that were taken, in this order.
        logit, probability: the difference of a clip's logit and of its softmax.
        clips: how many were compared.
    """

    ways: Sequence[Way]
    logit: float
    probability: float
    clips: int

    def __str__(self) -> str:
        return (
            f"{' + '.join(self.ways)}: at most {self.logit:.2g} in a logit and {self.probability:.2g} in a "
            f"probability from plain fp32, on {counted(self.clips, 'clip')}"
        )

    def record(self) -> dict[str, Any]:
        return {**asdict(self), "ways": list(self.ways)}


class Execution:
    """A network for clips (B, 3, T, H, W), run under autocast, with weights in channels_last_3d, or compiled.

    Args:
        network: changed in place by "channels_last".
        name: of the artifact, for an error.

    Raises:
        UserError: it is a program, which torch.compile cannot take.
    """

    def __init__(self, network: Network, device: torch.device, ways: Sequence[Way], name: str) -> None:
        if "compile" in ways and not isinstance(network, nn.Module):
            raise UserError(
                f"compile must be left out for {name}: a network of layers can be compiled, a program not"
            )
        self.ways = ways
        self._network = network
        self._compiled: Network | None = None
        self._device = device
        self._in_channels_last = False

    def __call__(self, clips: Tensor) -> Tensor:
        return self._run(clips, self.ways)

    def deviations(self, clips: Tensor) -> list[Deviation]:
        """Of one way after the other, each with those before it; to be measured before all else is run."""
        plain = self._run(clips.contiguous(), ()).float()
        found = []
        for count in range(1, len(self.ways) + 1):
            logits = self._run(clips, ways := self.ways[:count]).float()
            logit, probability = (
                (one - other).abs().max().item()
                for one, other in ((logits, plain), (logits.softmax(-1), plain.softmax(-1)))
            )
            found.append(Deviation(ways, logit, probability, len(clips)))
        return found

    def _run(self, clips: Tensor, ways: Sequence[Way]) -> Tensor:
        if "channels_last" in ways:
            clips = clips.contiguous(memory_format=torch.channels_last_3d)
            if not self._in_channels_last and isinstance(self._network, nn.Module):
                with torch.inference_mode(False):  # or autograd would refuse them from now on
                    for parameter in self._network.parameters():
                        if parameter.dim() == 5:
                            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
            self._in_channels_last = True
        network = self._network
        if "compile" in ways:
            self._compiled = self._compiled or torch.compile(self._network)
            network = self._compiled
        with torch.inference_mode(), self._autocast("bf16" in ways):
            return network(clips)

    def _autocast(self, enabled: bool) -> AbstractContextManager[Any]:
        return torch.autocast(self._device.type, torch.bfloat16, enabled=enabled)
