"""The architecture of the network: its sizes, and the name and shape of every parameter.

The network is that of Lim et al. 2019 for one target and no future inputs: variable selection per bar, an LSTM over the
window, static enrichment by the symbol, interpretable attention with the last bar as the only query, and one logit.

Every variable is a number, so the paper's embedding of a variable is linear in it, and so are the layers that read the
embedding. The parameters here are those of the product: the first layer of a variable's gated residual network is a
vector instead of a matrix, and the one that computes the selection weights reads the variables themselves. The
functions that can be learned are the same, at a third of the cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

from mltrain.documents.records import Limits, RecordError, record

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Variables of every bar besides the features: sine and cosine of the time of day and of the week.
KNOWN: Final = ("sin_day", "cos_day", "sin_week", "cos_week")
#: Largest size of a standardised feature.
CLIP: Final = 8.0


@record
@dataclass(frozen=True, slots=True)
class Architecture:
    """The sizes of a network.

    Attributes:
        window: Consecutive bars that one row reads, its own included.
        features: Number of features of a bar.
        symbols: Number of symbols.
        hidden: Width of every layer.
        heads: Number of attention heads; divides `hidden`.
    """

    window: Annotated[int, Limits(2, 1_000)]
    features: Annotated[int, Limits(1, 10_000)]
    symbols: Annotated[int, Limits(1, 10_000)]
    hidden: Annotated[int, Limits(2, 512)]
    heads: Annotated[int, Limits(1, 64)]

    def __post_init__(self) -> None:
        if self.hidden % self.heads:
            raise RecordError((("hidden",), f"must be a multiple of heads, {self.heads}; is {self.hidden}"))

    @property
    def variables(self) -> int:
        """Number of variables of a bar: features and known inputs."""
        return self.features + len(KNOWN)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each parameter by its name; all are float32.

        A weight maps the last axis of its input: `x @ weight.T + bias`. A `gate` gives twice the width: values, then
        their gates (a gated linear unit).
        """
        v, h, head = self.variables, self.hidden, self.hidden // self.heads
        shapes: dict[str, tuple[int, ...]] = {
            "symbol": (self.symbols, h),
            # Variable selection: weights from all variables and the symbol's context.
            "select.in.weight": (h, v),
            "select.in.bias": (h,),
            "select.context": (h, h),
            **_linear("select.mid", h, h),
            **_linear("select.gate", 2 * v, h),
            "select.skip.weight": (v, v),
            "select.skip.bias": (v,),
            **_norm("select.norm", v),
            # One gated residual network per variable.
            "variable.embed.weight": (v, h),
            "variable.embed.bias": (v, h),
            "variable.in.weight": (v, h),
            "variable.in.bias": (v, h),
            "variable.mid.weight": (v, h, h),
            "variable.mid.bias": (v, h),
            "variable.gate.weight": (v, 2 * h, h),
            "variable.gate.bias": (v, 2 * h),
            "variable.norm.gain": (v, h),
            "variable.norm.bias": (v, h),
            "lstm.input": (4 * h, h),
            "lstm.hidden": (4 * h, h),
            "lstm.bias": (4 * h,),
            **_linear("recur.gate", 2 * h, h),
            **_norm("recur.norm", h),
            **_grn("enrich", h),
            "enrich.context": (h, h),
            "attend.query": (h, h),
            "attend.key": (h, h),
            # All heads share the values, so that their mean weights say what was attended to.
            "attend.value": (head, h),
            **_linear("attend.out", h, head),
            **_linear("attend.gate", 2 * h, h),
            **_norm("attend.norm", h),
            **_grn("feed", h),
            **_linear("last.gate", 2 * h, h),
            **_norm("last.norm", h),
            **_linear("logit", 1, h),
        }
        for context in ("select", "enrich", "state", "cell"):
            shapes |= _grn(f"static.{context}", h)
        return shapes

    def count_parameters(self) -> int:
        """Return the number of parameters."""
        total = 0
        for shape in self.shapes().values():
            size = 1
            for length in shape:
                size *= length
            total += size
        return total


def _linear(name: str, outputs: int, inputs: int) -> Mapping[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name: str, size: int) -> Mapping[str, tuple[int, ...]]:
    return {f"{name}.gain": (size,), f"{name}.bias": (size,)}


def _grn(name: str, h: int) -> Mapping[str, tuple[int, ...]]:
    """Return the shapes of a gated residual network of width h."""
    return {
        **_linear(f"{name}.in", h, h),
        **_linear(f"{name}.mid", h, h),
        **_linear(f"{name}.gate", 2 * h, h),
        **_norm(f"{name}.norm", h),
    }
