"""The backbone's own tensors that a personal model may move, and how they are put back.

An adapter is LoRA tensors. A personal model may also change tensors of the backbone itself: the projection of
descriptions, the embedding of categories, the head, all of it. Those are stored with the personal adapter, by their
names in the backbone as shipped ("text.weight"), and are laid over the backbone while that adapter is used. Whatever
is used next, the shipped values are copied back first, bit for bit. None of these tensors is in any plan, so none can
be sent (:meth:`trend_client.engine.Engine.install` refuses a plan that names one).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trend_common.adapters import core_parameters
from trend_common.backbones.base import Backbone
from trend_common.tensors import Tensors, TensorSpec, check_tensors

__all__ = ["WORDS", "BaseWeights", "base_parameters", "is_adapter"]

WORDS: Final = ("text.weight", "categories.weight")
"""The projection of descriptions and the embedding of categories."""


def is_adapter(name: str) -> bool:
    """Whether a tensor of this name belongs to the adapter, and not to the backbone."""
    return "lora_" in name


def base_parameters(backbone: Backbone) -> dict[str, nn.Parameter]:
    """The backbone's own parameters by their names as shipped, whether it carries an adapter or not."""
    return {
        name.removeprefix("base_model.model.").replace(".base_layer.", "."): parameter
        for name, parameter in core_parameters(backbone).items()
        if not is_adapter(name)
    }


class BaseWeights:
    """What a backbone's own parameters are as shipped, and what they are at the moment.

    Args:
        backbone: As it was shipped.
    """

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self._shipped: dict[str, Tensor] = {}

    def keep(self, names: Sequence[str]) -> None:
        """Remember the shipped values of these parameters, before they are changed for the first time."""
        parameters = base_parameters(self._backbone)
        for name in names:
            if name not in self._shipped:
                self._shipped[name] = parameters[name].detach().clone()

    def shipped(self, name: str) -> Tensor:
        """The shipped value of a parameter that was kept."""
        return self._shipped[name]

    def lay_over(self, tensors: Mapping[str, NDArray[np.float32]]) -> None:
        """The backbone as shipped, but for the named tensors.

        Raises:
            PolicyError: A name is not one of the backbone's, a shape differs, or a value is not finite; the backbone
                is then as shipped.
        """
        if not tensors and not self._shipped:
            return
        parameters = base_parameters(self._backbone)
        with torch.no_grad():
            for name, value in self._shipped.items():
                parameters[name].copy_(value)
            if not tensors:
                return
            specs = [TensorSpec(name=n, shape=tuple(parameters[n].shape)) for n in tensors if n in parameters]
            checked = check_tensors(tensors, specs, "the personal model")
            self.keep(list(checked))
            for name, array in checked.items():
                parameters[name].copy_(torch.from_numpy(array))

    def export(self, names: Sequence[str]) -> Tensors:
        """The named parameters as they are now, as float32 copies."""
        parameters = base_parameters(self._backbone)
        return {name: parameters[name].detach().cpu().numpy().astype(np.float32, copy=True) for name in names}
