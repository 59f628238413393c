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
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airworthy.errors import AirworthyError, BundleError, ServingError
from airworthy.files import write_whole

if TYPE_CHECKING:
    from airworthy.bundle import BundleInfo
    from airworthy.serving.prediction_log import PredictionLog

log = logging.getLogger("airworthy.serving")

SWITCH_SECONDS = 1e-3
"""How long a large batch in another thread may keep the interpreter from a small request. Python's 5 ms were 10 ms
at the 99th percentile, as a request needs the interpreter twice."""
HARD_STOP_SECONDS = 15.0
"""When the parent has ended and the polite end takes longer than that."""


def follow_parent() -> None:
    """End this process when its parent ends: standard input is a pipe that the parent holds open."""

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 1024):
            continue
        log.info("stopping: the process that started this server has ended")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(HARD_STOP_SECONDS)
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
    sys.setswitchinterval(SWITCH_SECONDS)
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
    parser.add_argument("--engine", choices=["auto", "onnx", "xgboost"], default="auto", help="what scores")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--http_port", type=int, default=8080, help="0 picks a free one")
    parser.add_argument("--max_rows", type=int, default=1000, help="most rows in one request")
    parser.add_argument("--max_body_mib", type=float, default=64.0, help="largest body of a request")
    parser.add_argument("--ignore", default="", help="inputs to accept and not read, separated by commas")
    parser.add_argument("--unseen_category", choices=["missing", "reject"], default="missing")
    parser.add_argument("--announce", type=Path, help="file to write the address to")
    parser.add_argument("--follow_parent", action="store_true", help="end when standard input ends")
    parser.add_argument(
        "--drain_seconds", type=float, default=0.0, help="on SIGTERM answer on for so long, but not as ready"
    )
    parser.add_argument(
        "--arm", default=os.environ.get("AIRWORTHY_ARM", ""), help="stable or canary: for the log"
    )
    predictions = parser.add_argument_group("prediction log")
    predictions.add_argument("--prediction_log", type=Path, help="folder to write requests and scores to")
    predictions.add_argument(
        "--log_drop", default="", help="features that are not written, separated by commas"
    )
    predictions.add_argument("--log_hash", default="", help="features that are written as salted hashes")
    predictions.add_argument("--log_keep_days", type=float, default=90.0)
    predictions.add_argument("--log_max_mib", type=float, default=10_240.0)
    predictions.add_argument("--log_flush_seconds", type=float, default=5.0)
    return parser.parse_known_args(arguments)[0]


def _serve(options: argparse.Namespace) -> int:
    from airworthy.bundle import Scorer, verify_bundle
    from airworthy.serving.front import Front
    from airworthy.serving.kserve_app import make_model, serve
    from airworthy.serving.metrics import Instruments
    from airworthy.serving.predictor import Predictor

    digest = verify_bundle(options.bundle)
    if options.expected_digest and digest != options.expected_digest:
        raise BundleError(
            f"{options.bundle} is bundle {digest[:12]}, but {options.expected_digest[:12]} was to be served"
        )
    scorer = Scorer.load(options.bundle, verify=False, engine=options.engine)
    name, version = options.model_name or scorer.info.model, options.model_version
    predictor = Predictor(
        scorer,
        max_rows=options.max_rows,
        unseen_category=options.unseen_category,
        ignored=_names(options.ignore),
    )
    predictor.self_check()
    for noisy in ("kserve", "kserve.trace", "uvicorn.access", "uvicorn.error"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("uvicorn.access").propagate = False  # else each request's line is put together
    predictions = _prediction_log(options, scorer.info, name, digest)
    instruments = Instruments(
        name, version, digest=digest, arm=options.arm, engine=scorer.engine, log=predictions
    )
    _register(instruments)
    listener = _listen(options.host, options.http_port)
    model = make_model(name, predictor, version)

    def front(app: Any) -> Front:
        from kserve.metrics import PREDICT_HIST_TIME

        return Front(
            app,
            model,
            predictor,
            instruments,
            version=version,
            digest=digest,
            prediction_log=predictions,
            max_body=int(options.max_body_mib * 2**20),
            on_predicted=PREDICT_HIST_TIME.labels(model_name=name).observe,
        )

    log.info("serving %s version %s (%s)", name, version or "-", digest[:12])
    if options.announce:
        announce(options.announce, listener)
    try:
        serve(model, listener, front, drain_seconds=options.drain_seconds)
    finally:
        if predictions is not None:
            predictions.close()
    log.info("stopped serving %s version %s", name, version or "-")
    return 0


def _register(instruments: Any) -> None:
    from prometheus_client import REGISTRY

    REGISTRY.register(instruments)


def _prediction_log(
    options: argparse.Namespace, info: BundleInfo, name: str, digest: str
) -> PredictionLog | None:
    if options.prediction_log is None:
        return None
    from airworthy.serving.prediction_log import LogOptions, PredictionLog

    wanted = LogOptions(
        options.prediction_log,
        drop=_names(options.log_drop),
        hash=_names(options.log_hash),
        keep_days=options.log_keep_days,
        max_bytes=int(options.log_max_mib * 2**20),
        flush_seconds=options.log_flush_seconds,
    )
    return PredictionLog(
        wanted, info, model=name, version=options.model_version, digest=digest, arm=options.arm
    )


def _listen(host: str, port: int) -> socket.socket:
    # The protocol is named because asyncio turns Nagle's delay off (40 ms per answer) only for a named one.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        raise ServingError(f"port {port} on {host} can't be used: {error.strerror}") from None
    listener.listen(512)
    return listener


def _names(text: str) -> frozenset[str]:
    return frozenset(name.strip() for name in text.split(",")) - {""}


if __name__ == "__main__":
    sys.exit(main())
