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
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn

from mltrain.artifact import MODEL_FILE
from mltrain.artifact.model_text import check_model_text
from mltrain.documents.fields import Fields
from mltrain.documents.strict_json import canonical_json
from mltrain.documents.values import SHA256, Located
from mltrain.errors import InputError
from mltrain.features.spec import FeatureSet
from mltrain.features.user_ops import MODULE, UserOps, check_user_ops
from mltrain.names import SYMBOL, show
from mltrain.storage.edge import sha256_bytes
from mltrain.training.calibration import METHODS, Calibrator, Knots

if TYPE_CHECKING:
    from mltrain.documents.values import Json
    from mltrain.features.spec import LabelSpec
    from mltrain.training.calibration import Method

MAX_BUNDLE_BYTES: Final = 256 << 20
FORMAT: Final = 1

_NOTICE: Final = "plain data: use mltrain.load"
_MANUAL: Final = "or lightgbm.Booster(model_str=data['model_text']), then interpolate between the calibrator's knots"
_KEYS: Final = (
    _NOTICE,
    "format",
    "model_text",
    "calibrator",
    "features",
    "symbols",
    "interval",
    "label",
    "hashes",
)
_USER_OPS_KEY: Final = "own_ops"  # a last key, where there are any
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
        return _write_plain(
            {
                _NOTICE: _MANUAL,
                "format": FORMAT,
                "model_text": self.model_text,
                "calibrator": _calibrator_to_json(self.calibrator),
                "features": features,
                "symbols": list(self.symbols),
                "interval": self.interval,
                "label": _label_of(features),
                "hashes": {
                    "registry": self.feature_set.registry_sha256,
                    "ops": self.ops_sha256,
                    "model_text": sha256_bytes(self.model_text.encode()),
                },
                **({} if self.user_ops is None else {_USER_OPS_KEY: asdict(self.user_ops)}),
            }
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
        root = Fields(Located(_read_plain(data, where), where))
        if root.integer("format", minimum=FORMAT) > FORMAT:
            raise InputError(f"{where}: is of a newer format than this mltrain knows", hint="upgrade mltrain")
        root.text(_NOTICE, choices=(_MANUAL,))
        model_text, features = root.text("model_text"), root.raw("features")
        method, scores, probabilities = _read_calibrator(root.fields("calibrator"))
        symbols = root.texts("symbols", pattern=SYMBOL)
        interval, label = root.text("interval"), root.raw("label")
        hashes = root.fields("hashes")
        registry, ops, text = (hashes.text(name, pattern=SHA256) for name in ("registry", "ops", "model_text"))
        user_ops = _read_user_ops(root.fields(_USER_OPS_KEY)) if _USER_OPS_KEY in root.value else None
        root.finish()
        if list(root.value) != [*_KEYS, *([_USER_OPS_KEY] if user_ops else [])] or _write_plain(root.value) != data:
            raise InputError(f"{where}: is not in canonical form: mltrain has not written it")
        if user_ops is not None:
            check_user_ops(user_ops, where=where)
        feature_set = FeatureSet.from_json(features, where=where)
        if (interval, label) != (feature_set.interval, _label_of(features)):
            raise InputError(f"{where}: its interval or label is not that of its registry")
        if (registry, text) != (sha256_bytes(canonical_json(features)), sha256_bytes(model_text.encode())):
            raise InputError(f"{where}: its registry or model text does not have the hash that it names")
        knots = Knots(tuple(scores), tuple(probabilities)) if scores or probabilities else None
        return cls(model_text, Calibrator(method, knots), feature_set, tuple(symbols), ops, user_ops)


def _read_user_ops(fields: Fields) -> UserOps:
    return UserOps(fields.text("module", pattern=MODULE), fields.text("sha256", pattern=SHA256))


def _check_symbols(symbols: tuple[str, ...]) -> None:
    if not symbols or len(set(symbols)) != len(symbols) or not all(SYMBOL.fullmatch(s) for s in symbols):
        raise InputError(f"{MODEL_FILE}: its symbols are not one or more different symbols")


def _read_calibrator(fields: Fields) -> tuple[Method, list[float], list[float]]:
    method = fields.text("method", choices=METHODS)
    return next(m for m in METHODS if m == method), fields.numbers("scores"), fields.numbers("probabilities")


def _calibrator_to_json(calibrator: Calibrator) -> dict[str, Json]:
    knots = calibrator.knots
    return {
        "method": calibrator.method,
        "scores": list(knots.scores) if knots else [],
        "probabilities": list(knots.probabilities) if knots else [],
    }


def _label_of(features: Json) -> Json:
    return features["label"] if isinstance(features, dict) else None


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
