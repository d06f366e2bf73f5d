"""`serve`: predictions over HTTP, while a `with` block lasts."""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from mltrain.api.predict import open_predicting_model
from mltrain.api.workspace import DATA_DIR, check_path, read_number, read_progress, read_whole
from mltrain.documents.results import Result
from mltrain.errors import MachineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mltrain.api.references import VersionRef
    from mltrain.api.workspace import PathText, ProgressLike
    from mltrain.documents.values import Json
    from mltrain.progress import Progress

#: Where the service listens if nothing else is said: on this machine only.
BIND: Final = "127.0.0.1:8000"
#: Default limits of a request; see `ServiceLimits`.
MAX_BODY_MB: Final = 4
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
    """

    SCHEMA: ClassVar[str] = "serve/1"

    url: str
    version: str
    symbols: tuple[str, ...]
    interval: str
    token: bool


class RunningService:
    """The service while it runs.

    Attributes:
        result: Its address, and what it serves at the start.
    """

    def __init__(self, result: ServeResult, progress: Progress, messages: deque[str]) -> None:
        self.result = result
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
            pause.wait(_WAKE_S)

    def show_messages(self) -> None:
        """Show the warnings since the last call: those of other threads must not be shown there."""
        while self._messages:
            self._progress.warn(self._messages.popleft())


@contextmanager
def serve(
    version: VersionRef | None = None,
    *,
    bind: str = BIND,
    token_file: PathText | None = None,
    allow_no_go: bool = False,
    ops: str | None = None,
    max_body_mb: float = MAX_BODY_MB,
    timeout_s: float = TIMEOUT_S,
    threads: int = THREADS,
    queue: int = QUEUE,
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
        allow_no_go: As in `predict`.
        ops: As in `predict`.
        max_body_mb: Largest body of a request, in MB of 2^20 bytes.
        timeout_s: Seconds that a client may take to send a body, and that its answer may take.
        threads: Requests that are scored at the same time.
        queue: Requests that may wait besides; one more is answered with 503 at once.
        data_dir: The data folder.
        slot: As in `predict`.
        progress: Receives warnings: in `RunningService.wait`, and at the end of the block.
        clock: Returns seconds since 1970, UTC: when candles close, and are stale.

    Yields:
        The service, with its address; `to_json()` is the document of the command.

    Raises:
        UsageError: The address is none, or is not loopback and there is no token; others can read the token file; or a
            limit is out of range.
        InputError: There is no such version, it was never promoted, or the token file holds no token.
        MachineError: The address is taken, or the extra `[serve]` is not installed.
    """
    _check_installed()
    from mltrain.service.access import open_access
    from mltrain.service.http_server import HttpServer
    from mltrain.service.scoring import Scoring
    from mltrain.service.web_app import ServiceLimits, WebApp

    shown = read_progress(progress)
    limits = ServiceLimits(
        max_body_mb=float(read_number(max_body_mb, "max_body_mb")),
        timeout_s=float(read_number(timeout_s, "timeout_s")),
        threads=read_whole(threads, "threads"),
        queue=read_whole(queue, "queue"),
    )
    address, access = open_access(bind, None if token_file is None else check_path(token_file, "token_file"))
    model = open_predicting_model(
        version, allow_no_go=allow_no_go, ops=ops, data_dir=data_dir, slot=slot, progress=shown
    )
    messages: deque[str] = deque(maxlen=_MAX_MESSAGES)
    scoring = Scoring(model, clock=clock)
    app = WebApp(scoring, access, limits, report=messages.append)
    server = HttpServer(app, address, shutdown_s=int(limits.timeout_s) + _SHUTDOWN_S)
    served = scoring.describe()
    address = server.start()
    result = ServeResult(address.url, served.version, served.symbols, served.interval, access.token is not None)
    service = RunningService(result, shown, messages)
    try:
        yield service
    finally:
        server.stop()
        app.close()
        service.show_messages()


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
