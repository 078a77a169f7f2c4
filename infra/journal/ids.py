"""Ids of predictions: UUIDs of version 7 that prove by themselves that they were given out, and when.

An id holds the moment, who gave it out (a slot: one of the processes that write a journal at a time), a counter, and
40 bits that only the journal's key makes of these. So no index of all ids is kept: a label's id is known where its
proof is right. The proof is a checksum, not a signature: it keeps mistaken and foreign ids out, and whoever forges one
gets a label kept that belongs to no prediction.

    48 bits milliseconds since 1970 | 4 version | 12 slot | 2 variant | 22 counter | 40 proof

Cost: some 20 microseconds for a batch, and a tenth of one for each id.
"""

import os
import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from models.contract.arrow import text
from models.contract.clock import EPOCH

KEY_BYTES = 16
SLOTS = 1 << 12
LENGTH = 36
"""Characters of an id."""

_COUNTERS = 1 << 22
_PROOF_BITS = 40
_WORD = (1 << 64) - 1
_FORM = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_HEX = np.frombuffer("".join(f"{byte:02x}" for byte in range(256)).encode(), np.uint16)
"""Two digits a byte."""

_SHOWN = np.dtype([("high", "V19"), ("first", "V4"), ("dash", "V1"), ("rest", "V12")])
_HALVES = np.dtype([("first", "V4"), ("rest", "V12")])

Words = npt.NDArray[np.uint64]


class Mint:
    """Gives out ids for one process. Not thread-safe."""

    def __init__(self, key: bytes, slot: int) -> None:
        self._key = key
        self._slot = slot
        self._counter = int.from_bytes(os.urandom(3)) % _COUNTERS
        self._last_ms = 0

    def mint(self, count: int) -> tuple[bytes, int]:
        """Make ids, one behind the other, and say of which moment they are: milliseconds since 1970."""
        self._last_ms = max(self._last_ms, time.time_ns() // 1_000_000)  # ids do not go back where a clock does
        high = self._last_ms << 16 | 7 << 12 | self._slot
        counters = np.arange(self._counter, self._counter + count, dtype=np.uint64) & np.uint64(_COUNTERS - 1)
        self._counter = (self._counter + count) % _COUNTERS
        low = np.uint64(0b10 << 62) | counters << np.uint64(_PROOF_BITS) | _proofs(self._key, high, counters)
        return _written(high, low), self._last_ms


def given_out_at(key: bytes, name: str) -> datetime | None:
    """Give the moment at which the key's journal gave an id out; None where it did not."""
    if not _FORM.fullmatch(name):
        return None
    digits = int(name.replace("-", ""), 16)
    high, low = digits >> 64, digits & _WORD
    counters = np.array([low >> _PROOF_BITS & _COUNTERS - 1], dtype=np.uint64)
    if int(_proofs(key, high, counters)[0]) != low & (1 << _PROOF_BITS) - 1:
        return None
    return moment(high >> 16)


def moment(milliseconds: int) -> datetime:
    """Give the moment so many milliseconds after 1970."""
    return (EPOCH + timedelta(milliseconds=milliseconds)).astimezone(UTC)


class Ids:
    """The ids of a batch: minted ones, of which callers have given some themselves."""

    def __init__(self, minted: bytes, given: dict[int, str] | None = None) -> None:
        self._minted = minted
        self.given = given or {}
        """By place."""

    def __len__(self) -> int:
        return len(self._minted) // LENGTH

    def texts(self, start: int = 0, stop: int | None = None) -> list[str]:
        """Give the ids from one place to another."""
        stop = len(self) if stop is None else stop
        minted = self._minted[start * LENGTH : stop * LENGTH].decode()
        ids = [minted[at : at + LENGTH] for at in range(0, len(minted), LENGTH)]
        for place, name in self.given.items():
            if start <= place < stop:
                ids[place - start] = name
        return ids

    def take(self, places: npt.NDArray[np.intp]) -> "Ids":
        """Give the ids at some places, in their order."""
        minted = np.frombuffer(self._minted, f"V{LENGTH}")[places].tobytes()
        given = {at: self.given[place] for at, place in enumerate(places.tolist()) if place in self.given}
        return Ids(minted, given)

    def arrow(self) -> pa.Array:
        """Give them as Arrow."""
        if self.given:
            return text(self.texts())
        ends = np.arange(0, len(self._minted) + 1, LENGTH, dtype=np.int32)
        return pa.StringArray.from_buffers(len(self), pa.py_buffer(ends), pa.py_buffer(self._minted))


def put_together(some: Sequence[Ids]) -> Ids:
    """Put the ids of several batches one behind the other."""
    if len(some) == 1:
        return some[0]
    given, start = dict[int, str](), 0
    for one in some:
        if one.given:
            given |= {start + place: name for place, name in one.given.items()}
        start += len(one)
    return Ids(b"".join(one._minted for one in some), given)


def _proofs(key: bytes, high: int, counters: Words) -> Words:
    """Mix the key, twice, by the finaliser of SplitMix64 (Steele, Lea, Flood: Fast splittable generators, 2014)."""
    first, second = int.from_bytes(key[:8]), int.from_bytes(key[8:])
    mixed = _finalised(counters * np.uint64(0x9E3779B97F4A7C15) + np.uint64((high ^ first) & _WORD))
    return _finalised(mixed ^ np.uint64(second)) >> np.uint64(64 - _PROOF_BITS)


def _finalised(words: Words) -> Words:
    words = (words ^ words >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ words >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return words ^ words >> np.uint64(31)


def _written(high: int, low: Words) -> bytes:
    digits = f"{high:016x}"
    shown = np.empty(len(low), _SHOWN)
    shown["high"] = np.void(f"{digits[:8]}-{digits[8:12]}-{digits[12:]}-".encode())
    halves = _HEX.take(low.astype(">u8").view(np.uint8)).view(_HALVES)
    shown["first"], shown["dash"], shown["rest"] = halves["first"], np.void(b"-"), halves["rest"]
    return shown.tobytes()
