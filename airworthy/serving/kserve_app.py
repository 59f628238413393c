"""KServe's `Model` around a predictor, and KServe's REST server with the quick front before it."""

from __future__ import annotations

import asyncio
import functools
import logging
import signal
import socket
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from airworthy.errors import DataError
from airworthy.serving.call import CALL
from airworthy.serving.front import Front
from airworthy.serving.predictor import Predictor, UnsoundScoreError
from airworthy.serving.protocol import PREFERRED, not_json

log = logging.getLogger("airworthy.serving")

GRACE_SECONDS = 5
"""What requests in flight get to finish when the server is stopped."""
THREAD_ROWS = 50
"""Requests with more rows are scored beside the event loop."""


def make_model(name: str, predictor: Predictor, version: str = "") -> Any:
    """A KServe model that answers V1 and V2 requests with the predictor's probabilities.

    Args:
        name: Model name in the addresses.
        predictor: Reads and scores.
        version: Registry version, told in V2 answers.
    """
    from kserve import InferOutput, InferRequest, InferResponse, Model
    from kserve.errors import InferenceError, InvalidInput

    class BundleModel(Model):
        """Anything wrong with the request becomes HTTP 400 with one sentence."""

        def __init__(self) -> None:
            super().__init__(name)
            self.ready = True

        async def predict(
            self, payload: Any, headers: dict[str, str] | None = None, response_headers: Any = None
        ) -> Any:
            v2 = isinstance(payload, InferRequest)
            if isinstance(payload, bytes):
                raise InvalidInput("the body is not sent as JSON: use Content-Type: application/json")
            read = predictor.v2 if v2 else predictor.v1
            try:
                prediction = await asyncio.to_thread(read, payload) if _is_large(payload) else read(payload)
            except DataError as error:
                raise InvalidInput(str(error)) from None
            except UnsoundScoreError as error:
                raise InferenceError(str(error)) from None
            call = CALL.get(None)
            if call is not None:
                call.prediction = prediction
            if not v2:
                return {"predictions": prediction.scores}
            if call is not None:
                call.identity = payload.id or call.identity
            identity = call.identity if call else payload.id or uuid.uuid4().hex
            output = InferOutput(
                name="score", shape=[len(prediction.scores)], datatype="FP64", data=prediction.scores
            )
            return InferResponse(
                response_id=identity,
                model_name=self.name,
                model_version=version or None,
                infer_outputs=[output],
            )

        def get_input_types(self) -> list[dict[str, Any]]:
            return [
                {"name": f.name, "datatype": PREFERRED[f.kind], "shape": [-1]} for f in predictor.features
            ]

        def get_output_types(self) -> list[dict[str, Any]]:
            return [{"name": "score", "datatype": "FP64", "shape": [-1]}]

    return BundleModel()


def _is_large(payload: Any) -> bool:
    """Whether scoring would keep the event loop from its other work."""
    if isinstance(payload, dict):
        rows = payload.get("instances")
        return isinstance(rows, list) and len(rows) > THREAD_ROWS
    inputs = getattr(payload, "inputs", None) or []
    return any(tensor.shape[0] > THREAD_ROWS for tensor in inputs[:1] if tensor.shape)


def serve(
    model: Any, listener: socket.socket, front: Callable[[Any], Front], *, drain_seconds: float = 0.0
) -> None:
    """Serve until SIGTERM or SIGINT. KServe's REST server is kept; what it hard-codes is replaced:

    the address 0.0.0.0, the slower event loop, a trace log line per request, a stack trace per bad request, 422
    for an unreadable V2 body.

    Args:
        model: Of `make_model`.
        listener: Bound and listening.
        front: Puts the front before KServe's application.
        drain_seconds: How long to go on answering, while saying not to be ready, before stopping: for load
            balancers that follow late.
    """
    import uvloop
    from kserve import ModelServer, model_server
    from kserve.protocol.rest.server import RESTServer

    class Rest(RESTServer):
        def _add_middlewares(self, app: Any) -> None:
            """None: the front does what they did."""

        def _add_exception_handlers(self, app: Any) -> None:
            super()._add_exception_handlers(app)
            handle_errors(app)

        async def start(self) -> None:
            self.create_application()
            before = front(model_server.app)
            self.config.app = before
            self.config.proxy_headers = False
            stop = self._server.handle_exit
            loop = asyncio.get_running_loop()
            self._server.handle_exit = functools.partial(_drain, loop, before, stop, drain_seconds)
            await self._server.serve(sockets=[listener])

    model_server.RESTServer = Rest
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.set_event_loop(asyncio.new_event_loop())  # KServe configures one, and then runs another
    port = listener.getsockname()[1]
    ModelServer(http_port=port, enable_grpc=False, workers=1, grace_period=GRACE_SECONDS).start([model])


def _drain(
    loop: asyncio.AbstractEventLoop,
    front: Front,
    stop: Callable[..., None],
    seconds: float,
    number: int,
    frame: Any,
) -> None:
    """Stop when told to: at once if told twice, or by Ctrl-C."""
    if front.draining or not seconds or number != signal.SIGTERM:
        front.draining = True
        stop(number, frame)
        return
    front.draining = True
    log.info("asked to stop: not ready any more, stopping in %g s", seconds)
    loop.call_soon_threadsafe(loop.call_later, seconds, stop, number, frame)


def handle_errors(app: Any) -> None:
    """One sentence in JSON and no stack trace for what is the caller's mistake or already counted."""
    from fastapi import Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse
    from kserve.errors import InferenceError, InvalidInput, ModelNotFound

    def handler(status: int) -> Callable[[Request, Exception], Any]:
        async def answer(_: Request, error: Exception) -> JSONResponse:
            return JSONResponse({"error": _sentence(error)}, status_code=status)

        return answer

    for kind, status in (
        (InvalidInput, 400),
        (RequestValidationError, 400),
        (ModelNotFound, 404),
        (InferenceError, 500),
        (NotImplementedError, 501),
    ):
        app.add_exception_handler(kind, handler(status))


def _sentence(error: Exception) -> str:
    from fastapi.exceptions import RequestValidationError

    if isinstance(error, RequestValidationError):
        return _complaint(error.errors())
    cause = error.__context__
    if type(cause).__name__ == "JSONDecodeError":
        return not_json(cause)  # type: ignore[arg-type]
    return str(error)


def _complaint(problems: Sequence[Any]) -> str:
    """One sentence about a V2 body that is not a V2 request."""
    first = problems[0]
    if first["type"] == "json_invalid":
        return f"the body is not valid JSON (at byte {first['loc'][-1]})"
    where = ".".join(str(part) for part in first["loc"][1:] if part != "InferenceRequest")
    return f"the body is not a V2 inference request: {where}: {first['msg'][0].lower()}{first['msg'][1:]}"
