"""The encoder of :class:`~trend_common.backbones.trend.TrendModel` as an ONNX graph with int8 weights.

What comes before and after the encoder stays in torch; the encoder is where the time goes. Every linear layer becomes
onnxruntime's ``DynamicQuantizeMatMul``: weights are rounded once, symmetrically and for each output by itself, inputs
when they come, for each batch (Jacob et al. 2018, arXiv:1712.05877). Layers that read the same input become one. The
graph is written node by node: torch's exporters give fixed shapes or fail on this model, and here batch, history and
horizon stay free.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from trend_common.backbones.trend import TrendModel

__all__ = ["INPUTS", "LARGEST", "encoder_graph", "rounded"]

LARGEST: Final = 63
"""Of a weight in int8: seven bits, so that no processor saturates."""

INPUTS: Final = ("tokens", "summary", "position", "visible", "ahead")
"""[N, P, F] float, [N, 1, d] float, [P, d] float, [N, 1 + P] int32, and [1] int64 (minus the patches ahead)."""

_CONTRIB: Final = "com.microsoft"
_OPSET: Final = 20
_IR_VERSION: Final = 10
_END: Final = 2**31


def rounded(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """A matrix [in, out] as int8 and the scale of each output [out], so that their product is nearest to it.

    Weights stay within :data:`LARGEST`: processors without VNNI add two products of an input (0 to 255) and a weight
    in 16 bits, which hold 2 · 255 · 63 and saturate, silently, at 2 · 255 · 127.
    """
    scale = np.abs(weight).max(axis=0) / LARGEST
    scale = np.where(scale > 0, scale, 1.0).astype(np.float32)
    return np.round(weight / scale).astype(np.int8), scale


class _Writer:
    """Collects nodes and constants; every method returns the name of its result."""

    def __init__(self) -> None:
        from onnx import helper, numpy_helper

        self._make_node, self._from_array = helper.make_node, numpy_helper.from_array
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}

    def constant(self, value: NDArray[Any]) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = self._from_array(np.ascontiguousarray(value), name)
        return name

    def index(self, value: int) -> str:
        return self.constant(np.array([value], dtype=np.int64))

    def op(
        self, kind: str, *inputs: str, outputs: tuple[str, ...] = (), contrib: bool = False, **options: Any
    ) -> str:
        names = outputs or (f"v{len(self.nodes)}",)
        domain = _CONTRIB if contrib else ""
        self.nodes.append(self._make_node(kind, list(inputs), list(names), domain=domain, **options))
        return names[0]

    def linear(self, x: str, *layers: Any) -> str:
        """One multiplication for all ``layers``, their outputs side by side."""
        weight = np.concatenate([_array(layer.weight) for layer in layers]).T
        bias = np.concatenate([_array(layer.bias) for layer in layers])
        whole, scale = rounded(weight)
        parts = (self.constant(whole), self.constant(scale), "", self.constant(bias))
        return self.op("DynamicQuantizeMatMul", x, *parts, contrib=True)

    def norm(self, x: str, layer: Any) -> str:
        weight, bias = self.constant(_array(layer.weight)), self.constant(_array(layer.bias))
        return self.op("LayerNormalization", x, weight, bias, epsilon=float(layer.eps))

    def attention(self, query: str, key: str, value: str, heads: int) -> str:
        inputs = (query, key, value, "", "visible")
        return self.op("MultiHeadAttention", *inputs, contrib=True, num_heads=heads)

    def gelu(self, x: str) -> str:
        return self.op("Gelu", x, contrib=True)

    def slice(self, x: str, start: str, end: str, axis: int) -> str:
        return self.op("Slice", x, start, end, self.index(axis))

    def split(self, x: str, parts: int) -> list[str]:
        names = tuple(f"s{len(self.nodes)}_{part}" for part in range(parts))
        self.op("Split", x, outputs=names, axis=2, num_outputs=parts)
        return list(names)


def encoder_graph(model: TrendModel) -> bytes:
    """The graph of ``model`` without an adapter: :data:`INPUTS` → ``hidden`` [N, F, outputs], ``first`` [N, 1, d].

    It computes what :meth:`~trend_common.backbones.trend.TrendModel.encode` does, but for the rounding.
    """
    from onnx import TensorProto, helper

    write, d = _Writer(), int(model.config.d_model)
    start, one, end = write.index(0), write.index(1), write.index(_END)

    def read_out(x: str) -> str:
        """The first token and the patches ahead, all that is read of the last layer."""
        return write.op("Concat", write.slice(x, start, one, 1), write.slice(x, "ahead", end, 1), axis=1)

    wide, skip = write.split(write.linear("tokens", model.in1, model.in_skip), 2)
    patches = write.op("Add", skip, write.linear(write.gelu(wide), model.in2))
    x = write.op("Concat", "summary", write.op("Add", patches, "position"), axis=1)
    blocks: list[Any] = list(model.blocks)
    for number, block in enumerate(blocks, 1):
        y = write.norm(x, block.norm1)
        if number < len(blocks):
            query, key, value = write.split(write.linear(y, block.q_proj, block.k_proj, block.v_proj), 3)
        else:
            key, value = write.split(write.linear(y, block.k_proj, block.v_proj), 2)
            query, x = write.linear(read_out(y), block.q_proj), read_out(x)
        mixed = write.attention(query, key, value, int(block.heads))
        x = write.op("Add", x, write.linear(mixed, block.o_proj))
        inner = write.gelu(write.linear(write.norm(x, block.norm2), block.fc1))
        x = write.op("Add", x, write.linear(inner, block.fc2))
    x = write.norm(x, model.norm)
    head1, head2 = write.linear(write.slice(x, one, end, 1), model.head1), model.head2
    write.op("Identity", write.linear(write.gelu(head1), head2), outputs=("hidden",))
    write.op("Identity", write.slice(x, start, one, 1), outputs=("first",))

    float32, features = TensorProto.FLOAT, int(model.in1.in_features)
    shapes: dict[str, tuple[int, list[str | int]]] = {
        "tokens": (float32, ["n", "patches", features]),
        "summary": (float32, ["n", 1, d]),
        "position": (float32, ["patches", d]),
        "visible": (TensorProto.INT32, ["n", "all"]),
        "ahead": (TensorProto.INT64, [1]),
    }
    inputs = [helper.make_tensor_value_info(name, *shapes[name]) for name in INPUTS]
    outputs = [
        helper.make_tensor_value_info("hidden", float32, ["n", "f", int(model.head2.out_features)]),
        helper.make_tensor_value_info("first", float32, ["n", 1, d]),
    ]
    graph = helper.make_graph(write.nodes, "trend-encoder", inputs, outputs, list(write.constants.values()))
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(_CONTRIB, 1)]
    made: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION).SerializeToString()
    return made


def _array(parameter: Any) -> NDArray[np.float32]:
    found: NDArray[np.float32] = parameter.detach().cpu().numpy().astype(np.float32)
    return found
