"""The model of a Temporal Fusion Transformer: `tft.json` and `tft.safetensors`, all that turns candles into `p`.

Both are plain data, written canonically: equal models are equal bytes. They are read as files that may be hostile:
every field is checked, the header of the weights must be the only one that fits the architecture, and the network must
give the logits that it gave when it was written, on inputs that everybody can compute (`probe_variables`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

import numpy as np

from mltrain.artifact import NETWORK_FILE, WEIGHTS_FILE
from mltrain.artifact.calibrator_document import CalibratorDocument
from mltrain.documents.records import OMIT_DEFAULT, RAW, Limits, read_record, record, refuse_newer, to_json
from mltrain.documents.strict_json import canonical_json, parse_json
from mltrain.documents.values import Json, Located, Sha256
from mltrain.errors import InputError
from mltrain.features.spec import FeatureSet
from mltrain.features.user_ops import UserOps, check_user_ops
from mltrain.names import SYMBOL
from mltrain.storage.hashing import sha256_bytes
from mltrain.tft.architecture import CLIP, Architecture
from mltrain.tft.forward import Forward
from mltrain.tft.variables import Scaler
from mltrain.tft.weights import decode_weights, encode_weights

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from mltrain.features.label_spec import LabelSpec
    from mltrain.training.calibration import Calibrator

MAX_NETWORK_BYTES: Final = 16 << 20
MAX_WEIGHTS_BYTES: Final = 256 << 20
FORMAT: Final = 1
#: Windows of the probe, and how far a logit may be from the one that was stored.
PROBES: Final = 16
TOLERANCE: Final = 1e-5


@record
@dataclass(frozen=True, slots=True)
class _ScalerDocument:
    """Mean and scale of each feature, in the order of the registry."""

    mean: tuple[float, ...]
    scale: tuple[Annotated[float, Limits(0)], ...]


@record
@dataclass(frozen=True, slots=True)
class _Hashes:
    """SHA-256 of the registry's JSON form, of the ops, and of the file of the weights."""

    registry: Sha256
    ops: Sha256
    weights: Sha256


@record
@dataclass(frozen=True, slots=True)
class _Document:
    """The document in `tft.json`."""

    format: Annotated[int, Limits(1, FORMAT)]
    architecture: Architecture
    scaler: _ScalerDocument
    calibrator: CalibratorDocument
    features: Annotated[Json, RAW]
    symbols: tuple[Annotated[str, SYMBOL], ...]
    interval: str
    label: Annotated[Json, RAW]
    hashes: _Hashes
    probes: tuple[float, ...]
    own_ops: Annotated[UserOps | None, OMIT_DEFAULT] = None


@dataclass(frozen=True, slots=True, eq=False)
class SequenceBundle:
    """A complete model: features, network and calibrator.

    Attributes:
        architecture: The sizes of the network.
        parameters: Its parameters by name.
        scaler: Standardises the features.
        calibrator: Maps the network's score to the probability.
        feature_set: The registry that the model was trained with.
        symbols: The symbols that it was trained on, in training order.
        ops_sha256: Identifier of the version of mltrain's ops that it was trained with.
        user_ops: The user's module of ops that it was trained with; None without user ops.
    """

    architecture: Architecture
    parameters: Mapping[str, NDArray[np.float32]]
    scaler: Scaler
    calibrator: Calibrator
    feature_set: FeatureSet
    symbols: tuple[str, ...]
    ops_sha256: str
    user_ops: UserOps | None = None

    @property
    def interval(self) -> str:
        """Length of a candle, such as "1m"."""
        return self.feature_set.interval

    @property
    def label(self) -> LabelSpec:
        """The event that the probability is of."""
        return self.feature_set.label

    def forward(self) -> Forward:
        """Return the forward pass of the network."""
        return Forward(self.architecture, self.parameters)

    def to_files(self) -> dict[str, bytes]:
        """Return the files by name; equal models give equal bytes."""
        features = self.feature_set.to_json()
        weights = encode_weights(self.parameters)
        document = _Document(
            format=FORMAT,
            architecture=self.architecture,
            scaler=_ScalerDocument(tuple(self.scaler.mean.tolist()), tuple(self.scaler.scale.tolist())),
            calibrator=CalibratorDocument.of(self.calibrator),
            features=features,
            symbols=self.symbols,
            interval=self.interval,
            label=features["label"],
            hashes=_Hashes(
                registry=self.feature_set.registry_sha256, ops=self.ops_sha256, weights=sha256_bytes(weights)
            ),
            probes=tuple(score_probes(self.forward())),
            own_ops=self.user_ops,
        )
        return {NETWORK_FILE: canonical_json(to_json(document)), WEIGHTS_FILE: weights}

    @classmethod
    def from_files(cls, network: bytes, weights: bytes, *, where: str) -> SequenceBundle:
        """Return the model in the bytes of its two files.

        Args:
            network: The bytes of a `tft.json`.
            weights: The bytes of its `tft.safetensors`.
            where: The name of their folder in messages.

        Raises:
            InputError: They are damaged, hostile, newer, or do not belong together.
        """
        place = f"{where}/{NETWORK_FILE}"
        located = Located(parse_json(network, where=place, max_bytes=MAX_NETWORK_BYTES), place)
        refuse_newer(located, newest=FORMAT)
        document = read_record(located, _Document)
        if canonical_json(to_json(document)) != network:
            raise InputError(f"{place}: is not in canonical form: mltrain has not written it")
        if document.own_ops is not None:
            check_user_ops(document.own_ops, where=place)
        feature_set = FeatureSet.from_json(document.features, where=place)
        if (document.interval, document.label) != (feature_set.interval, to_json(feature_set.label)):
            raise InputError(f"{place}: its interval or label is not that of its registry")
        _check_sizes(document, where=place)
        if document.architecture.features != len(feature_set.names):
            raise InputError(
                f"{place}: its network reads {document.architecture.features} features, its registry has "
                f"{len(feature_set.names)}"
            )
        found = (sha256_bytes(canonical_json(document.features)), sha256_bytes(weights))
        if (document.hashes.registry, document.hashes.weights) != found:
            raise InputError(f"{place}: its registry or the file of its weights does not match its hash")
        bundle = cls(
            architecture=document.architecture,
            parameters=decode_weights(weights, document.architecture, where=f"{where}/{WEIGHTS_FILE}"),
            scaler=Scaler(np.array(document.scaler.mean, np.float32), np.array(document.scaler.scale, np.float32)),
            calibrator=document.calibrator.to_calibrator(),
            feature_set=feature_set,
            symbols=document.symbols,
            ops_sha256=document.hashes.ops,
            user_ops=document.own_ops,
        )
        difference = np.abs(score_probes(bundle.forward()) - np.array(document.probes)).max()
        # Written so that NaN fails.
        if not difference <= TOLERANCE:
            raise InputError(f"{where}: the network does not give the scores that it gave when it was written")
        return bundle


def _check_sizes(document: _Document, *, where: str) -> None:
    """Raise InputError unless the lists of a document have as many items as its architecture says."""
    architecture, scaler = document.architecture, document.scaler
    for name, found, expected in (
        ("scaler.mean", len(scaler.mean), architecture.features),
        ("scaler.scale", len(scaler.scale), architecture.features),
        ("symbols", len(set(document.symbols)), architecture.symbols),
        ("probes", len(document.probes), PROBES),
    ):
        if found != expected:
            raise InputError(f"{where}: {name} must have {expected} different values; has {found}")


def score_probes(forward: Forward) -> NDArray[np.float64]:
    """Return the log odds of up of the probe windows, shape (PROBES,), of the symbols in turn."""
    architecture = forward.architecture
    scores = np.empty(PROBES)
    for probe in range(PROBES):
        symbol = probe % architecture.symbols
        made, _ = forward.select(probe_variables(architecture, probe), symbol)
        scores[probe] = forward.score(made, np.array([architecture.window - 1]), symbol)[0]
    return scores


def probe_variables(architecture: Architecture, probe: int) -> NDArray[np.float32]:
    """Return the variables of a probe window, shape (window, v): waves of different lengths, up to the largest size."""
    bar, variable = np.indices((architecture.window, architecture.variables))
    phase = (bar + 1) * (variable + 2 + probe) * np.sqrt(2)
    size = CLIP * (probe + 1) / PROBES
    variables: NDArray[np.float32] = (size * np.sin(phase)).astype(np.float32)
    return variables
