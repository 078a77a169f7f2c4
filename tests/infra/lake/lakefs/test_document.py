"""The comparison with lakeFS's document finds what breaks it."""

import os
from typing import Any

import httpx
import pytest
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from tests.infra.lake.lakefs.document import Documented
from tests.infra.lake.lakefs.server import running

if not os.environ.get("LAKEFS_OPENAPI"):
    pytest.skip("LAKEFS_OPENAPI names no OpenAPI document of lakeFS", allow_module_level=True)

GOOD = {"results": [], "pagination": {"has_more": False, "next_offset": "", "results": 0, "max_per_page": 1000}}


def problems(answer: Any, status: int, method: str, url: str, **asked: Any) -> list[str]:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        await JSONResponse(answer, status)(scope, receive, send)

    documented = Documented(app)
    with running(documented) as address:
        httpx.request(method, f"{address}/api/v1{url}", auth=("key", "secret"), **asked)
    assert documented.checked == 1
    return documented.problems


def test_a_good_answer_is_none() -> None:
    assert problems(GOOD, 200, "GET", "/repositories/abc/branches") == []


@pytest.mark.parametrize(
    ("answer", "status", "url"),
    [
        ({"results": []}, 200, "/repositories/abc/branches"),
        (GOOD, 206, "/repositories/abc/branches"),
        (GOOD, 200, "/repositories/abc/twigs"),
        (GOOD, 200, "/repositories/abc/branches?amount=many"),
        ({"error": "none"}, 404, "/repositories/abc/branches"),
    ],
)
def test_finds_a_wrong_answer(answer: Any, status: int, url: str) -> None:
    assert len(problems(answer, status, "GET", url)) == 1


def test_finds_a_wrong_request() -> None:
    commit = {"id": "1", "parents": [], "committer": "", "message": "", "creation_date": 0, "meta_range_id": ""}
    url = "/repositories/abc/branches/main/commits"
    assert problems(commit, 201, "POST", url, json={"message": "change"}) == []
    assert len(problems(commit, 201, "POST", url, json={"text": "change"})) == 1
