"""A model server that starts in a tenth of a second, for tests that start hundreds: standard library only.

It takes the options of the real one, announces itself and follows its parent; its scores are made up.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from pathlib import Path

ANSWERS = {b"POST": b'{"predictions": [0.5]}', b"GET": b'{"ready": true}'}


class Answering(asyncio.Protocol):
    """One connection, any number of requests."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._received = b""

    def data_received(self, data: bytes) -> None:
        self._received += data
        while b"\r\n\r\n" in self._received:
            head, _, rest = self._received.partition(b"\r\n\r\n")
            lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            length = int(lengths[0].partition(b":")[2]) if lengths else 0
            if len(rest) < length:
                return
            self._received = rest[length:]
            body = ANSWERS[head.partition(b" ")[0]]
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: ")
            self._transport.write(b"%d\r\n\r\n%s" % (len(body), body))


def follow_parent() -> None:
    while os.read(sys.stdin.fileno(), 1024):
        continue
    os._exit(0)


async def serve(announce: Path) -> None:
    server = await asyncio.get_running_loop().create_server(Answering, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    incomplete = announce.with_suffix(".incomplete")
    incomplete.write_text(json.dumps({"url": f"http://127.0.0.1:{port}"}))
    incomplete.replace(announce)
    await server.serve_forever()


if __name__ == "__main__":
    threading.Thread(target=follow_parent, daemon=True).start()
    asyncio.run(serve(Path(sys.argv[sys.argv.index("--announce") + 1])))
