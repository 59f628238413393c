"""A Kubernetes API over real HTTP, for the real client: what it answers, refuses and records.

It keeps to what clients can tell apart: Status bodies, resourceVersion conflicts, generations, the status
subresource, merge patches, watches, RBAC, admission. Server-side apply isn't there (415).
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from tests.cluster import admission, discovery
from tests.cluster.loop import abort, no_aborts, serve
from tests.cluster.paths import Target, is_selected, target_of, verb_of
from tests.cluster.script import Script
from tests.cluster.store import (
    ISVC,
    ApiError,
    Change,
    Kind,
    Object,
    Store,
    conflict,
    invalid,
    merge_patch,
)

MERGE, STRATEGIC = "application/merge-patch+json", "application/strategic-merge-patch+json"
USER = "system:serviceaccount:models:airworthy"
Rule = tuple[str, str, tuple[str, ...]]
"""API group, resource (`pods`, `inferenceservices/status`), verbs; as in a Role."""


@dataclass
class Recorded:
    """One request, as it was answered (`code` 0: the connection was broken off)."""

    at: float
    verb: str
    path: str
    query: dict[str, str]
    body: Any = None
    kind: Kind | None = None
    name: str = ""
    code: int = 0


class KubernetesApi:
    """The HTTP front of a `Store`.

    Attributes:
        requests: All requests so far, in order.
        denied: Those that RBAC refused.
        warnings: Unknown fields that were pruned from specs, as a real server warns.
        rules: What the client may do; None: everything.
    """

    def __init__(self, store: Store, script: Script, default_mode: str) -> None:
        self.store = store
        self.script = script
        self.requests: list[Recorded] = []
        self.denied: list[Recorded] = []
        self.warnings: list[str] = []
        self.rules: list[Rule] | None = None
        self.url = ""
        self._default_mode = default_mode
        self._runner: web.AppRunner | None = None
        self._queues: set[asyncio.Queue[Change]] = set()

    async def start(self) -> None:
        app = web.Application(middlewares=[no_aborts], client_max_size=8 << 20)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner, port = await serve(app)
        self.url = f"http://127.0.0.1:{port}"
        loop = asyncio.get_running_loop()
        self.store.listeners.append(lambda change: loop.call_soon_threadsafe(self._publish, change))

    async def stop(self) -> None:
        self.store.listeners.clear()
        if self._runner:
            await self._runner.cleanup()

    def _publish(self, change: Change) -> None:
        for queue in self._queues:
            queue.put_nowait(change)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        entry = Recorded(time.time(), verb_of(request, None), request.path, dict(request.query))
        self.requests.append(entry)
        if self.script.is_down:
            abort(request)
        found = discovery.document(request.path.rstrip("/") or "/") if request.method == "GET" else None
        if found is not None:
            entry.code = 200
            return web.json_response(found)
        try:
            answer = await self._resource(request, entry)
        except ApiError as error:
            headers = {"Retry-After": str(error.retry_after)} if error.retry_after is not None else {}
            answer = web.json_response(error.status(), status=error.code, headers=headers)
        entry.code = answer.status
        return answer

    async def _resource(self, request: web.Request, entry: Recorded) -> web.StreamResponse:
        target = target_of(request.path)
        entry.verb, entry.kind, entry.name = verb_of(request, target), target.kind, target.name
        raw = await request.read()
        entry.body = json.loads(raw) if raw else None
        failure = self.script.take_failure(entry.verb)
        if failure:
            code, retry_after = failure
            raise ApiError(
                code, "ServerTimeout" if code == 500 else "TooManyRequests", "scripted", None, retry_after
            )
        self._authorize(target, entry)
        if entry.verb == "watch":
            return await self._watch(request, target)
        answer = self._answer(request, target, entry)
        if request.method != "GET" and self.script.take_lost():
            abort(request)
        return answer

    def _authorize(self, target: Target, entry: Recorded) -> None:
        group, resource = target.kind.group, target.resource
        if self.rules is None or any(
            rule[:2] == (group, resource) and entry.verb in rule[2] for rule in self.rules
        ):
            return
        self.denied.append(entry)
        qualified = f"{resource}.{group}" if group else resource
        name = f' "{target.name}"' if target.name else ""
        text = (
            f'User "{USER}" cannot {entry.verb} resource "{resource}" in API group "{group}" in the namespace'
        )
        details = {"name": target.name, "group": group, "kind": target.kind.plural}
        raise ApiError(
            403, "Forbidden", f'{qualified}{name} is forbidden: {text} "{target.namespace}"', details
        )

    def _answer(self, request: web.Request, target: Target, entry: Recorded) -> web.Response:
        if entry.verb == "list":
            return web.json_response(self._list(request, target))
        if entry.verb == "get":
            return web.json_response(self.store.get(target.kind, target.namespace or "", target.name))
        if entry.verb == "delete":
            return web.json_response(self._delete(target, entry.body or {}))
        if not isinstance(entry.body, dict | list):
            raise ApiError(400, "BadRequest", "the body is not a JSON object")
        if entry.verb == "create":
            return web.json_response(self._create(target, entry.body), status=201)
        if target.kind is ISVC and self.script.take_conflict():
            self.store.touch(ISVC, target.namespace or "", target.name)
        change = self._patched if entry.verb == "patch" else self._replaced
        return web.json_response(change(request, target, entry.body))

    def _list(self, request: web.Request, target: Target) -> Object:
        kind = target.kind
        with self.store.changed:
            found = [item for item in self.store.select(kind, target.namespace) if is_selected(item, request)]
            meta = {"resourceVersion": str(self.store.version)}
        return {"kind": f"{kind.kind}List", "apiVersion": kind.api_version, "metadata": meta, "items": found}

    def _create(self, target: Target, body: Object) -> Object:
        kind, meta = target.kind, body.get("metadata") or {}
        if body.get("kind") not in (None, kind.kind) or body.get("apiVersion") not in (
            None,
            kind.api_version,
        ):
            raise ApiError(400, "BadRequest", f"{body.get('kind')} can't be created as {kind.qualified}")
        if meta.get("resourceVersion"):
            raise ApiError(400, "BadRequest", "resourceVersion should not be set on objects to be created")
        if meta.get("namespace") not in (None, target.namespace):
            raise ApiError(400, "BadRequest", "the namespace of the object does not match the request")
        if not meta.get("name") and not meta.get("generateName"):
            raise invalid(kind, "", [("metadata.name", "Required value: name or generateName is required")])
        return self.store.create(kind, target.namespace or "", self._admitted(kind, body, None))

    def _admitted(self, kind: Kind, body: Object, old: Object | None) -> Object:
        """Pruned, validated, admitted; without a status when it is new."""
        body, unknown = admission.structural(kind, body)
        self.warnings += unknown
        if kind is ISVC:
            admission.admit(body, old, self._default_mode)
        return {key: value for key, value in body.items() if key != "status" or old or not kind.status}

    def _patched(self, request: web.Request, target: Target, body: Any) -> Object:
        sent = request.content_type
        if sent == STRATEGIC and target.kind.custom:
            raise ApiError(415, "UnsupportedMediaType", f"{sent} is not supported for custom resources")
        if sent not in (MERGE, STRATEGIC):
            raise ApiError(415, "UnsupportedMediaType", f"{sent}: this double understands merge patches only")
        if not isinstance(body, dict):
            raise ApiError(
                400,
                "BadRequest",
                "json: cannot unmarshal array into Go value of type map[string]interface {}",
            )
        with self.store.changed:
            old = self.store.get(target.kind, target.namespace or "", target.name)
            return self._write(target, merge_patch(old, body), old, body)

    def _replaced(self, request: web.Request, target: Target, body: Any) -> Object:
        kind = target.kind
        meta = body.get("metadata") or {} if isinstance(body, dict) else {}
        if meta.get("name", target.name) != target.name:
            raise ApiError(400, "BadRequest", "the name of the object does not match the name on the URL")
        with self.store.changed:
            old = self.store.get(kind, target.namespace or "", target.name)
            if kind.strict and not meta.get("resourceVersion"):
                complaint = "Invalid value: 0x0: must be specified for an update"
                raise invalid(kind, target.name, [("metadata.resourceVersion", complaint)])
            new = body | {"metadata": meta | {"name": target.name, "namespace": target.namespace}}
            return self._write(target, new, old, body)

    def _write(self, target: Target, new: Object, old: Object, body: Object) -> Object:
        kind, asked = target.kind, body.get("metadata") or {}
        expected = asked.get("resourceVersion")
        if expected is not None and expected != old["metadata"]["resourceVersion"]:
            raise conflict(kind, target.name)
        if asked.get("uid") not in (None, old["metadata"]["uid"]):
            raise conflict(kind, target.name)
        if new["metadata"]["name"] != target.name:
            raise ApiError(400, "BadRequest", "the name of an object cannot be changed")
        if target.part == "status":
            return self.store.update(kind, new, part="status")
        return self.store.update(kind, self._admitted(kind, new, old))

    def _delete(self, target: Target, body: Object) -> Object:
        with self.store.changed:
            old = self.store.get(target.kind, target.namespace or "", target.name)
            wanted = body.get("preconditions") or {}
            for key, value in wanted.items():
                if old["metadata"][key] != value:
                    raise conflict(target.kind, target.name)
            self.store.delete(target.kind, target.namespace or "", target.name)
        details = {"name": target.name, "group": target.kind.group, "kind": target.kind.plural}
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}

    async def _watch(self, request: web.Request, target: Target) -> web.StreamResponse:
        queue: asyncio.Queue[Change] = asyncio.Queue()
        self._queues.add(queue)
        epoch = self.script.watch_epoch
        begun, seconds = time.monotonic(), float(request.query.get("timeoutSeconds", 1800))
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        try:
            sent, last = 0, 0
            for change in self._backlog(request, target):
                last = max(last, change.version)
                sent += await _send(response, change)
            while time.monotonic() - begun < seconds:
                if (
                    self.script.is_down
                    or epoch != self.script.watch_epoch
                    or sent >= (self.script.watch_limit or 1 << 30)
                ):
                    abort(request)
                try:
                    change = await asyncio.wait_for(queue.get(), 0.02)
                except TimeoutError:
                    continue
                if change.version > last and self._concerns(change, target, request):
                    sent += await _send(response, change)
        except ApiError as error:
            await response.write(json.dumps({"type": "ERROR", "object": error.status()}).encode() + b"\n")
        finally:
            self._queues.discard(queue)
        return response

    def _backlog(self, request: web.Request, target: Target) -> list[Change]:
        start = request.query.get("resourceVersion", "")
        if start not in ("", "0"):
            return [one for one in self.store.since(int(start)) if self._concerns(one, target, request)]
        with self.store.changed:
            found = self.store.select(target.kind, target.namespace)
        made = [
            Change(int(item["metadata"]["resourceVersion"]), "ADDED", target.kind, item) for item in found
        ]
        return sorted(
            (one for one in made if self._concerns(one, target, request)), key=lambda one: one.version
        )

    @staticmethod
    def _concerns(change: Change, target: Target, request: web.Request) -> bool:
        if change.kind is not target.kind:
            return False
        here = target.namespace in (None, change.object["metadata"]["namespace"])
        return (
            here
            and target.name in ("", change.object["metadata"]["name"])
            and is_selected(change.object, request)
        )


async def _send(response: web.StreamResponse, change: Change) -> int:
    await response.write(json.dumps({"type": change.type, "object": change.object}).encode() + b"\n")
    return 1
