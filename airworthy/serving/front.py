"""The quick way in: an ASGI application that answers plain prediction requests itself.

KServe's own route spends several times the model's time on framework (routing, pydantic, four histograms, header
dictionaries). What is not a plain V1 or V2 prediction request in JSON goes to KServe's application: binary tensors,
CloudEvents, requests with parameters, health, metadata, metrics. Both ways share the predictor, and all requests pass
here to be counted, logged and marked with the model's version.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import time
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from airworthy.errors import DataError
from airworthy.serving.call import CALL, Call
from airworthy.serving.heads import Headers, told, unreadable
from airworthy.serving.metrics import Instruments
from airworthy.serving.predictor import Predictor, UnsoundScoreError
from airworthy.serving.protocol import plain_v2, read_json, refuse_repeated_names

if TYPE_CHECKING:
    from airworthy.serving.prediction_log import PredictionLog

log = logging.getLogger("airworthy.serving")

VERSION_HEADER = "X-Model-Version"
DIGEST_HEADER = "X-Model-Digest"
REQUEST_HEADER = "X-Request-Id"
MAX_BODY = 64 * 1024 * 1024
THREAD_BODY = 64 * 1024
"""Bodies from this size on (some 50 rows) are read and scored beside the event loop, which goes on answering."""
MAX_IDENTITY = 128

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Answer = tuple[int, bytes]
"""Status and JSON."""
Route = Callable[[Call, bytes], bytes]


class _KServesToAnswer(Exception):  # noqa: N818 (no error)
    """A request that isn't plain."""


class _TooLargeError(Exception):
    """A body beyond the limit."""


class Front:
    """See the module.

    Args:
        app: KServe's application.
        model: KServe's model: `name`, `ready`.
        predictor: Scores.
        instruments: Counts.
        version: Told in every answer.
        digest: Told in every answer.
        prediction_log: Where requests are written down, if anywhere.
        max_body: Largest body in bytes.
        on_predicted: Called with the seconds that a prediction took here: for KServe's own histogram.
    """

    def __init__(
        self,
        app: Any,
        model: Any,
        predictor: Predictor,
        instruments: Instruments,
        *,
        version: str = "",
        digest: str = "",
        prediction_log: PredictionLog | None = None,
        max_body: int = MAX_BODY,
        on_predicted: Callable[[float], Any] = lambda _: None,
    ) -> None:
        self.draining = False
        """Set when this server is to go: not ready any more, while it still answers."""
        self._app = app
        self._model = model
        self._predictor = predictor
        self._instruments = instruments
        self._version = version
        self._log = prediction_log
        self._max_body = max_body
        self._on_predicted = on_predicted
        self._routes = {
            f"/v1/models/{model.name}:predict": self._v1,
            f"/v2/models/{model.name}/infer": self._v2,
        }
        self._readiness = {"/v2/health/ready", f"/v1/models/{model.name}", f"/v2/models/{model.name}/ready"}
        self._marks: Headers = [
            (VERSION_HEADER.lower().encode(), version.encode()),
            (DIGEST_HEADER.lower().encode(), digest.encode()),
        ]
        self._prefix, self._numbers = os.urandom(8).hex().encode(), itertools.count()
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="scoring")

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        route = self._routes.get(path)
        if route is None and not path.endswith((":predict", "/infer")):
            await self._other(path, scope, receive, send)
        elif route is not None and scope["method"] != "POST":
            await self._refuse(
                send, 405, f"{scope['method']} is not for predictions: use POST", [(b"allow", b"POST")]
            )
        else:
            self._instruments.in_flight += 1
            try:
                await self._predict(route, scope, receive, send)
            finally:
                self._instruments.in_flight -= 1

    async def _predict(self, route: Route | None, scope: Message, receive: Receive, send: Send) -> None:
        """One prediction request, from its first byte to its last; without a route it is KServe's."""
        mark, length, plain, json_length = told(scope["headers"])
        call = self._call(mark)
        answer: Answer | None
        try:
            body = await self._read(receive, length)
        except _TooLargeError:
            answer = 413, _error(f"the body is larger than {self._max_body} bytes: send fewer rows")
        else:
            if body is None:
                return  # the caller has gone
            call.size = len(body)
            wrong = unreadable(body, json_length) if json_length is not None and route == self._v2 else ""
            if wrong:
                answer = 400, _error(wrong)
            else:
                answer = await self._answer(route, call, body) if route and plain else None
            if answer is None:
                await self._delegate(call, scope, _replay(body, receive), send)
                return
        status, content = answer
        if call.prediction is not None:
            self._on_predicted(time.perf_counter() - call.begun)
        self._done(call, status)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(content)),
            *self._marks,
            (b"x-request-id", call.mark),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    async def _read(self, receive: Receive, length: int) -> bytes | None:
        """The whole body; None if the caller went away before its end."""
        if length > self._max_body:
            raise _TooLargeError
        message = await receive()
        body: bytes = message.get("body", b"")
        if message.get("more_body"):
            parts, size = [body], len(body)
            while message.get("more_body"):
                message = await receive()
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > self._max_body:
                    raise _TooLargeError
            body = b"".join(parts)
        return None if message["type"] == "http.disconnect" else body

    async def _answer(self, route: Route, call: Call, body: bytes) -> Answer | None:
        """Our answer; None if the request isn't plain and so KServe's."""
        if not self._model.ready:
            return 503, _error(f"Model with name {self._model.name} is not ready.")
        try:
            if len(body) < THREAD_BODY:
                return 200, route(call, body)
            return 200, await asyncio.get_running_loop().run_in_executor(self._threads, route, call, body)
        except DataError as error:
            return 400, _error(str(error))
        except UnsoundScoreError as error:
            self._instruments.unsound()
            return 500, _error(str(error))
        except _KServesToAnswer:
            return None
        except Exception as error:
            log.exception("a request failed")
            return 500, _error(f"the model server failed: {type(error).__name__}")

    def _v1(self, call: Call, body: bytes) -> bytes:
        import orjson

        document = read_json(body)
        if type(document) is dict and "specversion" in document:
            raise _KServesToAnswer  # a CloudEvent
        if type(document) is dict and type(rows := document.get("instances")) is list:
            refuse_repeated_names(body, len(document) + sum(len(row) for row in rows if type(row) is dict))
        call.prediction = self._predictor.v1(document)
        return orjson.dumps({"predictions": call.prediction.scores})

    def _v2(self, call: Call, body: bytes) -> bytes:
        import orjson

        document = read_json(body)
        request = plain_v2(document)
        if request is None:
            refuse_repeated_names(body, 0)
            raise _KServesToAnswer
        refuse_repeated_names(body, len(document) + 4 * len(request.inputs))
        call.identity = request.id or call.identity
        call.prediction = self._predictor.v2(request)
        return orjson.dumps(v2_answer(self._model.name, self._version, call.identity, call.prediction.scores))

    async def _delegate(self, call: Call, scope: Message, receive: Receive, send: Send) -> None:
        """KServe's way, counted and logged like ours."""
        CALL.set(call)

        async def tagged(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *self._marks, (b"x-request-id", call.mark)]
                self._done(call, message["status"])
            await send(message)

        await self._app(scope, receive, tagged)

    async def _other(self, path: str, scope: Message, receive: Receive, send: Send) -> None:
        """Health, metadata, metrics: KServe's, but for a server that is to go, and for strangers' housekeeping."""
        if self.draining and path in self._readiness:
            await self._refuse(send, 503, "this server is being stopped")
        elif path.startswith("/v2/repository/"):
            await self._refuse(send, 403, "models are loaded and unloaded by rollouts, not by requests")
        else:

            async def marked(message: Message) -> None:
                if message["type"] == "http.response.start":
                    message["headers"] = [*message["headers"], *self._marks]
                await send(message)

            await self._app(scope, receive, marked)

    async def _refuse(self, send: Send, status: int, text: str, headers: Headers | None = None) -> None:
        content = _error(text)
        about = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [*about, *self._marks, *(headers or [])],
            }
        )
        await send({"type": "http.response.body", "body": content})

    def _call(self, mark: bytes | None) -> Call:
        if mark is None or not 0 < len(mark) <= MAX_IDENTITY:
            mark = b"%s-%x" % (self._prefix, next(self._numbers))
        return Call(mark.decode("latin-1"), mark, time.time(), time.perf_counter())

    def _done(self, call: Call, status: int) -> None:
        seconds = time.perf_counter() - call.begun
        self._instruments.answered(status, seconds)
        prediction = call.prediction if status == 200 else None
        if prediction is not None:
            self._instruments.predicted(prediction)
        if self._log is not None:
            self._log.offer(call.identity, call.at, status, seconds, prediction, call.size)


def v2_answer(model: str, version: str, identity: str, scores: list[float]) -> dict[str, Any]:
    """The body of a V2 answer, as KServe would give it."""
    output = {"name": "score", "shape": [len(scores)], "datatype": "FP64", "parameters": None, "data": scores}
    return {
        "model_name": model,
        "model_version": version or None,
        "id": identity,
        "parameters": None,
        "outputs": [output],
    }


def _error(text: str) -> bytes:
    import orjson

    return orjson.dumps({"error": text})


def _replay(body: bytes, receive: Receive) -> Receive:
    """Gives a body that was read already once more."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay
