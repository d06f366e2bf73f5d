"""GO or NO-GO: a pure verdict over evidence.

Every gate passes, fails, is held, or does not apply. One failed gate makes a NO-GO. A held gate leaves the version GO
but keeps it from being promoted automatically: a person decides. A gate that could not be evaluated has not passed,
and no comparison with NaN ever passes.

To add a gate: write its function in `rules`, with its evidence as a field of `gate_evidence.Evidence`, and call it in
`judge` below. Its thresholds are fields of `config.train_config.GateConfig`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mltrain.gates import rules

if TYPE_CHECKING:
    from mltrain.config.train_config import GateConfig
    from mltrain.gates.gate_evidence import Evidence
    from mltrain.gates.outcome import GateOutcome
    from mltrain.gates.rules import SymbolVerdict


@dataclass(frozen=True, slots=True)
class Verdict:
    """GO or NO-GO, gate by gate.

    Attributes:
        go: Whether no gate failed.
        outcomes: One per gate, always all of them, in a fixed order; `economics` only if it is switched on.
        symbols: Each symbol alone, in the order of the evidence; empty if they could not be evaluated.
    """

    go: bool
    outcomes: tuple[GateOutcome, ...]
    symbols: tuple[SymbolVerdict, ...]

    @property
    def word(self) -> Literal["GO", "NO-GO"]:
        """The verdict as it is written and shown."""
        return "GO" if self.go else "NO-GO"

    @property
    def failed(self) -> tuple[GateOutcome, ...]:
        """The gates that failed."""
        return tuple(o for o in self.outcomes if o.outcome == "failed")

    @property
    def held(self) -> str | None:
        """Why a GO is not promoted automatically; None if it may be promoted, and for a NO-GO."""
        reasons = [o.reason for o in self.outcomes if o.outcome == "held"]
        return "; ".join(reasons) if self.go and reasons else None


def judge(evidence: Evidence, config: GateConfig) -> Verdict:
    """Judge a model: GO if no gate fails."""
    selection = evidence.selection
    symbols = rules.judge_symbols(evidence.symbols)
    outcomes = (
        rules.judge_skill(evidence.skill, selection, config),
        rules.judge_simple_model(evidence.simple_model, selection),
        rules.judge_per_symbol(evidence, symbols),
        rules.judge_calibration(evidence.calibration, config),
        rules.judge_latency(evidence.latency_p95_ms, config),
        rules.judge_leakage(evidence.guards),
        rules.judge_bounce(evidence.bounce),
        # Left out rather than "not applicable" where it is off: nobody asked for it, and a card, a table and a document
        # of a training without it are as they were before there was this gate.
        *rules.judge_economics(evidence.break_even, selection, config),
        rules.judge_champion(evidence.champion, config),
        rules.judge_meaning(evidence.meaning),
        rules.judge_origin(evidence.origin),
    )
    return Verdict(go=all(o.outcome != "failed" for o in outcomes), outcomes=outcomes, symbols=symbols)
