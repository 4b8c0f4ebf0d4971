"""CPU per permit: uncontended, and with thousands of waiters, against futures that are only created and set."""

from __future__ import annotations

import asyncio
import statistics
import time

from tronsave_async import Lane, RateLimit, RateLimiter, Scope

SCOPE = Scope("bench", "account", "call")
ROUNDS = 15


async def uncontended(count: int = 10_000) -> float:
    """Return microseconds of CPU for one permit taken and spent."""
    limiter = RateLimiter()
    limiter.declare(SCOPE, RateLimit(10_000_000, per=1.0, margin=0.0))
    started = time.process_time()
    for _ in range(count):
        with await limiter.acquire(SCOPE) as permit:
            permit.spend()
    return (time.process_time() - started) / count * 1e6


async def contended(count: int) -> float:
    """Return microseconds of CPU for one permit when ``count`` tasks wait in three lanes."""
    limiter = RateLimiter()
    limiter.declare(SCOPE, RateLimit(count // 20, per=0.01, margin=0.0))

    async def take(lane: Lane) -> None:
        with await limiter.acquire(SCOPE, lane=lane) as permit:
            permit.spend()

    started = time.process_time()
    await asyncio.gather(*[take(Lane(index % 3)) for index in range(count)])
    return (time.process_time() - started) / count * 1e6


async def bare(count: int) -> float:
    """Return microseconds of CPU for one task that waits for one future: the floor of any queue."""
    loop = asyncio.get_running_loop()
    futures: list[asyncio.Future[None]] = []

    async def take() -> None:
        future: asyncio.Future[None] = loop.create_future()
        futures.append(future)
        await future

    started = time.process_time()
    tasks = [asyncio.create_task(take()) for _ in range(count)]
    await asyncio.sleep(0)
    for future in futures:
        future.set_result(None)
    await asyncio.gather(*tasks)
    return (time.process_time() - started) / count * 1e6


def median(values: list[float]) -> str:
    """Return the median with its quartiles."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:7.2f} us  (quartiles {low:.2f} .. {high:.2f})"


async def main() -> None:
    """Interleave the arms and print them."""
    print(f"{'arm':<34} CPU per permit")
    alone = [await uncontended() for _ in range(ROUNDS)]
    print(f"{'uncontended':<34} {median(alone)}")
    for count in (1_000, 10_000):
        ours, floor = [], []
        for _ in range(ROUNDS):
            ours.append(await contended(count))
            floor.append(await bare(count))
        ratio = statistics.median(ours) / statistics.median(floor)
        print(f"{f'{count} waiters in three lanes':<34} {median(ours)}")
        print(f"{f'{count} bare futures':<34} {median(floor)}   ratio {ratio:.2f}")


if __name__ == "__main__":
    asyncio.run(main())
