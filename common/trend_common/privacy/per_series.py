"""One gradient for each privacy unit, by hand, for the linear layers of a LoRA.

While attached, every trainable ``nn.Linear`` computes its gradient not for the batch but for each unit:

    grad_sample[u] = Σ over the unit's windows and tokens of  (∂loss/∂output)ᵀ · input          [units, *shape]

which is one small batched matrix product a layer (the "book-keeping" of Goodfellow 2015, arXiv:1510.01799). The
gradient of the batch is never formed: ``p.grad`` stays None. ``windows_per_series`` consecutive rows of the batch are
one unit; the loss is averaged over them before it is differentiated, so that clipping bounds what a whole series can
do. Clipping windows one by one would let a series of k windows move the sum by k·C.

A model may spread a window over several rows, such as a series and its covariates. It then declares
``rows_per_window`` and stands them side by side; all of them are the unit's.

>>> import torch
>>> model = torch.nn.Linear(3, 1, bias=False)
>>> with PerSeriesGradients(model, windows_per_series=2) as gradients:
...     gradients.start(rows=4)
...     gradients.backward(model(torch.ones(4, 3)).squeeze(-1))
...     gradients.collect()["weight"].tolist()
[[[1.0, 1.0, 1.0]], [[1.0, 1.0, 1.0]]]

This is right only if row i of every layer belongs to row i of the batch and the model does not mix rows. What can be
seen from the model is checked here (no batch normalisation, leading dimensions, layers that were not used, weights
used behind a layer's back); the rest is the self-test's.
"""

from __future__ import annotations

from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from trend_common.errors import PolicyError

__all__ = ["PerSeriesGradients", "check_model"]

_HINT = "Private training needs a LoRA on plain nn.Linear layers whose input is [windows, ..., features]."


class PerSeriesGradients:
    """Per-unit gradients of a model's trainable linear layers.

    Use as a context manager, or with :meth:`attach` and :meth:`detach`. Each batch is :meth:`start`, the forward
    pass, :meth:`backward`, :meth:`collect`.

    Args:
        model: Its trainable parameters must all be weights and biases of ``nn.Linear`` layers, in float32 or float64.
        windows_per_series: k, consecutive rows of a batch that belong to one unit.

    Raises:
        PolicyError: The model cannot be trained privately; all reasons are named.
    """

    def __init__(self, model: nn.Module, windows_per_series: int = 1) -> None:
        if windows_per_series < 1:
            raise ValueError(f"windows_per_series is {windows_per_series}; it must be 1 or more")
        self.windows_per_series = windows_per_series
        self._layers, self._rows_per_window = _checked(model)
        named = [
            (f"{name}.{key}" if name else key, p) for name, layer in self._layers.items() for key, p in _own(layer)
        ]
        # A weight that two layers share is one parameter, under the first of its names.
        first = {id(p): name for name, p in reversed(named)}
        self._names: dict[str, Any] = {name: p for name, p in named if first[id(p)] == name}
        self._rows: int | None = None
        self._attached = False

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Name → trainable parameter."""
        return dict(self._names)

    def attach(self) -> Self:
        """Replace the forward of the trainable layers."""
        if self._attached:
            raise RuntimeError("already attached")
        for name, layer in self._layers.items():
            if "forward" in vars(layer):
                raise PolicyError(f"The forward of {name} is already replaced by something else.", _HINT)
        for name, layer in self._layers.items():
            layer.forward = _PerUnitForward(self, name, layer)  # type: ignore[method-assign, assignment]
        self._attached = True
        self._clear()
        return self

    def detach(self) -> None:
        """Give the layers their own forward back and drop all per-unit gradients; harmless when not attached."""
        if not self._attached:
            return
        for layer in self._layers.values():
            vars(layer).pop("forward", None)
        for parameter in self._names.values():
            if hasattr(parameter, "grad_sample"):
                del parameter.grad_sample
        self._attached = False
        self._rows = None

    def __enter__(self) -> Self:
        return self.attach()

    def __exit__(self, *_: object) -> None:
        self.detach()

    def start(self, rows: int) -> None:
        """Begin a batch of ``rows`` windows (units × k); drops the gradients of the batch before.

        Raises:
            PolicyError: ``rows`` is not a multiple of k.
        """
        if not self._attached:
            raise RuntimeError("attach first")
        if rows < 1 or rows % self.windows_per_series:
            raise PolicyError(
                f"A batch has {rows} windows; {self.windows_per_series} of each series were announced.",
                "Draw the same number of windows for every series.",
            )
        self._clear()
        self._rows = rows

    def backward(self, loss_per_window: Tensor) -> None:
        """Differentiate: the mean over each unit's k windows, summed over the units.

        Args:
            loss_per_window: [units · k], the windows of a unit side by side.

        Raises:
            PolicyError: Another shape than was announced, or no trainable parameter had a part in it.
        """
        if loss_per_window.shape != (self._rows,):
            raise PolicyError(
                f"The loss has shape {tuple(loss_per_window.shape)}, not [{self._rows}]: one number a window.",
                "The model must return the loss of each window, not its mean.",
            )
        if not loss_per_window.requires_grad:
            raise PolicyError("The loss depends on no trainable parameter: its layer is never used.", _HINT)
        loss_per_window.reshape(-1, self.windows_per_series).mean(dim=1).sum().backward()  # type: ignore[no-untyped-call]

    def collect(self) -> dict[str, Tensor]:
        """Name → [units, *shape] of the batch.

        Raises:
            PolicyError: A trainable layer took no part in the forward pass, or a weight was used without its layer.
        """
        unused = [name for name, p in self._names.items() if getattr(p, "grad_sample", None) is None]
        behind = [name for name, p in self._names.items() if p.grad is not None]
        problems = [f"{name} has no gradient: its layer is never used" for name in unused]
        problems += [f"{name} is used outside its layer's forward" for name in behind]
        if problems:
            raise PolicyError(f"Per-series gradients are incomplete: {'; '.join(problems[:8])}.", _HINT)
        return {name: p.grad_sample for name, p in self._names.items()}

    def _clear(self) -> None:
        for parameter in self._names.values():
            parameter.grad_sample = None
            parameter.grad = None

    def _units(self, layer: str, leading: int) -> int:
        """Number of units, after a check that the layer sees the batch's own rows."""
        if self._rows is None or leading != self._rows * self._rows_per_window:
            spread = f", {self._rows_per_window} rows each" if self._rows_per_window > 1 else ""
            raise PolicyError(
                f"Layer {layer} sees a leading dimension of {leading} where the batch has {self._rows} "
                f"windows{spread}.",
                "The layer folds or moves the batch dimension, so its rows are not single series. " + _HINT,
            )
        return self._rows // self.windows_per_series


def check_model(model: nn.Module) -> dict[str, nn.Linear]:
    """The trainable linear layers of a model that can be trained privately.

    Raises:
        PolicyError: There is batch normalisation (frozen or not), a trainable parameter outside an ``nn.Linear`` (a
            DoRA magnitude, an embedding, a norm), one of reduced precision, or nothing to train. All are named.
    """
    return _checked(model)[0]


def _own(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """A module's own trainable parameters; torch's iterators take milliseconds over a whole model."""
    return [(key, p) for key, p in module._parameters.items() if p is not None and p.requires_grad]


def _checked(model: nn.Module) -> tuple[dict[str, nn.Linear], int]:
    """The trainable layers, and the rows that they see for each window: 1 unless a part declares another number.

    Asked at every step, of hundreds of modules, so each is looked at once and only those that matter are named.
    """
    problems: list[str] = []
    layers: dict[str, nn.Linear] = {}
    declared: set[int] = set()
    kinds: dict[type[nn.Module], tuple[bool, Any]] = {}
    for link in _walk(model):
        module = link[2]
        kind = type(module)
        if kind not in kinds:
            kinds[kind] = issubclass(kind, _BatchNorm), getattr(kind, "rows_per_window", None)
        mixes, rows = kinds[kind]
        # torch's own __getattr__ looks through parameters, buffers and modules first, and none of them is a number.
        rows = module.__dict__.get("rows_per_window", rows)
        if isinstance(rows, int):
            declared.add(rows)
        own = _own(module) if module._parameters else []
        if not (own or mixes):
            continue
        name = _name(link)
        if mixes:
            problems.append(f"{name} is {type(module).__name__}, which mixes the series of a batch")
        # A subclass may use its weight in another way than F.linear, so only the class itself is known.
        if type(module) is nn.Linear and own:
            layers[name] = module
        else:
            problems += [f"{name}.{key} is trainable in a {type(module).__name__}" for key, _ in own]
        problems += [
            f"{name}.{key} is {p.dtype}; clipping needs float32"
            for key, p in own
            if p.dtype not in (torch.float32, torch.float64)
        ]
    if len(declared) > 1 or any(rows < 1 for rows in declared):
        raise PolicyError(f"The model's parts declare {sorted(declared)} rows for each window.", _HINT)
    if not layers and not problems:
        problems.append("no parameter is trainable")
    if problems:
        shown = "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
        raise PolicyError(f"This model cannot be trained privately: {shown}.", _HINT)
    return layers, declared.pop() if declared else 1


_Link = tuple[Any, str, nn.Module]
"""The link of the parent (None for the model itself), the name within it, the module."""


def _walk(model: nn.Module) -> list[_Link]:
    """All modules once, in the order of ``named_modules``, which takes three times as long."""
    found: list[_Link] = []
    seen: set[nn.Module] = set()
    stack: list[_Link] = [(None, "", model)]
    while stack:
        link = stack.pop()
        module = link[2]
        if module in seen:
            continue
        seen.add(module)
        found.append(link)
        if module._modules:
            stack += [(link, key, child) for key, child in reversed(module._modules.items()) if child is not None]
    return found


def _name(link: _Link) -> str:
    parts: list[str] = []
    while link[0] is not None:
        parts.append(link[1])
        link = link[0]
    return ".".join(reversed(parts))


class _PerUnitForward:
    """The forward of one trainable layer while gradients are taken for each unit.

    A layer that computes several at once (:class:`trend_common.lora_layers.LoraLinear`) does not call it, and hands
    in its gradients by :meth:`keep`.
    """

    def __init__(self, owner: PerSeriesGradients, name: str, layer: nn.Linear) -> None:
        self._owner, self._name, self._layer = owner, name, layer

    def __call__(self, x: Tensor) -> Tensor:
        layer = self._layer
        if not torch.is_grad_enabled():
            return F.linear(x, layer.weight, layer.bias)
        return _PerUnitLinear.apply(x, layer.weight, layer.bias, self.units(x))  # type: ignore[no-any-return, no-untyped-call]

    def units(self, x: Tensor) -> int:
        """Number of units in ``x`` [rows, ..., features], after a check that its rows are the batch's own."""
        return self._owner._units(self._name, x.shape[0] if x.dim() > 1 else 0)

    def keep(self, parameter: Tensor, gradient: Tensor) -> None:
        """Add [units, *shape] to what ``parameter`` has."""
        _accumulate(parameter, gradient)


class _PerUnitLinear(torch.autograd.Function):
    """``F.linear`` whose backward leaves [units, *shape] in ``grad_sample`` and no gradient for the weight itself."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, units: int) -> Tensor:
        ctx.save_for_backward(x)
        ctx.weight, ctx.bias, ctx.units = weight, bias, units
        return F.linear(x, weight, bias)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator, unused-ignore]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, None]:
        (x,) = ctx.saved_tensors
        weight, bias = ctx.weight, ctx.bias
        # Under autocast the output, and so its gradient, is of reduced precision; per-unit gradients never are.
        wide = grad.to(weight.dtype)
        by_unit = wide.reshape(ctx.units, -1, wide.shape[-1])
        if weight.requires_grad:
            inputs = x.to(weight.dtype).reshape(ctx.units, -1, x.shape[-1])
            _accumulate(weight, torch.bmm(by_unit.transpose(1, 2), inputs))
        if bias is not None and bias.requires_grad:
            _accumulate(bias, by_unit.sum(dim=1))
        return ((wide @ weight).to(x.dtype) if ctx.needs_input_grad[0] else None), None, None, None


def _accumulate(parameter: Any, gradient: Tensor) -> None:
    """Add: a layer may be used twice in a forward pass, and two layers may share one weight."""
    present = parameter.grad_sample
    parameter.grad_sample = gradient if present is None else present + gradient
