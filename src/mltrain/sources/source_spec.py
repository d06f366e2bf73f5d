"""`SourceSpec`: which source to open, and how; what a snapshot's manifest records to open it again."""

from __future__ import annotations

import re
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from mltrain.candles.time_zones import check_time_zone
from mltrain.documents.records import (
    DERIVED,
    OMIT_DEFAULT,
    Encoded,
    Key,
    Limits,
    OneOf,
    RecordError,
    TimeMs,
    read_record,
    record,
    to_json,
)
from mltrain.documents.values import Located
from mltrain.errors import UsageError
from mltrain.names import did_you_mean, show
from mltrain.sources.markets import MARKETS, SPOT
from mltrain.sources.network_rules import check_base_url
from mltrain.times import interval_ms

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mltrain.documents.values import Json

SOURCES: Final = ("binance", "archive", "files", "sim")
#: Before the id of an exchange of the package ccxt, as in "ccxt:kraken".
CCXT_PREFIX: Final = "ccxt:"
PUBLIC_REST: Final = MARKETS[SPOT].rest_url
PUBLIC_ARCHIVE: Final = "https://data.binance.vision"
SIGNALS: Final = ("none", "weak", "strong")

# Both JSON readers and 64-bit generators can hold it.
_MAX_SEED: Final = 2**63 - 1
_NAME: Final = re.compile(rf"{'|'.join(SOURCES)}|{CCXT_PREFIX}[a-z0-9]{{2,30}}")
_MAY_BE_ABSENT: Final = ("clock", "timezone", "market")
# Fields of each source that a snapshot's manifest records.
_KEYS: Final = {
    "files": ("name", "folder", "timezone"),
    "binance": ("name", "base_url", "market"),
    "archive": ("name", "base_url", "archive_url", "market"),
    "sim": ("name", "seed", "signal", "clock", "market"),
    CCXT_PREFIX: ("name", "base_url", "market"),
}


@record
@dataclass(frozen=True, slots=True)
class SourceSpec:
    """Which source, and how to open it.

    Attributes:
        name: "binance", "archive", "files", "sim", or "ccxt:" and an exchange's id in ccxt, such as "ccxt:kraken".
        folder: For `files`: their folder, made absolute.
        seed: For `sim`: seed of the market, 0 to 2**63 - 1.
        signal: For `sim`: how predictable the market is, one of SIGNALS.
        interval: Interval of the candles.
        end_ms: For `sim`: time of its clock, ms UTC; None: its default, 2025-10-15T12:00:00Z.
        base_url: For `binance`, `archive` and `ccxt:...`: address of the exchange's REST host; "" for the public one.
        archive_url: For `archive`: address of the archive; "" for the public one.
        timezone: For `files`: zone of times that state none, such as "Europe/Berlin" or "+03:00"; None: UTC.
        market: "spot", or "usdm" for perpetual futures that a US dollar coin settles; not for `files`.
    """

    name: Annotated[str, _NAME]
    folder: Annotated[Path, Encoded(str, Path, str)] | None = None
    seed: Annotated[int, Limits(0, _MAX_SEED)] = 0
    signal: Annotated[str, OneOf(SIGNALS)] = "none"
    interval: Annotated[str, DERIVED] = "1m"
    end_ms: Annotated[TimeMs | None, Key("clock")] = None
    base_url: str = ""
    archive_url: str = ""
    # Left out if None, so that the manifests of earlier versions keep their bytes.
    timezone: Annotated[str | None, OMIT_DEFAULT] = None
    # Missing in manifests of earlier versions, and in those of the spot market, which keep their bytes and hashes.
    market: Annotated[str, OneOf(tuple(MARKETS)), OMIT_DEFAULT] = SPOT

    def __post_init__(self) -> None:
        """Check every field; a UsageError names all that are wrong."""
        interval_ms(self.interval)
        if problems := list(self._problems()):
            raise UsageError("; ".join(problems))
        if self.timezone is not None:
            check_time_zone(self.timezone)
        if self.folder is not None:
            object.__setattr__(self, "folder", Path(self.folder).absolute())
        # ccxt has the public addresses of its exchanges.
        if self.uses_network and (self.base_url or not self.exchange):
            object.__setattr__(self, "base_url", check_base_url(self.base_url or MARKETS[self.market].rest_url))
        if self.name == "archive":
            object.__setattr__(self, "archive_url", check_base_url(self.archive_url or PUBLIC_ARCHIVE))

    @property
    def exchange(self) -> str:
        """Id of the exchange in the package ccxt, such as "kraken"; empty for a source that does not use ccxt."""
        prefix, _, exchange = str(self.name).rpartition(":")
        return exchange if f"{prefix}:" == CCXT_PREFIX else ""

    @property
    def uses_network(self) -> bool:
        """Whether candles are downloaded."""
        return self.name in {"binance", "archive"} or self.exchange != ""

    def _problems(self) -> Iterator[str]:
        """Yield a sentence for each field that is wrong."""
        if not isinstance(self.name, str) or _NAME.fullmatch(self.name) is None:
            yield f"source {show(self.name)}: {did_you_mean(self.name, (*SOURCES, f'{CCXT_PREFIX}kraken'))}"
        if (self.folder is None) == (self.name == "files"):
            yield "the source files needs the folder to read (--from DIR), and no other source takes one"
        if self.timezone is not None and self.name != "files":
            yield f"the times of the source {self.name} are UTC: a time zone goes with files"
        if self.end_ms is not None and self.name != "sim":
            yield f"the clock of the source {self.name} cannot be set"
        if not isinstance(self.seed, Integral) or not 0 <= self.seed <= _MAX_SEED:
            yield f"seed {self.seed}: must be 0 to {_MAX_SEED}"
        if self.signal not in SIGNALS:
            yield f"signal {show(self.signal)}: {did_you_mean(self.signal, SIGNALS)}"
        if (self.base_url and not self.uses_network) or (self.archive_url and self.name != "archive"):
            yield f"the source {self.name} does not use the given base_url or archive_url"
        yield from self._market_problems()

    def _market_problems(self) -> Iterator[str]:
        """Yield a sentence if the source has no such market, or the market no such candles."""
        if self.market not in MARKETS:
            yield f"market {show(self.market)}: {did_you_mean(self.market, tuple(MARKETS))}"
        elif self.market != SPOT and self.name == "files":
            yield f"the source {self.name} has no market {self.market}"
        elif self.interval == "1s" and not MARKETS[self.market].has_seconds:
            yield f"{MARKETS[self.market].title} has no candles of 1s"

    @property
    def known_market(self) -> str:
        """The market of the candles; empty for files, which may be of any."""
        return "" if self.name == "files" else self.market

    def to_dict(self) -> dict[str, Json]:
        """Return the fields that a snapshot's manifest records of this source; it records the interval elsewhere."""
        value = to_json(self)
        return {key: value[key] for key in _list_keys(self) if key in value}

    @classmethod
    def from_dict(cls, value: Json) -> SourceSpec:
        """Read what `to_dict` returned; the interval, which a snapshot keeps in its request, gets the default.

        Raises:
            InputError: A key is missing or unknown, or a value is wrong.
            UsageError: Two values contradict each other.
        """
        spec = read_record(Located(value, ""), cls)
        keys = value if isinstance(value, dict) else {}
        known = _list_keys(spec)
        wrong = [((key,), "is missing") for key in known if key not in keys and key not in _MAY_BE_ABSENT]
        wrong += [((key,), f"the source {spec.name} has no such key") for key in keys if key not in known]
        if wrong:
            raise RecordError(*wrong)
        return spec


def _list_keys(spec: SourceSpec) -> tuple[str, ...]:
    """Return the names of the fields that a snapshot's manifest records of a source."""
    return _KEYS[CCXT_PREFIX if spec.exchange else spec.name]
