"""The pool of work: a place is free again whatever becomes of a piece, and nothing is kept of it."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref

from forkpoint.serving.work import WorkPool


def test_a_thread_that_cannot_start_costs_its_own_piece_alone(monkeypatch):
    start, asked = threading.Thread.start, []

    def refused_once(thread):
        if thread.name == "forkpoint-serve":
            asked.append(thread)
            if len(asked) == 2:
                raise RuntimeError("can't start new thread")
        start(thread)

    async def three():
        pool = WorkPool(1, 5)
        pieces = [pool.start(lambda _, i=i: i) for i in range(3)]
        results = await asyncio.wait_for(asyncio.gather(*(p.result for p in pieces), return_exceptions=True), 20)
        return results, pool.counts()

    monkeypatch.setattr(threading.Thread, "start", refused_once)
    (first, second, third), counts = asyncio.run(three())
    assert (first, third) == (0, 2)
    assert isinstance(second, RuntimeError)
    assert counts == {"running": 0, "waiting": 0}


def test_failed_work_is_let_go_of():
    class Tensor:
        """What a failed strategy held."""

    held = []

    def work(_):
        tensor = Tensor()
        held.append(weakref.ref(tensor))
        raise ValueError("broken")

    async def fail():
        (error,) = await asyncio.gather(WorkPool(1, 1).start(work).result, return_exceptions=True)
        assert isinstance(error, ValueError)

    gc.disable()
    try:
        asyncio.run(fail())
        threads = [t for t in threading.enumerate() if t.name == "forkpoint-serve"]
        for thread in threads:
            thread.join(20)
        assert held[0]() is None
    finally:
        gc.enable()
