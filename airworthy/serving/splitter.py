"""The weighted traffic splitter: one HTTP address in front of a stable and a canary model server.

Every prediction request draws its arm afresh and independently, with a probability that is recorded with it: this is
what makes the rollout judge's evidence valid. Proxies such as nginx or HAProxy report neither. The draws come from
a generator seeded with the system's entropy: independence is needed, unpredictability is not. Other requests
(readiness, metadata, metrics) go to the stable server, or to the canary when it has all the traffic.

- `X-Canary-Arm: stable|canary` asks for an arm (probes) and gets that arm's answer or failure; never evidence. Every
  answer names the arm that was drawn in the same header, also where stable stood in for the canary. Whoever can send
  requests can ask for a canary that nobody has judged yet, at a share of 0 too: a proxy that lets strangers in should
  take the header off.
- A canary that can't be connected to, breaks off before its answer is whole, or does not answer in time, is answered
  by the stable arm and counted as the canary's failure: nobody has seen anything yet, as answers are passed on whole,
  and a prediction may be asked twice, as it changes nothing. So a canary that hangs costs its users time, however many
  wait at once, but no answer. A canary's 5xx or invalid answers reach the user: they are harm, which the judge bounds.
- A request whose client has gone is finished and counted like any other: else slow answers would go unseen.
- Weights change atomically, with a version.
- `sticky` keeps users with one arm (`airworthy.serving.sticky`), `set_shadow` asks the canary copies
  (`airworthy.serving.shadow`), `GET /splitter/metrics` tells Prometheus what goes on.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import random
import socket
import time
from collections.abc import Callable

from airworthy.errors import ServingError
from airworthy.serving.clients import Client
from airworthy.serving.exchange import PREDICTIONS, Exchange, Weights, failure_reply, is_prediction
from airworthy.serving.exposition import CONTENT_TYPE, exposition
from airworthy.serving.observation import Arm, Observation, Pair, Result
from airworthy.serving.pools import Pools
from airworthy.serving.recorder import Recorder
from airworthy.serving.request_log import RequestLog
from airworthy.serving.results import first_score, result_of
from airworthy.serving.shadow import Shadow
from airworthy.serving.sticky import StickyKeys
from airworthy.serving.upstream import Call, Failure
from airworthy.serving.wire import ARM_HEADER, HOP_BY_HOP, MAX_BODY, Reply, Request, own_reply

__all__ = ["ARM_HEADER", "HOP_BY_HOP", "MAX_BODY", "PREDICTIONS", "Splitter", "Weights", "first_score"]

log = logging.getLogger(__name__)

METRICS = b"/splitter/metrics"
_ARMS: dict[bytes, Arm] = {b"stable": "stable", b"canary": "canary"}
_NAMES: dict[Arm, bytes] = {"stable": b"stable", "canary": b"canary"}


class Splitter:
    """An HTTP server that forwards each request to one of two model servers.

    Lives in the running asyncio loop: `start`, then `set_share` at will, then `stop`, which lets requests in
    flight finish. Addresses are base URLs such as `http://127.0.0.1:8001`.

    Args:
        stable: Address of the stable server; None while there is none (first release: canary only).
        canary: Address of the canary, if any.
        on_request: Called with every prediction request's observation, in order of completion. If it raises, the
            user notices nothing, but the canary gets no more traffic: nobody judges it any more. The exception is
            kept in `observer_error`, and `set_share` above 0 is refused from then on.
        timeout: Seconds an arm may take before it counts as failed.
        seed: For reproducible draws in tests; None draws from the system's entropy.
        sticky: Name of a header; requests with the same value of it stay with one arm.
        request_log: Gets every prediction request too. It is closed by whoever made it.
        client_timeout: Seconds a client may take to send a request, or to take any more of an answer.
    """

    def __init__(
        self,
        stable: str | None,
        canary: str | None = None,
        *,
        on_request: Callable[[Observation], None] | None = None,
        timeout: float = 10.0,
        seed: int | None = None,
        sticky: str | None = None,
        request_log: RequestLog | None = None,
        client_timeout: float = 30.0,
    ) -> None:
        self.addresses: dict[Arm, str | None] = {"stable": stable, "canary": canary}
        self.in_flight = 0
        self.draining = False
        self.url = ""
        self._weights = Weights(0.0 if stable else 1.0, 0)
        self._recorder = Recorder(on_request, request_log, self._withdraw)
        self._timeout = timeout
        self._seed = seed
        self._random = random.Random(seed)  # noqa: S311 (independence is needed, unpredictability is not)
        self._sticky = sticky.lower().encode() if sticky else None
        self._keys = StickyKeys(self._random.randbytes(16))
        self._patience = client_timeout
        self._shadow: Shadow | None = None
        self._pools = Pools()
        self.clients: set[Client] = set()
        self._no_clients = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._stopped = False

    @property
    def observer_error(self) -> Exception | None:
        """What `on_request` or `on_pair` raised last."""
        return self._recorder.error

    @property
    def weights(self) -> Weights:
        return self._weights

    @property
    def shadow_sent(self) -> int:
        """Copies that the canary was asked."""
        return self._shadow.sent if self._shadow else 0

    @property
    def shadow_dropped(self) -> int:
        """Copies that were dropped because the canary could not keep up."""
        return self._shadow.dropped if self._shadow else 0

    def set_share(self, share: float) -> Weights:
        """Send this share (0..1) of the requests that arrive from now on to the canary.

        Raises:
            ServingError: There is no server for an arm that would get traffic, or `on_request` has failed.
        """
        if not 0.0 <= share <= 1.0:
            raise ServingError(f"a share of traffic lies between 0 and 1, not {share}")
        if (share > 0 and self.addresses["canary"] is None) or (
            share < 1 and self.addresses["stable"] is None
        ):
            raise ServingError(f"no server for one of the arms that a share of {share:.0%} needs")
        if share > 0 and self.observer_error:
            raise ServingError(
                f"the canary gets no traffic, as what observes it failed: {self.observer_error}"
            ) from self.observer_error
        self._weights = Weights(share, self._weights.version + 1)
        return self._weights

    def set_shadow(self, share: float, on_pair: Callable[[Pair], None] | None = None) -> None:
        """Ask the canary copies of this share (0..1) of the prediction requests that stable answers from now on.

        Args:
            share: 0 ends it; copies that wait are still asked.
            on_pair: Called with every pair of results, in order of completion; None keeps the one before.

        Raises:
            ServingError: There is no canary, or the share is impossible.
        """
        if not 0.0 <= share <= 1.0:
            raise ServingError(f"a share of traffic lies between 0 and 1, not {share}")
        if share > 0 and self.addresses["canary"] is None:
            raise ServingError("there is no canary to ask copies of requests")
        self._recorder.on_pair = on_pair or self._recorder.on_pair
        if self._shadow is None:
            seed = None if self._seed is None else self._seed + 1
            self._shadow = Shadow(self._recorder.compare, self._timeout, seed)
        self._shadow.share = share

    def replace_stable(self, address: str) -> None:
        """Send requests from now on to another stable server; those in flight finish where they are (`quiet`).

        Raises:
            ServingError: The address can't be used.
        """
        if self._server:
            self._pools.of(address)
        self.addresses["stable"] = address
        self._pools.keep(self.addresses.values())

    def set_canary(self, address: str | None) -> None:
        """Let another server be the canary, or none; what is in flight finishes where it is.

        Raises:
            ServingError: The address can't be used, or there would be none and the canary gets traffic.
        """
        if address is None and self._weights.share > 0:
            raise ServingError("the canary gets traffic: set its share to 0 first")
        if address and self._server:
            self._pools.of(address)
        self.addresses["canary"] = address
        self._pools.keep(self.addresses.values())

    async def quiet(self, address: str) -> None:
        """Wait until no request is in flight at a server: once it was replaced, it may then be stopped."""
        await self._pools.quiet(address)

    async def start(self, port: int = 0) -> str:
        """Listen on 127.0.0.1 (port 0: a free one); returns the base URL.

        Raises:
            ServingError: The port is taken, or an address can't be used.
        """
        for address in self.addresses.values():
            if address:
                self._pools.of(address)
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:
            listener.close()
            raise ServingError(f"port {port} on 127.0.0.1 can't be used: {error.strerror}") from None
        self._server = await asyncio.get_running_loop().create_server(
            lambda: Client(self, self.clients, self._gone, self._sticky), sock=listener, backlog=512
        )
        self._sweep()
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        return self.url

    async def stop(self, drain: float = 10.0) -> None:
        """Accept nothing more, finish what is in flight (for at most `drain` seconds), close. Safe to repeat."""
        server, self._server = self._server, None
        if server is None:
            return
        self.draining = True
        for _ in range(5):  # turns of the loop in which what has arrived already is accepted and read
            await asyncio.sleep(0)
        server.close()
        for client in [client for client in self.clients if client.idle]:
            client.close()
        try:
            async with asyncio.timeout(drain):
                if self.clients:
                    await self._no_clients.wait()
                if self._shadow:
                    await self._shadow.drained()
        except TimeoutError:
            log.warning("%d requests were still in flight after %.0f s", self.in_flight, drain)
        finally:
            self._close()
        await asyncio.sleep(0)  # connections learn of their end

    def _close(self) -> None:
        self._stopped = True
        if self._sweeper:
            self._sweeper.cancel()
        if self._shadow:
            self._shadow.close()
        for client in list(self.clients):
            client.abort()
        self._pools.close()

    def _gone(self) -> None:
        if self.draining and not self.clients:
            self._no_clients.set()

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        for client in list(self.clients):
            client.sweep(loop.time(), self._patience)
        self._pools.sweep()
        self._sweeper = loop.call_later(min(1.0, self._patience / 4), self._sweep)

    def _withdraw(self) -> None:
        """Nobody watches the canary any more."""
        if self.addresses["stable"] and self._weights.share:
            self.set_share(0.0)

    def handle(self, client: Client, request: Request) -> None:
        """Draw the arm of a request that has arrived whole, and ask it."""
        if request.path == METRICS:
            client.answer(Reply(200, b"OK", [CONTENT_TYPE], self._exposition()))
            return
        prediction = is_prediction(request)
        weights = self._weights
        try:
            arm, repeat = self._draw(request, prediction, weights.share)
        except ServingError as error:
            client.answer(own_reply(400, str(error)))
            return
        self.in_flight += 1
        forced = request.arm is not None
        at = round(time.time(), 6)
        exchange = Exchange(client, request, prediction, arm, arm, weights, forced, repeat, at)
        self._ask(exchange, fresh=not exchange.repeatable)

    def _draw(self, request: Request, prediction: bool, share: float) -> tuple[Arm, bool]:
        """The arm of a request, and whether its sticky key was drawn before."""
        if request.arm is not None:
            arm = _ARMS.get(request.arm.lower())
            if arm is None or self.addresses[arm] is None:
                name = request.arm.decode("latin-1")
                raise ServingError(f"{ARM_HEADER}: no arm named {name!r} is being served")
            return arm, False
        if not prediction:
            return ("canary" if share == 1.0 else "stable"), False
        if request.key is not None:
            canary, repeat = self._keys.draw(request.key, share)
            return ("canary" if canary else "stable"), repeat
        return ("canary" if self._random.random() < share else "stable"), False

    def _ask(self, exchange: Exchange, *, fresh: bool) -> None:
        address = self.addresses[exchange.asked]
        assert address is not None
        pool = self._pools.of(address)
        request = exchange.request
        exchange.address = address
        exchange.begun = time.perf_counter()
        pool.ask(
            request.wire(pool.host, pool.prefix),
            functools.partial(self._answered, exchange),
            timeout=self._timeout,
            head_only=request.method == b"HEAD",
            fresh=fresh,
        )

    def _answered(self, exchange: Exchange, call: Call, reply: Reply | None, failure: Failure | None) -> None:
        seconds = round(time.perf_counter() - exchange.begun, 6)
        client = exchange.client
        if self._stopped:
            self.in_flight -= 1
            return
        if failure is not None:
            self._count(exchange, "timeout" if failure == "timeout" else "connection", seconds, None, None)
            again = exchange.next_arm(failure, call.reused, self.addresses["stable"])
            if again:
                exchange.repeated = exchange.asked == again
                exchange.asked = again
                self._ask(exchange, fresh=exchange.repeated or not exchange.repeatable)
                return
            client.answer(failure_reply(failure, exchange.asked), _NAMES[exchange.arm])
        elif reply is not None:
            client.answer(reply, _NAMES[exchange.arm])
            if exchange.prediction:  # what it is worth is found out when it is on its way
                result, score = result_of(reply.status, reply.evidence, exchange.request.body)
                self._count(exchange, result, seconds, score, reply.status)
        self.in_flight -= 1
        client.advance()

    def _count(
        self, exchange: Exchange, result: Result, seconds: float, score: float | None, status: int | None
    ) -> None:
        """Record what came of a prediction request, once; copy it if stable has answered it."""
        if exchange.counted or not exchange.prediction:
            return
        exchange.counted = True
        seen = exchange.observation(self._recorder.completed, result, seconds, score)
        self._recorder.record(seen, exchange.weights.version, status)
        canary = self.addresses["canary"]
        if self._shadow and canary and status and seen.arm == "stable" and not seen.forced:
            self._shadow.offer(self._pools.of(canary), exchange.request, seen)

    def _exposition(self) -> bytes:
        gauges = (
            ("weight", "Share of traffic that the canary gets, 0 to 1.", self._weights.share),
            ("weights_version", "Changes of weights so far.", self._weights.version),
            ("in_flight", "Requests under way.", self.in_flight),
            ("sticky_keys", "Keys that have been drawn.", self._keys.known),
        )
        counters = (
            ("shadow_sent_total", "Copies that the canary was asked.", self.shadow_sent),
            ("shadow_dropped_total", "Copies that the canary had no time for.", self.shadow_dropped),
            ("sticky_unknown_total", "Requests whose key could not be remembered.", self._keys.unknown),
            ("log_dropped_total", "Requests that could not be logged.", self._recorder.log_dropped),
        )
        return exposition(self._recorder.results, gauges, counters)
