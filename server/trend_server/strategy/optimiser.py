"""The server's optimiser: what it does with the mean of the clients' noised gradients, or of their changes.

It sees aggregates of noised values only, so it may keep any state without a cost in privacy.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import numpy as np

from trend_common.errors import UsageError
from trend_common.tensors import Tensors

__all__ = ["Adam", "Optimiser", "Plain", "Sgd", "make_optimiser"]


class Optimiser(ABC):
    """Turns a gradient into a step; ``state`` is all it remembers, so that a checkpoint can hold it."""

    def __init__(self) -> None:
        self.state: Tensors = {}
        self.steps = 0

    @abstractmethod
    def step(self, parameters: Tensors, gradient: Tensors) -> Tensors:
        """Return new parameters; the old ones are left as they are."""


class Plain(Optimiser):
    """Subtract the gradient as it is: federated averaging, where the gradient is the negative mean change."""

    def step(self, parameters: Tensors, gradient: Tensors) -> Tensors:
        self.steps += 1
        return {name: (value - gradient[name]).astype(np.float32) for name, value in parameters.items()}


class Sgd(Optimiser):
    """Gradient descent with a learning rate and momentum."""

    def __init__(self, learning_rate: float, momentum: float = 0.0) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.momentum = momentum

    def step(self, parameters: Tensors, gradient: Tensors) -> Tensors:
        self.steps += 1
        out: Tensors = {}
        for name, value in parameters.items():
            velocity = self.momentum * self.state.get(f"v/{name}", np.float32(0)) + gradient[name]
            self.state[f"v/{name}"] = np.asarray(velocity, dtype=np.float32)
            out[name] = (value - self.learning_rate * velocity).astype(np.float32)
        return out


class Adam(Optimiser):
    """Adam (Kingma and Ba 2015) on the aggregate, as FedOpt has it (Reddi et al. 2021).

    Args:
        learning_rate: Size of a step: each element moves by about this much at first.
        betas: Decay of the first and the second moment.
        epsilon: Added to the root of the second moment.
    """

    def __init__(self, learning_rate: float, betas: tuple[float, float] = (0.9, 0.99), epsilon: float = 1e-8) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.betas = betas
        self.epsilon = epsilon

    def step(self, parameters: Tensors, gradient: Tensors) -> Tensors:
        self.steps += 1
        first_decay, second_decay = self.betas
        out: Tensors = {}
        for name, value in parameters.items():
            slope = gradient[name].astype(np.float64)
            first = first_decay * self.state.get(f"m/{name}", np.float32(0)) + (1 - first_decay) * slope
            second = second_decay * self.state.get(f"v/{name}", np.float32(0)) + (1 - second_decay) * slope**2
            self.state[f"m/{name}"] = np.asarray(first, dtype=np.float32)
            self.state[f"v/{name}"] = np.asarray(second, dtype=np.float32)
            mean = first / (1 - first_decay**self.steps)
            root = np.sqrt(second / (1 - second_decay**self.steps)) + self.epsilon
            out[name] = (value - self.learning_rate * mean / root).astype(np.float32)
        return out


def make_optimiser(
    name: Literal["adam", "sgd", "none"] | str, learning_rate: float, betas: tuple[float, float] = (0.9, 0.99)
) -> Optimiser:
    """Return a fresh optimiser.

    Raises:
        UsageError: There is none of that name.
    """
    if name == "adam":
        return Adam(learning_rate, betas)
    if name == "sgd":
        return Sgd(learning_rate)
    if name == "none":
        return Plain()
    raise UsageError(f"There is no server optimiser {name!r}.", "Choose one of adam, sgd, none.")
