"""Threads that feed devices."""

import os
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import jax

__all__ = ["num_threads", "run_in_threads"]


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


def num_threads(devices: list[Any]) -> int:
    """How many threads feed these devices."""
    if devices[0].platform == "cpu":
        return max(len(devices), min(4, os.cpu_count() or 1) + 1)  # one writes, the others compute
    return THREADS_PER_ACCELERATOR * len(devices)


def _thread_settings() -> Callable[[], AbstractContextManager[Any]]:
    """What the calling thread has set for JAX, to be set in others."""
    x64 = jax.config.jax_enable_x64
    return lambda: jax.enable_x64(x64)
