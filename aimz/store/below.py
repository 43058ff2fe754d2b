"""A store of Zarr whose keys are those below a prefix of another store, to be read only."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype

__all__ = ["Below"]


class Below(Store):
    """Keys below a prefix."""

    supports_writes = supports_deletes = False
    supports_listing = True

    def __init__(self, store: Store, prefix: str) -> None:
        super().__init__(read_only=True)
        self._inner = store
        self._prefix = f"{prefix}/" if prefix else ""

    def __eq__(self, value: object) -> bool:
        return isinstance(value, Below) and vars(self) == vars(value)

    __hash__ = None  # type: ignore[assignment]  # as that of every store

    def __str__(self) -> str:
        return f"objects://{self._prefix}"

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        return await self._inner.get(self._prefix + key, prototype, byte_range)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        ranges = [(self._prefix + key, part) for key, part in key_ranges]
        return await self._inner.get_partial_values(prototype, ranges)

    async def exists(self, key: str) -> bool:
        return await self._inner.exists(self._prefix + key)

    async def set(self, key: str, value: Buffer) -> None:
        self._check_writable()

    async def delete(self, key: str) -> None:
        self._check_writable()

    async def list(self) -> AsyncIterator[str]:
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        async for key in self._inner.list_prefix(self._prefix + prefix):
            yield key.removeprefix(self._prefix)

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        async for key in self._inner.list_dir(self._prefix + prefix):
            yield key
