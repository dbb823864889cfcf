"""Several trainings at once, and a reader that follows their events, with the asynchronous client.

Start a service first (``mild-service serve --embedded``), then: ``python examples/async_client.py [URL]``.
"""

import asyncio
import sys
import time

import numpy as np

from mild_client import AsyncMildClient, RunSpec

N_SAMPLES, N_EPOCHS = 2000, 12


async def train(client: AsyncMildClient, run_id: str, seed: int) -> None:
    """Stand in for a training on labels of which 30% are wrong, and print how good its clean set is."""
    rng = np.random.default_rng(seed)
    clean = rng.random(N_SAMPLES) < 0.7
    learnt = rng.poisson(2, N_SAMPLES)  # the epoch from which on a right label is memorised
    async with client.run(run_id, num_samples=N_SAMPLES) as run:
        for epoch in range(N_EPOCHS):
            # Predicted as labelled? Wrong labels are memorised now and then, and forgotten again.
            correct = np.where(clean, epoch >= learnt, rng.random(N_SAMPLES) < 0.1)
            await run.put_epoch(correct, metrics={"train_accuracy": float(correct.mean())})
        selection = await run.finish()
    kept = np.array(selection["indices"])
    print(f"{run_id}: {selection['verdict']}, kept {kept.size}, of which {np.count_nonzero(clean[kept])} are right")


async def watch(client: AsyncMildClient, run_id: str) -> None:
    """Print a run's epochs as they are committed, until its round is finished."""
    async for event in client.events(run_id):
        if event.kind == "epoch-committed":
            print(f"{run_id}: epoch {event.data['epoch']} is in, {event.data['memorised']:.0%} memorised")
        if event.kind == "round-finished":
            break


async def main() -> None:
    """Train four runs at once, and watch the first."""
    url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
    started = f"{time.time():.0f}"
    async with AsyncMildClient(url) as client, asyncio.TaskGroup() as tasks:
        names = [f"async-{started}-{number}" for number in range(4)]
        await client.open_run(RunSpec(names[0], N_SAMPLES))  # there is something to watch from now on
        tasks.create_task(watch(client, names[0]))
        for seed, run_id in enumerate(names):
            tasks.create_task(train(client, run_id, seed))


if __name__ == "__main__":
    asyncio.run(main())
