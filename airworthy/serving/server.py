"""The model server: a KServe `Model` around a bundle's scorer, behind KServe's `ModelServer`.

    python -m airworthy.serving.server --bundle DIR --model_name NAME [--model_version V] [--http_port P] …

KServe's own options work too. The bundle is verified against its digests before it is loaded, and the server
listens only after that. It binds 127.0.0.1 unless told otherwise, ends when its parent does
(`--follow_parent`: end of standard input), and logs start, stop and failures, not requests. Requests:
`airworthy.serving.protocol`.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import socket
import sys
import threading
import uuid
import warnings
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airworthy.errors import AirworthyError, DataError
from airworthy.files import write_whole

if TYPE_CHECKING:
    from airworthy.bundle import Scorer

log = logging.getLogger("airworthy.serving")

VERSION_HEADER = "X-Model-Version"
DIGEST_HEADER = "X-Model-Digest"
LATENCY_BUCKETS = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1, 2, 5)
"""Seconds. KServe's own histograms begin at 5 ms, which is slower than nearly every request here."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


def make_model(
    name: str,
    scorer: Scorer,
    *,
    max_rows: int,
    unseen_category: str,
    ignored: frozenset[str] = frozenset(),
) -> Any:
    """A KServe model that answers V1 and V2 requests with the scorer's probabilities.

    Args:
        name: Model name in the addresses.
        scorer: Loaded and verified.
        max_rows: Most rows in one request.
        unseen_category: `missing` scores them as missing and counts them; `reject` answers 400.
        ignored: Inputs that may be sent although this model does not read them.
    """
    from kserve import InferOutput, InferRequest, InferResponse, Model
    from kserve.errors import InvalidInput
    from prometheus_client import Counter, Histogram

    from airworthy.serving.protocol import PREFERRED, read_v1, read_v2

    features = scorer.info.features
    unseen_total = Counter("airworthy_unseen_categories", "Category values not seen in training", ["feature"])
    predictions = Histogram(
        "airworthy_prediction", "Predicted probabilities", buckets=[k / 10 for k in range(1, 11)]
    )

    class BundleModel(Model):
        """Parse, encode, score; anything wrong with the request becomes HTTP 400 with one sentence."""

        def __init__(self) -> None:
            super().__init__(name)
            self.ready = True

        async def predict(
            self, payload: Any, headers: dict[str, str] | None = None, response_headers: Any = None
        ) -> Any:
            v2 = isinstance(payload, InferRequest)
            try:
                columns = (read_v2 if v2 else read_v1)(payload, features, max_rows, ignored)
                matrix, unseen = scorer.encode(columns)
                if unseen and unseen_category == "reject":
                    raise DataError(
                        f"feature {next(iter(unseen))!r} has a category that was not seen in training"
                    )
            except DataError as error:
                raise InvalidInput(str(error)) from None
            for feature, count in unseen.items():
                unseen_total.labels(feature).inc(count)
            scores = scorer.score(matrix).tolist()
            for score in scores:
                predictions.observe(score)
            if not v2:
                return {"predictions": scores}
            output = InferOutput(name="score", shape=[len(scores)], datatype="FP64", data=scores)
            identity = payload.id or uuid.uuid4().hex
            return InferResponse(response_id=identity, model_name=self.name, infer_outputs=[output])

        def get_input_types(self) -> list[dict[str, Any]]:
            return [{"name": f.name, "datatype": PREFERRED[f.kind], "shape": [-1]} for f in features]

        def get_output_types(self) -> list[dict[str, Any]]:
            return [{"name": "score", "datatype": "FP64", "shape": [-1]}]

    return BundleModel()


class Instruments:
    """ASGI middleware: counts requests by status and time, and names model version and digest in every
    answer."""

    def __init__(self, app: Any, version: str, digest: str) -> None:
        from prometheus_client import Counter, Histogram

        self._app = app
        self._headers = [
            (VERSION_HEADER.lower().encode(), version.encode()),
            (DIGEST_HEADER.lower().encode(), digest.encode()),
        ]
        self._version = version
        self._requests = Counter("airworthy_requests", "Predictions asked", ["model_version", "status"])
        self._seconds = Histogram(
            "airworthy_request_seconds", "Time to answer", ["model_version"], buckets=LATENCY_BUCKETS
        ).labels(version)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        from time import perf_counter

        begun = perf_counter()
        prediction = scope["method"] == "POST"

        async def tagged(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *self._headers]
                if prediction:
                    self._requests.labels(self._version, message["status"]).inc()
                    self._seconds.observe(perf_counter() - begun)
            await send(message)

        await self._app(scope, receive, tagged)


def run(model: Any, listener: socket.socket, *, version: str, digest: str) -> None:
    """Serve until SIGTERM or SIGINT. KServe's REST server is kept; what it hard-codes is replaced:

    the address 0.0.0.0, a trace log line per request, a stack trace per bad request, 422 for an unreadable V2
    body.
    """
    from fastapi import Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse
    from kserve import ModelServer, model_server
    from kserve.errors import InvalidInput, ModelNotFound
    from kserve.protocol.rest.server import RESTServer

    async def bad_request(_: Request, error: Exception) -> JSONResponse:
        text = _complaint(error.errors()) if isinstance(error, RequestValidationError) else str(error)
        return JSONResponse({"error": text}, status_code=400)

    async def not_found(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": str(error)}, status_code=404)

    class Rest(RESTServer):
        def _add_middlewares(self, app: Any) -> None:
            app.add_middleware(Instruments, version=version, digest=digest)

        def _add_exception_handlers(self, app: Any) -> None:
            super()._add_exception_handlers(app)
            app.add_exception_handler(InvalidInput, bad_request)
            app.add_exception_handler(RequestValidationError, bad_request)
            app.add_exception_handler(ModelNotFound, not_found)

        async def start(self) -> None:
            self.create_application()
            await self._server.serve(sockets=[listener])

    model_server.RESTServer = Rest
    port = listener.getsockname()[1]
    ModelServer(http_port=port, enable_grpc=False, workers=1, grace_period=5).start([model])


def _complaint(problems: Sequence[Any]) -> str:
    """One sentence about a V2 body that is not a V2 request."""
    first = problems[0]
    if first["type"] == "json_invalid":
        return f"the body is not valid JSON (at byte {first['loc'][-1]})"
    where = ".".join(str(part) for part in first["loc"][1:] if part != "InferenceRequest")
    return f"the body is not a V2 inference request: {where}: {first['msg'][0].lower()}{first['msg'][1:]}"


def follow_parent() -> None:
    """End this process when its parent ends: standard input is a pipe that the parent holds open."""

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 1024):
            continue
        log.info("stopped: the process that started this server has ended")
        os._exit(0)

    threading.Thread(target=watch, name="follow-parent", daemon=True).start()


def announce(path: Path, listener: socket.socket) -> None:
    """Tell the address to whoever started us, atomically."""
    host, port = listener.getsockname()[:2]
    write_whole(path, json.dumps({"url": f"http://{host}:{port}", "pid": os.getpid()}))


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = _parse(arguments)
    if options.follow_parent:
        follow_parent()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    warnings.filterwarnings("ignore", message="ORJSONResponse is deprecated")  # KServe's to change
    try:
        return _serve(options)
    except AirworthyError as error:
        log.error("%s", error)
        return error.exit_code


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="airworthy.serving.server", description="Serve a model bundle.")
    parser.add_argument("--bundle", type=Path, required=True, help="model bundle to serve")
    parser.add_argument("--model_name", help="name in the addresses (default: the bundle's)")
    parser.add_argument("--model_version", default="", help="registry version, told in every answer")
    parser.add_argument("--expected_digest", help="refuse any other bundle than this one")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--http_port", type=int, default=8080, help="0 picks a free one")
    parser.add_argument("--max_rows", type=int, default=1000, help="most rows in one request")
    parser.add_argument("--ignore", default="", help="inputs to accept and not read, separated by commas")
    parser.add_argument("--unseen_category", choices=["missing", "reject"], default="missing")
    parser.add_argument("--announce", type=Path, help="file to write the address to")
    parser.add_argument("--follow_parent", action="store_true", help="end when standard input ends")
    return parser.parse_known_args(arguments)[0]


def _serve(options: argparse.Namespace) -> int:
    from airworthy.bundle import Scorer, verify_bundle
    from airworthy.errors import BundleError, ServingError

    digest = verify_bundle(options.bundle)
    if options.expected_digest and digest != options.expected_digest:
        raise BundleError(
            f"{options.bundle} is bundle {digest[:12]}, but {options.expected_digest[:12]} was to be served"
        )
    scorer = Scorer.load(options.bundle, verify=False)
    name = options.model_name or scorer.info.model
    model = make_model(
        name,
        scorer,
        max_rows=options.max_rows,
        unseen_category=options.unseen_category,
        ignored=frozenset(options.ignore.split(",")) - {""},
    )
    for noisy in ("kserve", "kserve.trace", "uvicorn.access", "uvicorn.error"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # The protocol is named because asyncio turns Nagle's delay off (40 ms per answer) only for a named one.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((options.host, options.http_port))
    except OSError as error:
        raise ServingError(
            f"port {options.http_port} on {options.host} can't be used: {error.strerror}"
        ) from None
    listener.listen(512)
    log.info("serving %s version %s (%s)", name, options.model_version or "-", digest[:12])
    if options.announce:
        announce(options.announce, listener)
    run(model, listener, version=options.model_version, digest=digest)
    log.info("stopped serving %s version %s", name, options.model_version or "-")
    return 0


if __name__ == "__main__":
    sys.exit(main())
