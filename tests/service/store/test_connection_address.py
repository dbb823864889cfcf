import asyncio
import secrets
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from redis import Redis

from mild_service.config import Settings
from mild_service.errors import ConfigurationError, StoreUnavailable
from mild_service.store import Store
from mild_service.store.connection import Address, parse_url
from mild_service.store.embedded import EmbeddedServer

HOSTS = (("a", 6379), ("b", 7000))


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://localhost", Address((("localhost", 6379),))),
        ("redis://localhost:7000/3", Address((("localhost", 7000),), db=3)),
        ("redis://[::1]", Address((("::1", 6379),))),
        ("redis://[::1]:7000", Address((("::1", 7000),))),
        ("redis://:p%40s@h/1", Address((("h", 6379),), db=1, password="p@s")),
        ("rediss://me:secret@h:1", Address((("h", 1),), uses_tls=True, username="me", password="secret")),
        ("unix:///run/redis.sock", Address(socket="/run/redis.sock")),
        ("unix://me:secret@/a%20b?db=2", Address(socket="/a b", db=2, username="me", password="secret")),
        ("redis+cluster://a,b:7000", Address(HOSTS, is_cluster=True)),
        ("redis+cluster://me:x@a,b:7000/0", Address(HOSTS, is_cluster=True, username="me", password="x")),
        (
            "rediss+cluster://a,b:7000?ssl_check_hostname=no",
            Address(HOSTS, is_cluster=True, uses_tls=True, tls_options={"ssl_check_hostname": False}),
        ),
    ],
)
def test_one_address_names_a_server_a_socket_or_a_cluster(url: str, address: Address) -> None:
    assert parse_url(url) == address


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("http://localhost", "its scheme is none of redis, rediss, unix"),
        ("localhost:6379", "its scheme"),
        ("redis://", "names no host"),
        ("redis://user:hunter2", "is there an @ missing"),
        ("redis://:hunter2", "names no host"),
        ("redis://user:hun#ter2@h", "percent-encode"),
        ("redis://user:hun/ter2@h", "percent-encode"),
        ("redis://user:hun?ter2@h", "percent-encode"),
        ("redis://hunter2@h", "user has no password"),
        ("redis://u:hunter2@h:port", "no port from 1 to 65535"),
        ("redis://u:hunter2@h:70000", "no port from 1 to 65535"),
        ("redis://u:hunter2@[h", "brackets"),
        ("redis://u:hunter2@h/x", "database is not a number"),
        ("redis://u:hunter2@a,b", r"take redis\+cluster://"),
        ("redis://u:hunter2@h?password=hunter2", "'password' is not known; redis:// takes db, ssl_ca_certs"),
        ("redis://u:hunter2@h?ssl_ca_certs=/", "'ssl_ca_certs' needs TLS, which is rediss://"),
        ("rediss://u:hunter2@h?ssl_ca_certs=/nowhere.pem", "names no file, got '/nowhere.pem'"),
        ("rediss://u:hunter2@h?ssl_check_hostname=maybe", "neither true nor false"),
        (f"rediss://u:hunter2@h?ssl_certfile={__file__}", "needs both"),
        ("redis+cluster://u:hunter2@a,,b", "an empty one between commas"),
        ("redis+cluster://u:hunter2@a/2", "no database but 0, got 2"),
        ("unix://u:hunter2@", "a path behind three slashes"),
        ("unix://run/redis.sock", "a path behind three slashes"),
    ],
)
def test_what_is_wrong_with_an_address_is_named_and_its_password_never(url: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint) as caught:
        parse_url(url)
    assert "hunter2" not in str(caught.value)
    assert "MILD_STORE_URL" in str(caught.value)


def test_settings_do_not_show_the_address() -> None:
    assert "hunter2" not in repr(Settings(store_url="redis://u:hunter2@h"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tmp_path_factory.mktemp("server")) as server:
        yield server


async def answers(url: str) -> None:
    store: Store = Store(Settings(), url)
    try:
        await store.ping()
    finally:
        await store.aclose()


@pytest.mark.anyio
async def test_an_acl_user_gets_in_with_a_password_of_special_characters(server: EmbeddedServer) -> None:
    name, socket = f"user-{secrets.token_hex(4)}", server.url.removeprefix("unix://")
    with Redis.from_url(server.url) as redis:
        redis.acl_setuser(name, enabled=True, passwords=["+p@s/s#:w"], keys=["*"], categories=["+@all"])
    await answers(f"unix://{name}:p%40s%2Fs%23%3Aw@{socket}")
    with pytest.raises(StoreUnavailable):
        await answers(f"unix://{name}:wrong@{socket}")


def signed(folder: Path, name: str, subject: str) -> None:
    """A certificate for `subject` by the folder's authority, which is made where it is missing."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    if not (folder / "ca.pem").exists():
        openssl(*new, "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem")
    by = ("-CA", "ca.pem", "-CAkey", "ca.key", "-addext", f"subjectAltName=DNS:{subject}")
    openssl(*new, *by, "-subj", f"/CN={subject}", "-keyout", f"{name}.key", "-out", f"{name}.pem")


@asynccontextmanager
async def behind_tls(socket: str, folder: Path) -> AsyncIterator[int]:
    """A port that takes TLS from clients with a certificate, and passes on to a socket."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_unix_connection(socket)
        await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(folder / "ca.pem"))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    listener = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with listener:
        yield listener.sockets[0].getsockname()[1]


@pytest.mark.anyio
async def test_tls_checks_who_is_at_either_end(server: EmbeddedServer, tmp_path: Path) -> None:
    signed(tmp_path, "server", "localhost")
    signed(tmp_path, "client", "mild")
    trusted = f"ssl_ca_certs={tmp_path}/ca.pem"
    mine = f"ssl_certfile={tmp_path}/client.pem&ssl_keyfile={tmp_path}/client.key"
    async with behind_tls(server.url.removeprefix("unix://"), tmp_path) as port:
        await answers(f"rediss://localhost:{port}?{trusted}&{mine}")
        await answers(f"rediss://127.0.0.1:{port}?{trusted}&{mine}&ssl_check_hostname=false")
        for refused in (
            f"127.0.0.1:{port}?{trusted}&{mine}",  # not the name in the certificate
            f"localhost:{port}?{mine}",  # signed by nobody that is known
            f"localhost:{port}?{trusted}",  # no certificate of the client's
        ):
            with pytest.raises(StoreUnavailable):
                await answers(f"rediss://{refused}")
