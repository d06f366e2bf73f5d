"""Open the source that a `SourceSpec` describes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mltrain.errors import InputError, UsageError
from mltrain.names import describe, show
from mltrain.sources.markets import MARKETS
from mltrain.sources.network_rules import is_loopback
from mltrain.sources.source_spec import PUBLIC_ARCHIVE, SourceSpec

if TYPE_CHECKING:
    from mltrain.sources.network_rules import NetworkRules
    from mltrain.sources.source import Source


def open_source(spec: SourceSpec, rules: NetworkRules | None = None, *, now_ms: int | None = None) -> Source:
    """Open the source that `spec` describes; nothing is read yet.

    Args:
        spec: The source, its interval and its parameters.
        rules: How the network may be used; None for the defaults.
        now_ms: The machine's time, ms UTC, which decides which candles are closed if the source has no clock: `files`
            (None: all are closed) and a few exchanges of ccxt (which then need it).

    Raises:
        UsageError: `spec` is not a SourceSpec.
        InputError: The folder of `files` is missing, is not a folder, or has no candle file.
        MachineError: The package ccxt is needed, and is not installed.
    """
    if not isinstance(spec, SourceSpec):
        raise UsageError(f"spec is {describe(spec)}: expected a SourceSpec", hint='such as SourceSpec(name="binance")')
    match spec.name:
        case "files":
            from mltrain.sources.files import FilesSource

            assert spec.folder is not None  # noqa: S101 -- SourceSpec has checked it
            return FilesSource(spec.folder, spec.interval, now_ms=now_ms, timezone=spec.timezone)
        case "binance":
            from mltrain.sources.binance import BinanceSource

            return BinanceSource(spec.interval, spec.base_url, market=spec.market, rules=rules)
        case "archive":
            from mltrain.sources.archive import ArchiveSource

            return ArchiveSource(spec.interval, spec.base_url, spec.archive_url, market=spec.market, rules=rules)
    if spec.exchange:
        from mltrain.sources.ccxt_source import CcxtSource

        return CcxtSource(spec.exchange, spec.interval, spec.base_url, market=spec.market, rules=rules, now_ms=now_ms)
    from mltrain.sources.simulated_market import SimSource

    return SimSource(interval=spec.interval, seed=spec.seed, signal=spec.signal, end_ms=spec.end_ms, market=spec.market)


def open_recorded(
    spec: SourceSpec,
    rules: NetworkRules | None = None,
    *,
    base_url: str | None = None,
    archive_url: str | None = None,
    now_ms: int | None = None,
) -> Source:
    """Open the source that a snapshot's manifest names; a file must not choose which host this machine connects to.

    Args:
        spec: From the manifest.
        rules: How the network may be used.
        base_url: The user's address of the REST host, which replaces the recorded one.
        archive_url: The user's address of the archive, which replaces the recorded one.
        now_ms: As in `open_source`.

    Raises:
        InputError: The recorded host is neither the source's public one nor this machine; or as in `open_source`.
        UsageError: An address is invalid.
    """
    if not spec.uses_network:
        return open_source(spec, rules, now_ms=now_ms)
    chosen = replace(spec, base_url=base_url or spec.base_url)
    if spec.name == "archive" and archive_url:
        chosen = replace(chosen, archive_url=archive_url)
    for option, public, given in (
        ("base_url", MARKETS[spec.market].rest_url, base_url),
        ("archive_url", PUBLIC_ARCHIVE, archive_url),
    ):
        recorded = str(getattr(spec, option))
        if given or recorded in {"", public} or is_loopback(urlsplit(recorded).hostname or ""):
            continue
        raise InputError(
            f"the snapshot was taken from {show(recorded)}, and a file alone cannot make this machine connect to it",
            hint=f"pass --{option.replace('_', '-')} {recorded} if you trust it",
        )
    return open_source(chosen, rules, now_ms=now_ms)
