"""The least that a service for epochs could do: a FastAPI handler that writes a body to Redis, and checks nothing.

usage: python -m benchmarks.bare STORE_URL
"""

import socket
import sys

import uvicorn
from fastapi import FastAPI, Request
from redis.asyncio import Redis


def create_app(store_url: str) -> FastAPI:
    """One route, one command to the store."""
    app, redis = FastAPI(), Redis.from_url(store_url)

    @app.put("/runs/{run_id}/rounds/{round_}/epochs/{epoch}", status_code=201)
    async def put_epoch(run_id: str, round_: int, epoch: int, request: Request) -> dict[str, str]:
        await redis.hset(f"bare:{run_id}:{round_}", str(epoch), await request.body())
        return {"outcome": "committed"}

    return app


def main() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(f"listening on http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        config = uvicorn.Config(
            create_app(sys.argv[1]),
            log_level="warning",
            access_log=False,
            timeout_keep_alive=600,  # connections stay open during the other side's turn
        )
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
