"""A stand-in for the KServe server that starts in about a second, for tests that start many.

It takes the same options, verifies the bundle and follows its parent, but its scores are made up.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
from pathlib import Path

from aiohttp import web

from airworthy.bundle import verify_bundle
from airworthy.errors import AirworthyError
from airworthy.serving.server import announce, follow_parent


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--announce", type=Path)
    parser.add_argument("--model_name")
    parser.add_argument("--expected_digest")
    parser.add_argument("--follow_parent", action="store_true")
    options = parser.parse_known_args()[0]
    follow_parent()
    try:
        assert verify_bundle(options.bundle) == options.expected_digest
    except AirworthyError as error:
        sys.stderr.write(f"{error}\n")
        return 1

    async def predict(request: web.Request) -> web.Response:
        rows = json.loads(await request.read())["instances"]
        return web.json_response({"predictions": [(row["hour"] or 0) / 24 for row in rows]})

    async def ready(_: web.Request) -> web.Response:
        return web.json_response({"pid": os.getpid()})

    app = web.Application()
    app.router.add_post(f"/v1/models/{options.model_name}:predict", predict)
    app.router.add_get(f"/v2/models/{options.model_name}/ready", ready)
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    announce(options.announce, listener)
    web.run_app(app, sock=listener, print=None, access_log=None, shutdown_timeout=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
