"""The rollout: one small file that people can read, and that is read strictly."""

from datetime import UTC, datetime

import pytest

from models.deciding import rollout
from models.deciding.rollout import Rollout
from models.errors import BundleError

SERVING = Rollout(champion="v2", since=datetime(2020, 3, 1, 8, tzinfo=UTC), previous="v1")


@pytest.mark.parametrize("serving", [SERVING, Rollout(champion="v1", since=SERVING.since)])
def test_a_rollout_survives_its_file(serving: Rollout) -> None:
    assert rollout.decode(rollout.encode(serving)) == serving


def test_the_file_is_for_people_too() -> None:
    assert rollout.encode(SERVING).decode() == (
        '{\n  "champion": "v2",\n  "since": "2020-03-01T08:00:00Z",\n  "previous": "v1"\n}'
    )


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"v2",
        b"{}",
        b'{"champion": "v2"}',
        b'{"champion": 2, "since": "2020-03-01T08:00:00Z"}',
        b'{"champion": "v2", "since": "yesterday"}',
        b'{"champion": "v2", "since": "2020-03-01T08:00:00"}',
        b'{"champion": "\xff", "since": "2020-03-01T08:00:00Z"}',
    ],
)
def test_refuses_a_file_that_is_no_rollout(content: bytes) -> None:
    with pytest.raises(BundleError, match=r"rollout\.json is not a rollout"):
        rollout.decode(content)
