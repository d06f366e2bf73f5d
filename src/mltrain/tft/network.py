"""The network in PyTorch, for training alone; `mltrain.tft.forward` describes and serves the same one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from mltrain.tft.architecture import Architecture

_EPSILON: Final = 1e-5
# The LSTM forgets little at first (Jozefowicz et al. 2015).
_FORGET_BIAS: Final = 1.0


class Network(nn.Module):
    """The network; its parameters have the names and shapes of `Architecture.shapes`.

    Args:
        architecture: The sizes.
        dropout: Share of the values that are dropped before each gate and after the variable selection, in training.
        generator: Draws the first values of the parameters.
    """

    def __init__(self, architecture: Architecture, *, dropout: float, generator: torch.Generator) -> None:
        super().__init__()
        self.architecture = architecture
        self._dropout = dropout
        self._names = {name: name.replace(".", "__") for name in architecture.shapes()}
        for name, shape in architecture.shapes().items():
            self.register_parameter(self._names[name], nn.Parameter(_first_value(name, shape, generator)))
        hidden = architecture.hidden
        with torch.no_grad():
            self._get("lstm.bias")[hidden : 2 * hidden] = _FORGET_BIAS

    def _get(self, name: str) -> Tensor:
        parameter: Tensor = getattr(self, self._names[name])
        return parameter

    def export(self) -> dict[str, NDArray[np.float32]]:
        """Return copies of the parameters by name."""
        return {name: self._get(name).detach().numpy().copy() for name in self._names}

    def load(self, parameters: Mapping[str, NDArray[np.float32]]) -> None:
        """Set the parameters."""
        with torch.no_grad():
            for name in self._names:
                self._get(name).copy_(torch.from_numpy(parameters[name]))

    def forward(self, variables: Tensor, symbol: int) -> Tensor:
        """Return the log odds of up of all windows of consecutive bars of one symbol, shape (n - window + 1,).

        Args:
            variables: The variables of the bars, shape (n, v).
            symbol: Position of the symbol.
        """
        length = self.architecture.window
        embedding = self._get("symbol")[symbol][None, :]
        static = {name: self._grn(f"static.{name}", embedding) for name in ("select", "enrich", "state", "cell")}
        made = self._select(variables, static["select"])
        # A view: shape (m, h, window).
        windows = made.unfold(0, length, 1).transpose(1, 2).contiguous()
        count = windows.shape[0]
        state = tuple(static[name].expand(count, -1)[None].contiguous() for name in ("state", "cell"))
        hidden_bias = torch.zeros_like(self._get("lstm.bias"))
        flat_weights = [self._get("lstm.input"), self._get("lstm.hidden"), self._get("lstm.bias"), hidden_bias]
        recurred, _, _ = torch.lstm(windows, state, flat_weights, True, 1, 0.0, self.training, False, True)
        local = self._gated("recur", recurred, windows)
        enriched = self._grn("enrich", local, static["enrich"] @ self._get("enrich.context").T)
        last = enriched[:, -1]
        heads = self.architecture.heads
        keys = (enriched @ self._get("attend.key").T).reshape(count, length, heads, -1)
        query = (last @ self._get("attend.query").T).reshape(count, 1, heads, -1)
        similarity = (keys * query).sum(dim=-1) / math.sqrt(self.architecture.hidden // heads)
        attention = functional.dropout(similarity.softmax(dim=1), self._dropout, self.training).mean(dim=-1)
        values = enriched @ self._get("attend.value").T
        attended = (attention[:, :, None] * values).sum(dim=1)
        out = self._linear("attend.out", attended)
        fused = self._gated("attend", out, last)
        final = self._gated("last", self._grn("feed", fused), local[:, -1])
        return self._linear("logit", final)[:, 0]

    def _select(self, x: Tensor, context: Tensor) -> Tensor:
        """Return what variable selection makes of each bar, shape (n, h)."""
        first = functional.elu(self._linear("select.in", x) + context @ self._get("select.context").T)
        weights = self._gated("select", self._linear("select.mid", first), self._linear("select.skip", x)).softmax(-1)
        by_variable = x.T[:, :, None]
        first = functional.elu(
            by_variable * self._get("variable.in.weight")[:, None] + self._get("variable.in.bias")[:, None]
        )
        middle = torch.baddbmm(
            self._get("variable.mid.bias")[:, None], first, self._get("variable.mid.weight").transpose(1, 2)
        )
        middle = functional.dropout(middle, self._dropout, self.training)
        gated = functional.glu(
            torch.baddbmm(
                self._get("variable.gate.bias")[:, None], middle, self._get("variable.gate.weight").transpose(1, 2)
            )
        )
        skip = by_variable * self._get("variable.embed.weight")[:, None] + self._get("variable.embed.bias")[:, None]
        made = functional.layer_norm(gated + skip, gated.shape[-1:], eps=_EPSILON)
        made = made * self._get("variable.norm.gain")[:, None] + self._get("variable.norm.bias")[:, None]
        selected = (weights.T[:, :, None] * made).sum(dim=0)
        return functional.dropout(selected, self._dropout, self.training)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return functional.linear(x, self._get(f"{name}.weight"), self._get(f"{name}.bias"))

    def _grn(self, name: str, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the result of a gated residual network; `context` is added inside its first layer."""
        first = self._linear(f"{name}.in", x)
        first = functional.elu(first if context is None else first + context)
        return self._gated(name, self._linear(f"{name}.mid", first), x)

    def _gated(self, name: str, x: Tensor, skip: Tensor) -> Tensor:
        """Return a gated skip connection: the normalised sum of `skip` and what its gate lets through of x."""
        x = functional.dropout(x, self._dropout, self.training)
        gated = functional.glu(self._linear(f"{name}.gate", x)) + skip
        gain, bias = self._get(f"{name}.norm.gain"), self._get(f"{name}.norm.bias")
        return functional.layer_norm(gated, gated.shape[-1:], gain, bias, _EPSILON)


def _first_value(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Return the first value of a parameter: small random weights, gains of 1, biases of 0."""
    if name.endswith(".gain"):
        return torch.ones(shape)
    if name.endswith("bias"):
        return torch.zeros(shape)
    # The number of inputs; the weights of a single variable have one.
    fan_in = 1 if name.startswith(("variable.embed", "variable.in")) else shape[-1]
    return (2 * torch.rand(shape, generator=generator) - 1) / math.sqrt(fan_in)
