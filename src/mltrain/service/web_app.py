"""The routes of the service: HTTP in, JSON out.

Nothing that a client sends ends in a 500: that is a bug, which the service reports and counts, and it goes on.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
import traceback
import uuid
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, TypeVar

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from mltrain.documents.results import to_plain
from mltrain.documents.strict_json import parse_json
from mltrain.errors import InputError, MltrainError, UsageError
from mltrain.service.dashboard import REFRESH_S, page_policy, report_policy
from mltrain.service.predict_body import BODY
from mltrain.service.scoring import NO_CANDLES_YET, NotReadyError
from mltrain.service.scoring_pool import OverloadedError, ScoringPool
from mltrain.service.service_metrics import ServiceMetrics

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from starlette.types import Message, Receive, Scope, Send

    from mltrain.service.access import Access
    from mltrain.service.dashboard import Dashboard
    from mltrain.service.scoring import Scoring

T = TypeVar("T")

PREDICT: Final = "/v1/predict"
MODEL: Final = "/v1/model"
HEALTH: Final = "/healthz"
READY: Final = "/readyz"
METRICS: Final = "/metrics"
#: Pages for people.
PAGE: Final = "/"
REPORTS: Final = "/reports"
_ROUTES: Final = frozenset({PREDICT, MODEL, HEALTH, READY, METRICS, PAGE})
#: The range of each limit.
LIMITS: Final = {"max_body_mb": (0.001, 1_024), "timeout_s": (0.1, 3_600), "threads": (1, 64), "queue": (0, 10_000)}
# The label of requests for anything else: names that clients make up must not become labels.
_OTHER: Final = "other"
# The label of requests whose client left before the answer, as other servers have it.
_CLIENT_LEFT: Final = 499

# What a client may send to find its request again; anything else is replaced.
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_REQUEST_ID_HEADER: Final = "x-request-id"
# A body up to this many times the limit is read to its end and dropped: a client reads the answer after that.
_DRAINED: Final = 8
# Digits of a Content-Length that is read.
_MAX_DIGITS: Final = 18
# Seconds after which an overloaded service may be asked again.
_RETRY_S: Final = 1
# Answers are for one moment, and no page may show them in a frame or read them as something else.
_HEADERS: Final = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
# Frames of a traceback that a message shows: those nearest to the error.
_FRAMES: Final = -6
_CLOSE: Final = {"connection": "close"}


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """What a client may cost.

    Attributes:
        max_body_mb: Largest body of a request, in MB of 2^20 bytes.
        timeout_s: Seconds that a client may take to send a body, and that its answer may take.
        threads: Requests that are scored at the same time.
        queue: Requests that may wait besides; one more is answered with 503 at once.

    Raises:
        UsageError: A value is out of its range.
    """

    max_body_mb: float = 1.0
    timeout_s: float = 10.0
    threads: int = 2
    queue: int = 64

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, (low, high) in LIMITS.items():
            if not low <= (value := getattr(self, name)) <= high:
                raise UsageError(f"{name} is {value}: expected {low:,} to {high:,}")

    @property
    def max_body_bytes(self) -> int:
        """Largest body of a request, in bytes."""
        return int(self.max_body_mb * (1 << 20))


class _Refusal(Exception):  # noqa: N818 -- an answer, not an error
    """A request that is answered with an error.

    Args:
        status: The HTTP status.
        code: A short code.
        message: What is wrong.
        hint: What to do about it.
        headers: Further headers of the answer.
    """

    def __init__(
        self, status: int, code: str, message: str, *, hint: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.hint = hint
        self.headers = headers


class WebApp:
    """The ASGI application.

    Args:
        scoring: Answers the requests.
        access: Who may ask what.
        limits: What a request may cost.
        report: Called with a message about a bug or a failure of the machine.
        dashboard: Renders the pages for people; None: there are none.
    """

    def __init__(
        self,
        scoring: Scoring,
        access: Access,
        limits: ServiceLimits,
        *,
        report: Callable[[str], None],
        dashboard: Dashboard | None = None,
    ) -> None:
        self._scoring = scoring
        self._dashboard = dashboard
        self._access = access
        self._limits = limits
        self._report = report
        self._pool = ScoringPool(threads=limits.threads, queue=limits.queue)
        self._metrics = ServiceMetrics(scoring, in_progress=lambda: self._pool.running)
        self._starlette = Starlette(
            routes=[
                Route(PREDICT, self._predict, methods=["POST"]),
                Route(MODEL, self._describe_model),
                Route(HEALTH, self._check_health),
                Route(READY, self._check_ready),
                Route(METRICS, self._show_metrics),
                Route(PAGE, self._show_page),
                Route(f"{REPORTS}/{{version}}", self._show_report),
            ],
            exception_handlers={
                _Refusal: _answer_refusal,
                HTTPException: _answer_http_error,
                UsageError: partial(_answer_error, status=422, code="input"),
                InputError: partial(_answer_error, status=422, code="input"),
                MltrainError: self._answer_failure,
                Exception: _answer_bug,
            },
        )

    def close(self) -> None:
        """Wait for the answers that are being computed; call it when no request can come any more."""
        self._pool.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request: check access, call its route, and count it."""
        begin_s = time.perf_counter()
        headers = Headers(scope=scope)
        given = headers.get(_REQUEST_ID_HEADER, "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        status = _CLIENT_LEFT

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = MutableHeaders(scope=message)
                own[_REQUEST_ID_HEADER] = request_id
                for name, value in _HEADERS.items():
                    own.setdefault(name, value)
            await send(message)

        try:
            denial = self._access.find_denial(scope["path"], headers, scope["client"][0] if scope["client"] else None)
            if denial is None:
                await self._starlette(scope, receive, send_with_headers)
            else:
                challenge = {"www-authenticate": "Bearer"} if denial.status == HTTPStatus.UNAUTHORIZED else {}
                response = _error(
                    Request(scope), denial.status, denial.code, denial.message, headers=_CLOSE | challenge
                )
                await response(scope, receive, send_with_headers)
        except ClientDisconnect:
            # Nobody is left to answer.
            pass
        except Exception as err:  # noqa: BLE001 -- `_answer_bug` has answered; here the bug becomes known
            self._report(
                f"request {request_id}: a bug: {''.join(traceback.format_exception(err, limit=_FRAMES)).rstrip()}"
            )
        finally:
            route = scope["path"] if scope["path"] in _ROUTES else _OTHER
            self._metrics.count_request(route, status, time.perf_counter() - begin_s)

    async def _predict(self, request: Request) -> Response:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        # Not only tidy: a web page elsewhere cannot send this type without asking first.
        if kind != "application/json":
            raise _Refusal(
                415,
                "content-type",
                "the body must have the Content-Type application/json",
                hint="curl --json @body.json",
                headers=_CLOSE,
            )
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise _Refusal(415, "content-encoding", "the body must not be compressed", headers=_CLOSE)
        body = await self._read_body(request)

        def answer() -> bytes:
            try:
                document = parse_json(body, where=BODY, max_bytes=self._limits.max_body_bytes)
            except InputError as err:
                raise _Refusal(400, "json", err.message, hint=err.hint) from err
            answered = self._scoring.predict(document)
            self._metrics.count_rows([row.refused for row in answered.rows])
            return _encode({**to_plain(answered), "request_id": request.state.request_id})

        return _json_response(await self._run(answer))

    async def _read_body(self, request: Request) -> bytes:
        """Return the body of a request, within the limits of size and time."""
        most = self._limits.max_body_bytes
        too_large = _Refusal(
            413, "too-large", f"the body is larger than {most:,} bytes", hint="send fewer candles", headers=_CLOSE
        )
        declared = request.headers.get("content-length", "0")
        if len(declared) > _MAX_DIGITS or int(declared) > _DRAINED * most:
            raise too_large
        parts, size = [], 0
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                async for part in request.stream():
                    size += len(part)
                    if size <= most:
                        parts.append(part)
                    elif size > _DRAINED * most:
                        break
        except TimeoutError as err:
            message = f"the body did not arrive within {self._limits.timeout_s:g} s"
            raise _Refusal(408, "slow", message, headers=_CLOSE) from err
        if size > most:
            raise too_large
        return b"".join(parts)

    async def _run(self, function: Callable[[], T]) -> T:
        """Return what a function returns, called in a thread of the pool."""
        retry = {"retry-after": str(_RETRY_S)}
        try:
            return await self._pool.run(function, timeout_s=self._limits.timeout_s)
        except NotReadyError as err:
            raise _Refusal(503, NO_CANDLES_YET, "no candles were read yet", headers=retry) from err
        except OverloadedError as err:
            raise _Refusal(503, "overloaded", "too many requests are waiting", headers=retry) from err
        except TimeoutError as err:
            message = f"there was no answer within {self._limits.timeout_s:g} s"
            raise _Refusal(503, "time-limit", message, headers=retry) from err

    async def _describe_model(self, request: Request) -> Response:
        try:
            served = await self._run(self._scoring.describe)
        except MltrainError as err:
            # The client is not at fault.
            return await self._answer_failure(request, err)
        return _json_response(_encode({**to_plain(served), "request_id": request.state.request_id}))

    async def _check_health(self, _: Request) -> Response:
        return _json_response(_encode({"status": "ok"}))

    async def _check_ready(self, _: Request) -> Response:
        reasons = list(self._scoring.find_obstacles())
        document = {"status": "not ready" if reasons else "ready", "reasons": reasons}
        return _json_response(_encode(document), status=503 if reasons else 200)

    async def _show_metrics(self, _: Request) -> Response:
        return Response(await self._run(self._metrics.render), headers={"content-type": CONTENT_TYPE_LATEST})

    async def _show_page(self, request: Request) -> Response:
        if self._dashboard is None:
            raise HTTPException(404)
        dashboard, given = self._dashboard, request.query_params.get("refresh", "")
        refresh_s = min(max(int(given), REFRESH_S[0]), REFRESH_S[1]) if re.fullmatch("[0-9]{1,9}", given) else None
        page = await self._run(lambda: dashboard.render(refresh_s))
        return Response(page, media_type="text/html", headers={"content-security-policy": page_policy()})

    async def _show_report(self, request: Request) -> Response:
        if self._dashboard is None:
            raise HTTPException(404)
        dashboard, version = self._dashboard, request.path_params["version"]
        try:
            page = await self._run(lambda: dashboard.read_report(version))
        except (UsageError, InputError) as err:
            raise _Refusal(404, "not-found", err.message) from err
        return Response(page, media_type="text/html", headers={"content-security-policy": report_policy()})

    async def _answer_failure(self, request: Request, err: Exception) -> Response:
        """Answer that the machine failed, such as a full disk, and report why."""
        assert isinstance(err, MltrainError)  # noqa: S101 -- Starlette calls it for these
        self._report(f"request {request.state.request_id}: {err.message}")
        return _error(request, 503, "machine", err.message, hint=err.hint)


def _encode(document: object) -> bytes:
    return json.dumps(document, allow_nan=False, separators=(",", ":")).encode()


def _json_response(body: bytes, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(body, status_code=status, headers=headers, media_type="application/json")


def _error(
    request: Request,
    status: int,
    code: str,
    message: str,
    *,
    hint: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return an answer that says what is wrong with a request."""
    document = {"error": {"code": code, "message": message, "hint": hint}, "request_id": request.state.request_id}
    return _json_response(_encode(document), status=status, headers=headers)


async def _answer_refusal(request: Request, err: Exception) -> Response:
    assert isinstance(err, _Refusal)  # noqa: S101 -- Starlette calls it for these
    return _error(request, err.status, err.code, err.message, hint=err.hint, headers=err.headers)


async def _answer_error(request: Request, err: Exception, *, status: int, code: str) -> Response:
    assert isinstance(err, MltrainError)  # noqa: S101 -- Starlette calls it for these
    return _error(request, status, code, err.message, hint=err.hint)


async def _answer_http_error(request: Request, err: Exception) -> Response:
    """Answer a path that does not exist, or a method that a path does not have."""
    assert isinstance(err, HTTPException)  # noqa: S101 -- Starlette calls it for these
    code = "not-found" if err.status_code == HTTPStatus.NOT_FOUND else "method"
    return _error(request, err.status_code, code, str(err.detail), headers={**(err.headers or {}), **_CLOSE})


async def _answer_bug(request: Request, _: Exception) -> Response:
    return _error(request, 500, "bug", "a bug in the service: its log has the request's id")
