"""Traffic against a service: in the order of events, labels after answers, every outcome counted."""

import asyncio
import gc
import json
import socket
import threading
import warnings
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any

import pytest
import uvicorn

from infra.errors import Unavailable
from infra.traffic import CONNECTIONS, Event, Traffic, traffic_to

Answer = tuple[int, object]
ANSWERED: Answer = (200, {"version": "v1"})
REFUSED: Answer = (
    422,
    {"error": {"violations": [{"field": "distance", "rule": "at most 100 km, got 250"}]}},
)


class Service:
    """A service that notes what reaches it, and answers as a test says."""

    def __init__(self) -> None:
        self.url = ""
        self.seen: list[tuple[str, int]] = []
        """What arrived, and what was answered, in order."""
        self.answer: Callable[[str, int], Awaitable[Answer]] = self._always

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        path, item = scope["path"], json.loads(body)
        self.seen.append((path, item))
        status, content = await self.answer(path, item)
        self.seen.append(("answered", item))
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(content).encode()})

    def items(self, path: str) -> list[int]:
        """The items that arrived at a path."""
        return [item for where, item in self.seen if where == path]

    async def _always(self, path: str, item: int) -> Answer:
        return ANSWERED


@pytest.fixture
def service() -> Iterator[Service]:
    """Serve on a loopback port, which takes connections from the start."""
    service = Service()
    server = uvicorn.Server(uvicorn.Config(service, lifespan="off", ws="none", log_config=None, access_log=False))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(CONNECTIONS)
        service.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield service
        server.should_exit = True
        thread.join()


@pytest.fixture
def traffic(service: Service) -> Iterator[Traffic]:
    with traffic_to(service.url) as traffic:
        yield traffic


def prediction(item: int) -> Event:
    return Event(at_s=float(item), item=item, is_label=False, body=str(item).encode())


def label(item: int) -> Event:
    return Event(at_s=float(item), item=item, is_label=True, body=str(item).encode())


def test_starts_requests_in_the_order_of_events(service: Service, traffic: Traffic) -> None:
    wave = asyncio.Barrier(CONNECTIONS)

    async def all_at_once(path: str, item: int) -> Answer:
        async with asyncio.timeout(5.0):
            await wave.wait()  # as many as there are connections are under way, and no more
        return ANSWERED

    service.answer = all_at_once

    traffic.play(prediction(item) for item in range(3 * CONNECTIONS))

    arrived = service.items("/v1/predict")
    for first in range(0, 3 * CONNECTIONS, CONNECTIONS):
        assert sorted(arrived[first : first + CONNECTIONS]) == list(range(first, first + CONNECTIONS))
    assert (traffic.counts.sent, traffic.counts.failed) == (3 * CONNECTIONS, 0)


def test_a_label_waits_for_the_answer_to_its_prediction_and_holds_up_nothing_else(
    service: Service, traffic: Traffic
) -> None:
    another_came = asyncio.Event()

    async def hold_the_first(path: str, item: int) -> Answer:
        if item == 1:
            another_came.set()
        await another_came.wait()
        return ANSWERED

    service.answer = hold_the_first

    traffic.play([prediction(0), label(0), prediction(1)])

    assert service.seen.index(("/v1/predict", 1)) < service.seen.index(("answered", 0))
    assert service.seen.index(("answered", 0)) < service.seen.index(("/v1/feedback", 0))
    assert (traffic.counts.sent, traffic.counts.labels_sent, traffic.counts.labels_failed) == (2, 1, 0)


def test_a_label_may_come_in_a_later_play(service: Service, traffic: Traffic) -> None:
    traffic.play([prediction(0)])
    traffic.play([label(0)])

    assert service.items("/v1/feedback") == [0]


def test_counts_what_the_contract_refuses_by_field_and_rule_and_sends_no_label_for_it(
    service: Service, traffic: Traffic
) -> None:
    async def refuse_odd_ones(path: str, item: int) -> Answer:
        return REFUSED if item % 2 else ANSWERED

    service.answer = refuse_odd_ones

    traffic.play([*map(prediction, range(4)), *map(label, range(4))])

    assert (traffic.counts.sent, traffic.counts.refused, traffic.counts.failed) == (4, 2, 0)
    assert traffic.counts.refusals == {"distance: at most 100 km": 2}
    assert sorted(service.items("/v1/feedback")) == [0, 2]
    assert traffic.counts.labels_sent == 2


def test_counts_what_the_service_fails_to_answer_with_an_example(service: Service, traffic: Traffic) -> None:
    async def break_down(path: str, item: int) -> Answer:
        return 500, {"error": "out of memory"}

    service.answer = break_down

    traffic.play([*map(prediction, range(20)), label(3)])

    assert (traffic.counts.sent, traffic.counts.refused, traffic.counts.failed) == (20, 0, 20)
    assert len(traffic.counts.failures) == 5
    assert all(": 500 " in failure and "out of memory" in failure for failure in traffic.counts.failures)
    assert service.items("/v1/feedback") == []


def test_counts_a_label_that_the_service_fails_to_take(service: Service, traffic: Traffic) -> None:
    async def take_no_labels(path: str, item: int) -> Answer:
        return (503, {}) if path == "/v1/feedback" else ANSWERED

    service.answer = take_no_labels

    traffic.play([prediction(0), label(0)])

    assert (traffic.counts.labels_sent, traffic.counts.labels_failed, traffic.counts.failed) == (1, 1, 0)
    assert traffic.counts.failures == ["label 0: 503 b'{}'"]


def test_counts_a_refused_connection_as_a_failure() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # taken, and nobody listens
        with traffic_to(f"http://127.0.0.1:{silent.getsockname()[1]}") as traffic:
            traffic.play([prediction(0), label(0)])

    assert (traffic.counts.sent, traffic.counts.failed, traffic.counts.labels_sent) == (1, 1, 0)
    assert traffic.counts.failures[0].startswith("prediction 0: 0 ")
    assert "ConnectorError" in traffic.counts.failures[0]


def test_repeats_predictions_until_the_first_answer_of_a_version(service: Service, traffic: Traffic) -> None:
    traffic.play(map(prediction, range(3)))
    service.seen.clear()

    async def swap_at_the_fifth(path: str, item: int) -> Answer:
        return 200, {"version": "v2" if len(service.items(path)) >= 5 else "v1"}

    service.answer = swap_at_the_fifth

    traffic.until_answered_by("v2")

    repeated = service.items("/v1/predict")
    assert (len(repeated), set(repeated)) == (5, {0, 1, 2})
    assert (traffic.counts.during_swaps, traffic.counts.sent, traffic.counts.failed) == (5, 3, 0)


def test_a_failure_during_a_swap_is_counted_and_overcome(service: Service, traffic: Traffic) -> None:
    traffic.play([prediction(0)])
    answers: Iterator[Answer] = iter([(500, {}), (200, {"version": "v2"})])

    async def break_down_once(path: str, item: int) -> Answer:
        return next(answers)

    service.answer = break_down_once

    traffic.until_answered_by("v2")

    assert (traffic.counts.failed, traffic.counts.failures) == (1, ["during a swap: 500 b'{}'"])


def test_a_version_that_never_answers_is_unavailable(service: Service, traffic: Traffic) -> None:
    traffic.play([prediction(0)])

    with pytest.raises(Unavailable, match=f"{service.url} did not answer with v2 within 0.05 s"):
        traffic.until_answered_by("v2", within_s=0.05)


def test_takes_no_version_for_granted_where_nothing_can_be_repeated(service: Service, traffic: Traffic) -> None:
    with pytest.raises(Unavailable, match="no prediction that could be repeated"):
        traffic.until_answered_by("v1")

    assert service.seen == []


def test_closes_its_connections(service: Service) -> None:
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with traffic_to(service.url) as traffic:
            traffic.play([prediction(0)])
        del traffic
        gc.collect()

    assert [str(one.message) for one in warned if "unclosed" in str(one.message).lower()] == []


def test_closes_what_was_never_used(service: Service) -> None:
    with traffic_to(service.url):
        pass

    assert service.seen == []
