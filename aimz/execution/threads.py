"""Threads that feed devices."""

import os
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import jax

from aimz.execution.call import shared_block
from aimz.execution.plan import Plan
from aimz.sampling import Block
from aimz.store import Tile

__all__ = ["Shared", "devices_in_use", "num_threads", "run_in_threads"]


#: Threads of a device that is not the CPU: one computes while the other copies and writes.
THREADS_PER_ACCELERATOR = 2


def run_in_threads[Item](
    items: Iterator[Item],
    work: Callable[[Item, int], int],
    on_done: Callable[[int], None],
    *,
    threads: int,
) -> None:
    """Let a few threads work through items in order; the first error stops all and is raised.

    `work` gets an item and the number of its thread; what it returns goes to `on_done`, in the
    calling thread.
    """
    lock, stop = threading.Lock(), threading.Event()
    done: queue.SimpleQueue[int | BaseException | None] = queue.SimpleQueue()
    settings = _thread_settings()

    def lane(number: int) -> None:
        try:
            with settings():
                while not stop.is_set():
                    with lock:
                        item = next(items, None)
                    if item is None:
                        break
                    done.put(work(item, number))
        except BaseException as error:  # noqa: BLE001  # raised again in the calling thread
            stop.set()
            done.put(error)
        done.put(None)

    workers = [threading.Thread(target=lane, args=(n,), daemon=True) for n in range(threads)]
    try:
        for worker in workers:
            worker.start()
        failures, running = [], threads
        while running:
            message = done.get()
            if message is None:
                running -= 1
            elif isinstance(message, BaseException):
                failures.append(message)
            elif not failures:
                on_done(message)
    finally:  # also after Ctrl-C: nobody writes once the sink has been aborted
        stop.set()
        for worker in workers:
            worker.join()
    if failures:
        raise failures[0]


class Shared:
    """The part of a block that tiles share, on the device; placed there once where it can be.

    Where there is one device for all, arrays are not bound to it: JAX would compile a program for
    bound ones and another for those that it takes there by itself, which is cheaper.
    """

    def __init__(self, block: Block, plan: Plan) -> None:
        self.block, self.plan = block, plan
        self.is_bound = _must_be_bound(block)  # here: another thread may have another setting
        self.placed: dict[Any, Block] = {}
        self.lock = threading.Lock()

    def on(self, device: jax.Device, tile: Tile) -> Block:
        """The part that a tile shares with others."""
        if self.plan.is_single or self.plan.tile_draws < self.plan.chains * self.plan.draws:
            return self._put(tile, device)
        with self.lock:
            if device not in self.placed:
                self.placed[device] = self._put(tile, device)
            return self.placed[device]

    def _put(self, tile: Tile, device: jax.Device) -> Block:
        shared = shared_block(self.block, tile, self.plan)
        if self.plan.is_single and not self.is_bound:
            return shared
        placed: Block = jax.device_put(shared, device if self.is_bound else None)
        return placed


def _must_be_bound(block: Block) -> bool:
    """Whether arrays are to be bound to a device: there is a choice, or some of them are."""
    if jax.config.jax_default_device is not None or jax.local_device_count() > 1:
        return True
    return any(leaf.committed for leaf in jax.tree.leaves(block) if isinstance(leaf, jax.Array))


def devices_in_use() -> list[Any]:
    """Devices to use: JAX's default device where one was chosen, else all local ones."""
    chosen = jax.config.jax_default_device
    if chosen is not None:
        return [chosen] if not isinstance(chosen, str) else jax.local_devices(backend=chosen)[:1]
    return list(jax.local_devices())


def num_threads(devices: list[Any]) -> int:
    """How many threads feed these devices."""
    if devices[0].platform == "cpu":
        return max(len(devices), min(4, os.cpu_count() or 1) + 1)  # one writes, the others compute
    return THREADS_PER_ACCELERATOR * len(devices)


def _thread_settings() -> Callable[[], AbstractContextManager[Any]]:
    """What the calling thread has set for JAX, to be set in others."""
    x64 = jax.config.jax_enable_x64
    return lambda: jax.enable_x64(x64)
