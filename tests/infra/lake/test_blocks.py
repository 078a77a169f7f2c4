"""Content is digested by blocks, whatever their length and however its bytes come."""

import io
import random
from hashlib import sha256

import pytest
from blake3 import blake3

from infra.errors import Corrupt
from infra.lake import blocks
from infra.lake.blocks import Content, block_bytes, digested


class Dripping(io.BytesIO):
    """Gives a few bytes at a time."""

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        return super().readinto(buffer[: random.Random(self.tell()).randint(1, 7)])


@pytest.mark.parametrize("chunk", [1, 8, 16, 24, 64, 1000])
@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 63, 64, 65, 128, 129, 300])
@pytest.mark.parametrize("told", ["right", "less", "more"])
def test_each_block_has_its_own_digest(monkeypatch: pytest.MonkeyPatch, chunk: int, size: int, told: str) -> None:
    monkeypatch.setattr(blocks, "CHUNK_BYTES", chunk)
    monkeypatch.setattr(blocks, "_SMALLEST", 16)
    monkeypatch.setattr(blocks, "_MOST", 4)
    content = random.Random(size).randbytes(size)
    length = block_bytes({"right": size, "less": size // 2, "more": 3 * size}[told])

    for source in (io.BytesIO(content), Dripping(content)):
        found = digested(source, {"right": size, "less": size // 2, "more": 3 * size}[told])

        each = [blake3(content[start : start + length]).digest() for start in range(0, size, length)]
        assert found == Content(sha256(content).hexdigest(), size, b"".join(each) if len(each) > 1 else b"")
        if told == "right":
            for number in range(len(each)):
                found.check(number, memoryview(content)[number * length : (number + 1) * length], "content")


def test_names_the_block_that_differs() -> None:
    content = bytearray(random.Random(0).randbytes(1_000_000))
    found = digested(io.BytesIO(content), len(content))
    content[300_000] ^= 1

    with pytest.raises(Corrupt, match="content: bytes 262144 and after differ"):
        found.check(2, memoryview(content)[2 * 2**17 : 3 * 2**17], "content")


@pytest.mark.parametrize("size", [0, 2**17, 2**25, 2**25 + 1, 2**31, 2**40])
def test_there_are_at_most_256_blocks(size: int) -> None:
    assert -(-size // block_bytes(size)) <= 256
