"""`serve`: predictions over HTTP, while a `with` block lasts."""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from mltrain.api.predict import as_given, names_source, open_growing_source, open_predicting_model
from mltrain.api.workspace import DATA_DIR, check_path, open_store, read_number, read_progress, read_whole
from mltrain.documents.results import Result
from mltrain.errors import MachineError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from mltrain.api.references import VersionRef
    from mltrain.api.sources import Market, SimSignal, SourceOptions
    from mltrain.api.workspace import PathText, ProgressLike
    from mltrain.documents.values import Json
    from mltrain.progress import Progress

#: Where the service listens if nothing else is said: on this machine only.
BIND: Final = "127.0.0.1:8000"
#: Default limits of a request; see `ServiceLimits`.
MAX_BODY_MB: Final = 1.0
TIMEOUT_S: Final = 10.0
THREADS: Final = 2
QUEUE: Final = 64
# Seconds, besides a request's own time limit, that requests in progress have to end.
_SHUTDOWN_S: Final = 5
# A signal may reach another thread; Python acts on it when the main thread wakes up.
_WAKE_S: Final = 0.2
# Messages that wait to be shown; older ones are dropped.
_MAX_MESSAGES: Final = 1_000


@dataclass(frozen=True, slots=True)
class ServeResult(Result):
    """The result of `serve`.

    Attributes:
        url: Address of the service.
        version: Name of the version that answers at the start; it follows promotions.
        symbols: The symbols that it was trained on.
        interval: Interval of the candles.
        token: Whether clients need a token.
        watching: Whether it reads candles itself, so that requests may name symbols.
    """

    SCHEMA: ClassVar[str] = "serve/1"

    url: str
    version: str
    symbols: tuple[str, ...]
    interval: str
    token: bool
    watching: bool


class _Messages:
    """A `Progress` that keeps warnings: those of other threads must not be shown there."""

    def __init__(self) -> None:
        self._kept: deque[str] = deque(maxlen=_MAX_MESSAGES)

    def stage(self, name: str, *, total: int | None = None, concurrent: bool = False) -> None:
        """Show nothing."""

    def advance(self, steps: int = 1, *, note: str = "", stage: str | None = None) -> None:
        """Show nothing."""

    def warn(self, message: str) -> None:
        """Keep a warning."""
        self._kept.append(message)

    def show(self, progress: Progress) -> None:
        """Show the warnings since the last call."""
        while self._kept:
            progress.warn(self._kept.popleft())


class RunningService:
    """The service while it runs.

    Attributes:
        result: Its address, and what it serves at the start.
    """

    def __init__(
        self, result: ServeResult, progress: Progress, messages: _Messages, is_running: Callable[[], bool]
    ) -> None:
        self.result = result
        self._is_running = is_running
        self._progress = progress
        self._messages = messages

    @property
    def url(self) -> str:
        """Address of the service, such as http://127.0.0.1:8000."""
        return self.result.url

    def to_json(self) -> dict[str, Json]:
        """Return the document that the command prints with `--json`, as JSON values."""
        return self.result.to_json()

    def wait(self, ended: Callable[[], bool] = lambda: False) -> None:
        """Wait until Ctrl-C, or until `ended` returns True, and show the service's warnings."""
        pause = threading.Event()
        while not ended():
            self.show_messages()
            if not self._is_running():
                raise RuntimeError("the HTTP server has ended by itself")
            pause.wait(_WAKE_S)

    def show_messages(self) -> None:
        """Show the warnings since the last call."""
        self._messages.show(self._progress)


@contextmanager
def serve(
    version: VersionRef | None = None,
    *,
    bind: str = BIND,
    token_file: PathText | None = None,
    watch: bool = False,
    source: str | None = None,
    market: Market | None = None,
    folder: PathText | None = None,
    timezone: str | None = None,
    sim_seed: int | None = None,
    sim_signal: SimSignal | None = None,
    base_url: str | None = None,
    archive_url: str | None = None,
    use_env_proxy: bool = False,
    inputs: PathText | Mapping[str, object] | None = None,
    ledger: bool = False,
    allow_no_go: bool = False,
    strict_age: bool = False,
    ops: str | None = None,
    max_body_mb: float = MAX_BODY_MB,
    timeout_s: float = TIMEOUT_S,
    threads: int = THREADS,
    queue: int = QUEUE,
    dashboard: bool = True,
    data_dir: PathText = DATA_DIR,
    slot: str | None = None,
    progress: ProgressLike | None = None,
    clock: Callable[[], float] = time.time,
) -> Iterator[RunningService]:
    """Answer predictions over HTTP while a `with` block lasts; its end lets requests in progress end.

    Args:
        version: As in `predict`; the live version follows promotions.
        bind: Where to listen: an IP address, or localhost, and a port; port 0 is any free one. An address of another
            interface than loopback needs `token_file`.
        token_file: File with the token that clients must send; other users must not be able to read it.
        watch: Keep the newest candles of the source at hand, so that requests may name symbols instead of sending
            candles.
        source: As in `predict`; it goes with `watch`, like the next arguments.
        market: As in `predict`.
        folder: As in `predict`.
        timezone: As in `snapshot`.
        sim_seed: As in `predict`.
        sim_signal: As in `predict`.
        base_url: As in `predict`.
        archive_url: As in `predict`.
        use_env_proxy: As in `predict`.
        inputs: As in `predict`; the files of a folder are read again for new candles.
        ledger: Record every row, given or refused, in the ledger of the data folder, before it is answered; with
            `watch` also that of each candle as it closes.
        allow_no_go: As in `predict`.
        strict_age: As in `predict`.
        ops: As in `predict`.
        max_body_mb: Largest body of a request, in MB of 2^20 bytes.
        timeout_s: Seconds that a client may take to send a body, and that its answer may take.
        threads: Requests that are scored at the same time.
        queue: Requests that may wait besides; one more is answered with 503 at once.
        dashboard: Also show a page, and the reports of versions, to a browser on this machine.
        data_dir: The data folder.
        slot: As in `predict`.
        progress: Receives warnings: in `RunningService.wait`, and at the end of the block.
        clock: Returns seconds since 1970, UTC: when candles close, and are stale.

    Yields:
        The service, with its address; `to_json()` is the document of the command.

    Raises:
        UsageError: The address is none, or is not loopback and there is no token; others can read the token file; a
            limit is out of range; or the source has no new candles.
        InputError: There is no such version, it was never promoted, the token file holds no token, or the source lacks
            a symbol.
        SourceError: The source does not answer.
        MachineError: The address is taken, or the extra `[serve]` is not installed.
    """
    _check_installed()
    from mltrain.monitoring.ledger import LEDGER, Ledger
    from mltrain.service.access import open_access
    from mltrain.service.candle_feed import CandleFeed
    from mltrain.service.dashboard import Dashboard
    from mltrain.service.http_server import HttpServer
    from mltrain.service.scoring import Scoring
    from mltrain.service.web_app import PAGE, REPORTS, ServiceLimits, WebApp

    shown = read_progress(progress)
    limits = ServiceLimits(
        max_body_mb=float(read_number(max_body_mb, "max_body_mb")),
        timeout_s=float(read_number(timeout_s, "timeout_s")),
        threads=read_whole(threads, "threads"),
        queue=read_whole(queue, "queue"),
    )
    address, access = open_access(
        bind,
        None if token_file is None else check_path(token_file, "token_file"),
        pages=(PAGE, REPORTS) if dashboard else (),
    )
    options: SourceOptions = {
        "source": source,
        "market": market,
        "folder": folder,
        "timezone": timezone,
        "sim_seed": sim_seed,
        "sim_signal": sim_signal,
    }
    if not watch and (names_source(options) or market is not None or inputs is not None):
        raise UsageError("a source and inputs go with --watch: without it, requests bring their candles")
    # A service that is started again while serving is halted waits for the end of the halt, as a running one does.
    log = Ledger(check_path(data_dir, "data_dir") / LEDGER) if ledger else None
    model = open_predicting_model(
        version,
        allow_no_go=allow_no_go,
        strict_age=strict_age,
        ops=ops,
        data_dir=data_dir,
        slot=slot,
        progress=shown,
        while_halted=True,
        ledger=log,
    )
    messages = _Messages()
    feed = None
    if watch:
        opened = open_growing_source(
            model,
            options,
            base_url=base_url,
            archive_url=archive_url,
            use_env_proxy=use_env_proxy,
            data_dir=data_dir,
            now_ms=int(clock() * 1000),
        )
        # The clock of files is their last candle, by which none would ever be stale.
        feed = CandleFeed(
            model,
            opened,
            messages,
            inputs=as_given(inputs),
            ledger=log,
            clock=clock if opened.name == "files" else None,
        )
    scoring = Scoring(model, clock=clock, feed=feed)
    served = scoring.describe()
    page = Dashboard(scoring, open_store(data_dir, served.slot), model.label) if dashboard else None
    app = WebApp(scoring, access, limits, report=messages.warn, dashboard=page)
    server = HttpServer(app, address, shutdown_s=int(limits.timeout_s) + _SHUTDOWN_S)
    with ExitStack() as stack:
        if log is not None:
            stack.enter_context(log)
        if feed is not None:
            feed.start()
            stack.callback(feed.stop)
        address = server.start()
        result = ServeResult(
            address.url, served.version, served.symbols, served.interval, access.token is not None, watching=watch
        )
        service = RunningService(result, shown, messages, lambda: server.is_running)
        stack.callback(service.show_messages)
        stack.callback(app.close)
        stack.callback(server.stop)
        yield service


def _check_installed() -> None:
    """Raise MachineError unless the packages of the extra `[serve]` are installed."""
    try:
        import prometheus_client  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as err:
        raise MachineError(
            f"serve needs the package {err.name}, which is not installed", hint="pip install 'mltrain-lgbm[serve]'"
        ) from err
