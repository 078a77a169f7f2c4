"""The service against the world: a real Bento in its own process, over raw sockets, among callers that mean no good.

Whatever they do, others are answered meanwhile and afterwards, and memory and descriptors are given back.
"""

import asyncio
import gzip
import json
import os
import random
import re
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pyarrow as pa
import pytest

from infra import bentos
from infra.serving_process import ServiceProcess
from infra.settings import Settings
from models.bundle import Bundle
from models.contract import arrow
from tests.services.conftest import ROW, promote_bundle

WITHIN_S = 30.0
MIB = 1 << 20
PREDICT = json.dumps({"rows": [ROW]}).encode()
FEEDBACK = b'{"labels":[{"id":"a","value":12.5,"at":"2020-03-01T10:00:00+01:00"},{"id":"b","value":-1}]}'
TENSORS: dict[str, tuple[str, list[Any]]] = {
    "starts_at": ("BYTES", ["2020-03-01T08:15:00"]),
    "distance": ("FP32", [3.0]),
    "weight": ("FP32", [1.5]),
    "kind": ("BYTES", ["car"]),
    "zone": ("INT64", [2]),
}
INFER = json.dumps(
    {"inputs": [{"name": n, "shape": [1], "datatype": k, "data": v} for n, (k, v) in TENSORS.items()]}
).encode()


class Served:
    """The service: where it answers, and the worker that does."""

    def __init__(self, process: ServiceProcess) -> None:
        self.url = process.url
        self.port = httpx.URL(process.url).port or 0
        workers = psutil.Process(process.pid).children(recursive=True)
        self.worker = max(workers, key=lambda one: one.memory_info().rss)

    @property
    def resident_bytes(self) -> int:
        """Memory that the worker holds."""
        return int(self.worker.memory_info().rss)


@pytest.fixture(scope="module")
def served(make_bundle: Callable[..., Bundle], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A served Bento of `v1`, the same one for all attacks."""
    settings = Settings(home=tmp_path_factory.mktemp("world") / ".okruh", model="tiny")
    promote_bundle(settings, make_bundle())
    with ServiceProcess.start(settings, bentos.build(settings, "tiny").tag) as process:
        served = Served(process)
        asyncio.run(fuzz(served, 500, seed=0))  # it opens its files and threads when they are needed
        yield served


class Line:
    """One raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, port: int, sent: bytes = b"") -> "Line":
        line = cls(*await asyncio.open_connection("127.0.0.1", port))
        line.writer.write(sent)
        return line

    async def ask(self, path: str, body: bytes, *headers: str) -> tuple[int, bytes]:
        """Send a request; give status and body of its answer."""
        head = "".join(f"{line}\r\n" for line in (f"POST {path} HTTP/1.1", "host: a", *headers))
        self.writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        answer = (await self.reader.readuntil(b"\r\n\r\n")).lower()
        length = re.search(rb"content-length: (\d+)", answer)
        if length is not None:
            return int(answer[9:12]), await self.reader.readexactly(int(length[1]))
        assert b"transfer-encoding: chunked" in answer
        content = b""
        while size := int(await self.reader.readline(), 16):
            content += (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readexactly(2)
        return int(answer[9:12]), content

    async def rest(self) -> bytes:
        """Give all that comes until the other side closes, or breaks off."""
        content = b""
        try:
            while piece := await self.reader.read(1 << 16):
                content += piece
        except (ConnectionResetError, BrokenPipeError):
            pass
        return content

    async def close(self) -> None:
        self.writer.transport.abort()
        await asyncio.sleep(0)


@asynccontextmanager
async def opened(port: int) -> AsyncIterator[Line]:
    """Open a connection for a while."""
    line = await Line.open(port)
    try:
        yield line
    finally:
        await line.close()


async def well_asked(port: int) -> None:
    """Ask as one should, on a connection of one's own, and be answered."""
    async with asyncio.timeout(WITHIN_S), opened(port) as line:
        status, body = await line.ask("/v1/predict", PREDICT)
    assert (status, json.loads(body)["predictions"][0]["value"]) == (200, 16.0)


def endures(served: Served, attack: Coroutine[Any, Any, None]) -> None:
    """Attack; others are answered meanwhile and afterwards, and all descriptors come back."""

    async def both() -> None:
        before = served.worker.num_fds()
        for _ in range(5):  # a connection of before may not be closed yet
            await well_asked(served.port)
            before = min(before, served.worker.num_fds())
        attacking = asyncio.create_task(attack)
        while not attacking.done():
            await well_asked(served.port)
        await attacking
        async with asyncio.timeout(WITHIN_S):
            while served.worker.num_fds() > before:
                await well_asked(served.port)

    asyncio.run(both())


async def held(port: int, count: int, sent: bytes) -> list[Line]:
    """Open connections that send so much and no more, and be answered among them."""
    lines = [await Line.open(port, sent) for _ in range(count)]
    for _ in range(20):
        await well_asked(port)
    return lines


HELD = {
    "says nothing": b"",
    "head without end": b"POST /v1/predict HTTP/1.1\r\nhost: a\r\nx-slow: ",
    "body without end": b"POST /v1/predict HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n{",
    "body for BentoML without end": b"POST /predict HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n{",
    "answer that is not read": b"GET / HTTP/1.1\r\nhost: a\r\n\r\n" * 100,
}


@pytest.mark.parametrize("sent", HELD.values(), ids=HELD)
def test_answers_beside_connections_that_are_held(served: Served, sent: bytes) -> None:
    async def attack() -> None:
        for line in await held(served.port, 100, sent):
            await line.close()

    endures(served, attack())


def test_answers_beside_a_thousand_idle_connections(served: Served) -> None:
    async def attack() -> None:
        for line in await held(served.port, 1000, b""):
            await line.close()

    endures(served, attack())


def test_a_burst_after_all_connections_were_let_go_loses_none(served: Served) -> None:
    """The service closes what asks nothing, some ten seconds after the last answer."""

    async def burst() -> None:
        lines = await asyncio.gather(*(Line.open(served.port) for _ in range(256)))
        answers = await asyncio.gather(*(line.ask("/v1/predict", PREDICT) for line in lines))
        assert [status for status, _ in answers] == [200] * 256
        assert {json.loads(body)["predictions"][0]["value"] for _, body in answers} == {16.0}
        assert await asyncio.gather(*(line.rest() for line in lines)) == [b""] * 256
        for line in lines:
            await line.close()

    async def both() -> None:
        async with asyncio.timeout(2 * WITHIN_S):
            await burst()
            await burst()

    asyncio.run(both())


@pytest.mark.proof
def test_lets_go_of_all_that_is_held(served: Served) -> None:
    """Nobody but the service closes these: it takes as long as its longest bound, a minute."""

    async def attack() -> None:
        lines = [line for sent in HELD.values() for line in await held(served.port, 400, sent)]
        unread = lines[-400:]
        answers = [(await line.rest())[9:12] for line in lines[:-400]]
        assert set(answers[:800]) == {b"408"}
        assert set(answers[800:]) == {b"504"}
        for line in unread:
            await line.rest()
        for line in lines:
            await line.close()

    endures(served, attack())


def test_an_endless_head_is_cut_off_and_takes_no_memory(served: Served) -> None:
    before = served.resident_bytes

    async def endless() -> None:
        line = await Line.open(served.port, b"GET / HTTP/1.1\r\nx-endless: ")
        try:
            for _ in range(64):
                line.writer.write(b"a" * MIB)
                await line.writer.drain()
        except (ConnectionResetError, BrokenPipeError):
            return
        finally:
            await line.close()
        raise AssertionError("64 MiB of a head were taken")

    async def attack() -> None:
        await asyncio.gather(*(endless() for _ in range(20)))

    endures(served, attack())
    assert served.resident_bytes < before + 32 * MIB


def test_half_closed_and_broken_connections_hold_nothing(served: Served) -> None:
    whole = b"POST /v1/predict HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n%s" % (len(PREDICT), PREDICT)

    async def attack() -> None:
        for sent in (b"", whole[:30], whole[:-1], whole):
            lines = [await Line.open(served.port, sent) for _ in range(100)]
            for line in lines[:50]:
                line.writer.write_eof()
            for line in lines[50:]:
                reset = struct.pack("ii", 1, 0)  # close sends a reset
                line.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
                await line.close()
            for line in lines[:50]:
                assert (await line.rest())[:12] in (b"", b"HTTP/1.1 200")
                await line.close()

    endures(served, attack())


@pytest.mark.parametrize("path", ["/v1/predict", "/v1/feedback", "/v2/models/tiny/infer", "/predict"])
def test_a_gzip_bomb_is_refused_unopened(served: Served, path: str) -> None:
    bomb, before = gzip.compress(bytes(128 * MIB), compresslevel=1), served.resident_bytes

    async def attack() -> None:
        for _ in range(5):
            async with opened(served.port) as line:
                status, _ = await line.ask(path, bomb, "content-encoding: gzip", "content-type: application/json")
            assert status == 415

    endures(served, attack())
    assert served.resident_bytes < before + 32 * MIB


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(100),
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET \xff\xfe HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: " + b"9" * 5000 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        b"GET / HTTP/1.1\r\n: nameless\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n",
        bytes(10_000),
    ],
)
def test_what_is_no_http_is_refused(served: Served, sent: bytes) -> None:
    async def attack() -> None:
        line = await Line.open(served.port, sent)
        assert (await line.rest())[9:12] in (b"400", b"404", b"405")
        await line.close()

    endures(served, attack())


def test_a_length_that_no_integer_has_is_refused(served: Served) -> None:
    async def attack() -> None:
        async with opened(served.port) as line:
            status, _ = await line.ask("/v2/models/tiny/infer", INFER, f"inference-header-content-length: {'9' * 5000}")
        assert status == 422

    endures(served, attack())


CHECKS = """
[checks.negative_data_rejection]
expected-statuses = [400, 404, 405, 409, 413, 415, 422, 504]
[checks.not_a_server_error]
expected-statuses = ["2xx", "4xx", 504]
"""


def document_holds(served: Served, folder: Path, examples: int) -> int:
    """Have schemathesis try the service against its own document; give the number of cases.

    What it may not judge is whether all is accepted that the schema allows: no schema can say that tensors are equally
    long, or that a label's moment is not in the future. It must be told that 413 is a refusal, and that a
    deadline which it sets itself is kept with 504.
    """
    (folder / "schemathesis.toml").write_text(CHECKS)
    phases = ["--phases", "examples,coverage,fuzzing", "--exclude-checks", "positive_data_acceptance"]
    bounds = ["--max-examples", str(examples), "--seed", "1", "--generation-database", "none", "--no-color"]
    done = subprocess.run(
        [sys.executable, "-m", "schemathesis.cli", "run", f"{served.url}/docs.json", *phases, *bounds],
        cwd=folder,
        env={**os.environ, "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    cases = re.search(r"(\d+) generated, \d+ passed", done.stdout)
    assert cases is not None, done.stdout
    return int(cases[1])


def test_the_service_is_what_its_document_says(served: Served, tmp_path: Path) -> None:
    assert document_holds(served, tmp_path, examples=30) > 300


@pytest.mark.proof
def test_the_service_is_what_its_document_says_in_5000_cases(served: Served, tmp_path: Path) -> None:
    assert document_holds(served, tmp_path, examples=1600) >= 5000


def binary_request() -> tuple[bytes, int]:
    """Give a request of the protocol with binary tensors, and the length of its JSON."""
    parts = [
        b"".join(struct.pack("<I", len(text)) + text.encode() for text in values)
        if kind == "BYTES"
        else np.asarray(values, "<f4" if kind == "FP32" else "<i8").tobytes()
        for kind, values in TENSORS.values()
    ]
    inputs = [
        {"name": name, "shape": [1], "datatype": kind, "parameters": {"binary_data_size": len(part)}}
        for (name, (kind, _)), part in zip(TENSORS.items(), parts, strict=True)
    ]
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    return head + b"".join(parts), len(head)


def arrow_request() -> bytes:
    """Give the row as an Arrow stream."""
    row = {**ROW, "starts_at": datetime.fromisoformat(str(ROW["starts_at"])), "weight": 1.5}
    table = pa.Table.from_pylist([row])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


ARROW = arrow_request()
LINES = b"\n".join([json.dumps(ROW).encode()] * 3)
BINARY, BINARY_HEAD = binary_request()
ODD = [
    b"null", b"true", b"NaN", b"-0", b"1e999", b"1e-999", b"9223372036854775808", b"-9223372036854775809", b"[", b"]",
    b"{", b"}", b'"', b",", b":", b"\\u0000", b"\\ud800", b"\xff", b"\xed\xa0\x80", b"\x00", b"[" * 5000,
    b'{"a":' * 3000, b"0001-01-01T00:00:00", b"9999-12-31T23:59:60", b"+23:59", b'"' + b"a" * 300 + b'"', b"9" * 5000,
]  # fmt: skip


def spoilt(chance: random.Random, body: bytes) -> bytes:
    """Change a body at one to four places."""
    for _ in range(chance.randint(1, 4)):
        start = chance.randrange(len(body) + 1)
        end = min(len(body), start + chance.choice((0, 1, 1, 4, 20)))
        piece = chance.choice((b"", bytes([chance.randrange(256)]), chance.choice(ODD), body[start:end] * 2))
        body = body[:start] + piece + body[end:]
    return body


async def fuzz(served: Served, count: int, seed: int) -> None:
    """Send spoilt bodies by eight connections; each is answered, in JSON or binary, and never by a failure of ours."""
    left = iter(range(count))

    async def send(chance: random.Random) -> None:
        async with opened(served.port) as line:
            for _ in left:
                path, body, headers = chance.choice(
                    (
                        ("/v1/predict", PREDICT, ()),
                        ("/v1/predict", ARROW, (f"content-type: {arrow.MEDIA_TYPE}",)),
                        ("/v1/predict", LINES, ("content-type: application/x-ndjson",)),
                        ("/v1/feedback", FEEDBACK, ()),
                        ("/v2/models/tiny/infer", INFER, ()),
                        ("/v2/models/tiny/infer", BINARY, (f"inference-header-content-length: {BINARY_HEAD}",)),
                    )
                )
                sent = spoilt(chance, body)
                status, answer = await line.ask(path, sent, *headers)
                assert status < 500, (path, sent, answer)
                if status != 200:
                    assert json.loads(answer)["error"], (path, sent)

    await asyncio.gather(*(send(random.Random(f"{seed} {place}")) for place in range(8)))


def test_spoilt_bodies_are_refused(served: Served) -> None:
    endures(served, fuzz(served, 3000, seed=1))


@pytest.mark.proof
def test_100000_spoilt_bodies_take_no_memory(served: Served) -> None:
    endures(served, fuzz(served, 20_000, seed=2))
    warm = served.resident_bytes

    endures(served, fuzz(served, 100_000, seed=3))

    assert served.resident_bytes <= 1.02 * warm
