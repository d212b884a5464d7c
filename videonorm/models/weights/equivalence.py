"""A network that computes something else with the same tensors: by another eps, by standardized filters."""

import warnings
from collections.abc import Callable, Mapping

from torch import Tensor, nn

from videonorm.layers import ReparametrizedConv3d


def same_in_evaluation(
    weights: Mapping[str, Tensor], model: nn.Module, eps: Callable[[str], float] = lambda norm: 1e-5
) -> dict[str, Tensor]:
    """Weights of plain convolutions and batch norms that compute in the model what they did in their network.

    Where its batch norms have another eps, the running variances are moved by the difference:

        running_var + eps = (running_var + eps - eps_of_the_model) + eps_of_the_model

    So evaluation, and frozen batch norm in training too, are those of the other network. In training by the
    statistics of a batch the model's own eps counts. A warning says so where anything is changed, and one
    that nothing makes up for filters that the model standardizes.

    Args:
        weights: under the model's names.
        eps: by the name of a norm, what it was trained with.
    """
    ours = dict(weights)
    changed: set[str] = set()
    for norm, module in model.named_modules():
        name, of_model = f"{norm}.running_var", getattr(module, "eps", 1e-5)
        if getattr(module, "running_var", None) is None or name not in ours:
            continue
        if of_model != eps(norm):
            ours[name] = ours[name] + (eps(norm) - of_model)
            changed.add(f"eps {eps(norm):g} in place of the model's {of_model:g}")
    if changed:
        warnings.warn(
            f"weights were trained with {' and '.join(sorted(changed))}: running variances are moved by the "
            "difference, so that evaluation is the same; training goes on with the model's",
            stacklevel=2,
        )
    if any(isinstance(module, ReparametrizedConv3d) for module in model.modules()):
        warnings.warn(
            "weights are of plain convolutions, and the model standardizes its filters: it computes "
            "something else with them than what they were trained for",
            stacklevel=2,
        )
    return ours
