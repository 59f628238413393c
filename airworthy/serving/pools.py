"""The connections to all model servers that the splitter knows, by address."""

from __future__ import annotations

from collections.abc import Collection

from airworthy.serving.upstream import Pool


class Pools:
    """Makes pools as they are needed, in the running event loop."""

    def __init__(self) -> None:
        self._pools: dict[str, Pool] = {}

    def of(self, address: str) -> Pool:
        """The pool of a server.

        Raises:
            ServingError: The address can't be used.
        """
        pool = self._pools.get(address)
        if pool is None:
            pool = self._pools[address] = Pool(address)
        return pool

    def keep(self, addresses: Collection[str | None]) -> None:
        """Keep connections to these servers only; calls in flight at others finish."""
        for address, pool in list(self._pools.items()):
            if address in addresses:
                pool.revive()
                continue
            pool.retire()
            if not pool.in_flight and not pool.connections:
                del self._pools[address]

    async def quiet(self, address: str) -> None:
        """Wait until no call is in flight at a server."""
        if address in self._pools:
            await self._pools[address].quiet()

    def sweep(self) -> None:
        """Close what has been idle for too long."""
        for pool in self._pools.values():
            pool.sweep()

    def close(self) -> None:
        """End everything at once; calls in flight fail."""
        for pool in self._pools.values():
            pool.close()
