"""The least that can be put around the scorer: a bare ASGI application. `bare.py BUNDLE PORT [ENGINE]`"""

import sys
from pathlib import Path
from typing import Any

import orjson
import uvicorn

from airworthy.bundle import Scorer


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Anything posted is a V1 body; nothing is checked."""
    if scope["type"] != "http":
        return
    message = await receive()
    body = message["body"]
    while message.get("more_body"):
        message = await receive()
        body += message["body"]
    rows = orjson.loads(body)["instances"]
    scores = scorer.score(scorer.encode({name: [row[name] for row in rows] for name in names})[0])
    content = orjson.dumps({"predictions": scores.tolist()})
    head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": content})


scorer = Scorer.load(Path(sys.argv[1]), engine=sys.argv[3] if len(sys.argv) > 3 else "auto")  # type: ignore[arg-type]
names = [feature.name for feature in scorer.info.features]
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="critical", access_log=False)
