"""`lgbm.pkl`: everything that turns candles into a probability, as a pickle of plain builtins and nothing else.

The file names no global, so `pickle.load` anywhere gives a dict and never runs code. It is written canonically: equal
models are equal bytes, with no time, no version name and no thread count inside. It is read as what it may be, a
hostile file: every opcode is looked at before any is executed, only those that build plain data are let through, the
result must be the canonical form of itself, every field is checked, and the model text has its structure checked
before LightGBM could see it. Whoever reads a published one has checked its SHA-256 before (`mltrain.storage.manifest`).
"""

from __future__ import annotations

import io
import pickle
import pickletools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

from mltrain.artifact import MODEL_FILE
from mltrain.artifact.model_text import check_model_text
from mltrain.documents.records import OMIT_DEFAULT, RAW, Key, Limits, OneOf, read_record, record, refuse_newer, to_json
from mltrain.documents.strict_json import canonical_json
from mltrain.documents.values import Json, Located, Sha256
from mltrain.errors import InputError
from mltrain.features.spec import FeatureSet
from mltrain.features.user_ops import UserOps, check_user_ops
from mltrain.names import SYMBOL, show
from mltrain.storage.hashing import sha256_bytes
from mltrain.training.calibration import Calibrator, Knots, Method

if TYPE_CHECKING:
    from mltrain.features.spec import LabelSpec

MAX_BUNDLE_BYTES: Final = 256 << 20
FORMAT: Final = 1

_MANUAL: Final = "or lightgbm.Booster(model_str=data['model_text']), then interpolate between the calibrator's knots"
_PROTOCOL: Final = 4
_MAX_OPCODES: Final = 1_000_000  # the largest calibrator has some ten thousand knots
_MAX_DEPTH: Final = 16

#: What plain data without a memo is made of. No opcode here calls, imports or refers back to anything.
_OPCODES: Final = frozenset(
    {
        "PROTO",
        "FRAME",
        "MARK",
        "STOP",
        "EMPTY_DICT",
        "SETITEM",
        "SETITEMS",
        "EMPTY_LIST",
        "APPEND",
        "APPENDS",
        "SHORT_BINUNICODE",
        "BINUNICODE",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG1",
        "BINFLOAT",
        "NONE",
        "NEWTRUE",
        "NEWFALSE",
    }
)
_BROKEN_PICKLE: Final = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    AttributeError,
    IndexError,
    OverflowError,
    MemoryError,
)


@record
@dataclass(frozen=True, slots=True)
class _CalibratorDocument:
    """The calibrator: its method, and its knots as two lists, empty where it has none."""

    method: Method
    scores: tuple[float, ...]
    probabilities: tuple[float, ...]


@record
@dataclass(frozen=True, slots=True)
class _Hashes:
    """SHA-256 of the registry's JSON form, of the ops, and of the model text."""

    registry: Sha256
    ops: Sha256
    model_text: Sha256


@record
@dataclass(frozen=True, slots=True)
class _Document:
    """The dict in `lgbm.pkl`; the order of the keys is part of the format."""

    notice: Annotated[str, OneOf((_MANUAL,)), Key("plain data: use mltrain.load")]
    format: Annotated[int, Limits(1, FORMAT)]
    model_text: str
    calibrator: _CalibratorDocument
    features: Annotated[Json, RAW]
    symbols: tuple[Annotated[str, SYMBOL], ...]
    interval: str
    label: Annotated[Json, RAW]
    hashes: _Hashes
    own_ops: Annotated[UserOps | None, OMIT_DEFAULT] = None


@dataclass(frozen=True, slots=True)
class Bundle:
    """A model, whole: what it reads, the trees, the calibrator.

    `Bundle.from_bytes(b.to_bytes(), where="") == b` for every bundle.

    Attributes:
        model_text: LightGBM's model text, normalised.
        calibrator: From the booster's score to the probability.
        feature_set: The registry that the model was trained with; its names are the booster's columns.
        symbols: What it was trained on, sorted as in training.
        ops_sha256: Identifier of the version of mltrain's feature ops that it was trained with.
        user_ops: The module of the user's that some ops are from; None: none.

    Raises:
        InputError: The parts are unsound or do not fit together.
    """

    model_text: str
    calibrator: Calibrator
    feature_set: FeatureSet
    symbols: tuple[str, ...]
    ops_sha256: str
    user_ops: UserOps | None = None

    def __post_init__(self) -> None:
        _check_symbols(self.symbols)
        shape = check_model_text(self.model_text, where=MODEL_FILE)
        if shape.feature_names != self.feature_set.names:
            raise InputError(f"{MODEL_FILE}: the trees were grown on other features than the registry in it lists")

    @property
    def interval(self) -> str:
        """Length of a candle, such as "1m"."""
        return self.feature_set.interval

    @property
    def label(self) -> LabelSpec:
        """What the probability is of."""
        return self.feature_set.label

    def to_bytes(self) -> bytes:
        """Return the canonical bytes of `lgbm.pkl`."""
        features = self.feature_set.to_json()
        knots = self.calibrator.knots
        return _write_plain(
            to_json(
                _Document(
                    notice=_MANUAL,
                    format=FORMAT,
                    model_text=self.model_text,
                    calibrator=_CalibratorDocument(
                        method=self.calibrator.method,
                        scores=() if knots is None else knots.scores,
                        probabilities=() if knots is None else knots.probabilities,
                    ),
                    features=features,
                    symbols=self.symbols,
                    interval=self.interval,
                    label=features["label"],
                    hashes=_Hashes(
                        registry=self.feature_set.registry_sha256,
                        ops=self.ops_sha256,
                        model_text=sha256_bytes(self.model_text.encode()),
                    ),
                    own_ops=self.user_ops,
                )
            )
        )

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str) -> Bundle:
        """Return the bundle that these bytes hold; no code in them is ever run.

        Args:
            data: The bytes of an `lgbm.pkl`, their SHA-256 checked where there is one to check.
            where: The file's name in messages, usually its path.

        Raises:
            InputError: They are no bundle, or a damaged, hostile or newer one.
            OwnOpsError: It was trained with ops of the user's own that are not in use, or not as they were.
        """
        located = Located(_read_plain(data, where), where)
        refuse_newer(located, newest=FORMAT)
        document = read_record(located, _Document)
        if _write_plain(to_json(document)) != data:
            raise InputError(f"{where}: is not in canonical form: mltrain has not written it")
        if document.own_ops is not None:
            check_user_ops(document.own_ops, where=where)
        feature_set = FeatureSet.from_json(document.features, where=where)
        if (document.interval, document.label) != (feature_set.interval, to_json(feature_set.label)):
            raise InputError(f"{where}: its interval or label is not that of its registry")
        registry, text = sha256_bytes(canonical_json(document.features)), sha256_bytes(document.model_text.encode())
        if (document.hashes.registry, document.hashes.model_text) != (registry, text):
            raise InputError(f"{where}: its registry or model text does not have the hash that it names")
        scores, probabilities = document.calibrator.scores, document.calibrator.probabilities
        knots = Knots(scores, probabilities) if scores or probabilities else None
        return cls(
            model_text=document.model_text,
            calibrator=Calibrator(document.calibrator.method, knots),
            feature_set=feature_set,
            symbols=document.symbols,
            ops_sha256=document.hashes.ops,
            user_ops=document.own_ops,
        )


def _check_symbols(symbols: tuple[str, ...]) -> None:
    if not symbols or len(set(symbols)) != len(symbols) or not all(SYMBOL.fullmatch(s) for s in symbols):
        raise InputError(f"{MODEL_FILE}: its symbols are not one or more different symbols")


def _write_plain(document: dict[str, Json]) -> bytes:
    """Pickle plain data canonically: the keys of nested mappings sorted, nothing memoised.

    The ordinary pickler writes the same string twice where two equal ones are two objects, and refers back where they
    are one: equal documents would differ in bytes by accidents of identity.
    """
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, _PROTOCOL)
    pickler.fast = True
    pickler.dump({key: _sorted(value) for key, value in document.items()})
    return buffer.getvalue()


def _sorted(value: Json) -> Json:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value


class _PlainUnpickler(pickle.Unpickler):
    """Builds plain data; whatever would import or fetch anything raises."""

    def find_class(self, module_name: str, global_name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it names {show(f'{module_name}.{global_name}')}")

    def persistent_load(self, pid: object) -> NoReturn:
        raise pickle.UnpicklingError(f"it refers to something outside: {show(str(pid))}")


def _read_plain(data: bytes, where: str) -> Json:
    """Return the plain data that a pickle holds."""
    if len(data) > MAX_BUNDLE_BYTES:
        raise InputError(f"{where}: is too large: {len(data)} bytes, at most {MAX_BUNDLE_BYTES}")
    try:
        _check_opcodes(data)
        document: Any = _PlainUnpickler(io.BytesIO(data)).load()
    except _BROKEN_PICKLE as err:
        what = show(str(err) or type(err).__name__)
        raise InputError(
            f"{where}: is not a pickle of plain data: {what}", hint="take the file from its source again"
        ) from err
    _check_plain(document, 0, where)
    plain: Json = document
    return plain


def _check_opcodes(data: bytes) -> None:
    """Refuse a stream before any of it is executed: a memo index or a length can ask for all the machine's memory."""
    for count, (opcode, _, _) in enumerate(pickletools.genops(data)):
        if opcode.name not in _OPCODES:
            raise pickle.UnpicklingError(f"it uses the opcode {opcode.name}")
        if count >= _MAX_OPCODES:
            raise pickle.UnpicklingError(f"it has more than {_MAX_OPCODES} opcodes")


def _check_plain(value: object, depth: int, where: str) -> None:
    if depth > _MAX_DEPTH:
        raise InputError(f"{where}: is nested more than {_MAX_DEPTH} levels deep")
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise InputError(f"{where}: has a key that is not text")
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            _check_plain(item, depth + 1, where)
