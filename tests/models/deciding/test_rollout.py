"""The rollout: one small file that people can read, and that is read strictly; and whose a key is."""

from datetime import UTC, datetime, timedelta
from math import inf, nan, sqrt

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.deciding import rollout
from models.deciding.rollout import AbortRule, Challenger, Rollout, Step, challenge, is_drawn, may_go_on, place_of
from models.errors import BundleError, DefinitionError

BEGAN = datetime(2020, 3, 2, 8, tzinfo=UTC)
SERVING = Rollout(champion="v2", since=datetime(2020, 3, 1, 8, tzinfo=UTC), previous="v1")
CANARY = challenge("canary", "v3", BEGAN, weight=0.05, ramp="0.25@30m,1@2h")
TRYING = msgspec.structs.replace(SERVING, challenger=CANARY)

weights = st.floats(min_value=0, max_value=1, exclude_min=True)


def for_a_share(weight: float, version: str = "v3") -> Challenger:
    return challenge("canary", version, BEGAN, weight=weight)


@pytest.mark.parametrize("serving", [SERVING, Rollout(champion="v1", since=SERVING.since), TRYING])
def test_a_rollout_survives_its_file(serving: Rollout) -> None:
    assert rollout.decode(rollout.encode(serving)) == serving


def test_the_file_is_for_people_too() -> None:
    assert rollout.encode(SERVING).decode() == (
        '{\n  "champion": "v2",\n  "since": "2020-03-01T08:00:00Z",\n  "previous": "v1"\n}'
    )


def test_a_file_from_before_there_were_challengers_is_read() -> None:
    content = b'{"champion": "v1", "since": "2020-03-01T08:00:00Z", "previous": null}'

    assert rollout.decode(content) == Rollout(champion="v1", since=SERVING.since)


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
        rollout.encode(TRYING).replace(b'"canary"', b'"parrot"'),
        rollout.encode(TRYING).replace(b'"v3"', b'"v2"'),
        rollout.encode(TRYING).replace(b"0.05", b"1.5"),
        rollout.encode(TRYING).replace(b"7200", b"60"),
        rollout.encode(TRYING).replace(b"0.01", b"-1"),
    ],
)
def test_refuses_a_file_that_is_no_rollout(content: bytes) -> None:
    with pytest.raises(BundleError, match=r"rollout\.json is not a rollout"):
        rollout.decode(content)


def test_what_is_left_out_has_its_default() -> None:
    shadow, canary = challenge("shadow", "v3", BEGAN), challenge("canary", "v3", BEGAN)

    assert (shadow.weight, shadow.ramp, shadow.abort) == (1.0, (), AbortRule(error_rate=0.01, p99_ms=100.0))
    assert (canary.weight, canary.mode, canary.since) == (0.05, "canary", BEGAN)


def test_a_ramp_is_read_in_all_units() -> None:
    read = challenge("canary", "v3", BEGAN, weight=0.01, ramp="0.05@90s, 0.25@30m,0.5@2h,1.0@3d")

    assert read.ramp == tuple(
        Step(after_s=after_s, weight=weight)
        for after_s, weight in ((90, 0.05), (1800, 0.25), (7200, 0.5), (259_200, 1.0))
    )


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        ({"version": None}, "a canary needs the version"),
        ({"weight": 0.0}, "above 0 and at most 1, not 0.0"),
        ({"weight": 1.01}, "above 0 and at most 1, not 1.01"),
        ({"weight": nan}, "above 0 and at most 1, not nan"),
        ({"ramp": "0.25@30m,1.5@1h"}, "above 0 and at most 1, not 1.5"),
        ({"ramp": "0.25@30m,0.25@1h"}, "must rise .* not from 0.25 after 1800 s to 0.25 after 3600 s"),
        ({"ramp": "0.25@30m,0.5@30m"}, "must rise .* not from 0.25 after 1800 s to 0.5 after 1800 s"),
        ({"ramp": "0.25@0m"}, "must rise .* not from 0.05 after 0 s to 0.25 after 0 s"),
        ({"ramp": "0.01@1h"}, "must rise .* not from 0.05 after 0 s to 0.01 after 3600 s"),
        ({"ramp": ""}, "'' is no step of a ramp"),
        ({"ramp": "0.25@30m,"}, "'' is no step of a ramp"),
        ({"ramp": "25%@30m"}, "'25%@30m' is no step of a ramp: .* such as 0.25@30m,1@2h"),
        ({"error_rate": 1.0}, r"abort\.error_rate must be at least 0 and less than 1, not 1\.0"),
        ({"error_rate": nan}, r"abort\.error_rate must be at least 0 and less than 1, not nan"),
        ({"p99_ms": 0.0}, r"abort\.p99_ms must be a number greater than 0, not 0\.0"),
        ({"p99_ms": inf}, r"abort\.p99_ms must be a number greater than 0, not inf"),
    ],
)
def test_refuses_terms_that_cannot_be_meant(terms: dict[str, float | str | None], said: str) -> None:
    asked: dict[str, object] = {"mode": "canary", "version": "v3", "since": BEGAN} | terms

    with pytest.raises(DefinitionError, match=said):
        challenge(**asked)  # type: ignore[arg-type]


def test_refuses_a_champion_that_challenges_itself() -> None:
    with pytest.raises(DefinitionError, match="v3 is champion, and cannot be tried against itself"):
        Rollout(champion="v3", since=BEGAN, challenger=CANARY)


@pytest.mark.parametrize(
    ("passed", "weight"),
    [
        (timedelta(seconds=-1), 0.0),
        (timedelta(0), 0.05),
        (timedelta(minutes=30) - timedelta.resolution, 0.05),
        (timedelta(minutes=30), 0.25),
        (timedelta(hours=2), 1.0),
        (timedelta(days=999), 1.0),
    ],
)
def test_the_ramp_advances_by_the_clock(passed: timedelta, weight: float) -> None:
    assert rollout.weight_at(CANARY, BEGAN + passed) == weight


@given(key=st.binary(), lower=weights, higher=weights)
def test_what_is_the_challengers_stays_its_as_the_weight_grows(key: bytes, lower: float, higher: float) -> None:
    lower, higher = sorted((lower, higher))

    before, after = (is_drawn(for_a_share(weight), key, BEGAN) for weight in (lower, higher))

    assert after or not before


@given(key=st.binary(), minutes=st.lists(st.integers(min_value=-60, max_value=600)))
def test_a_key_changes_sides_once_at_most_over_a_ramp(key: bytes, minutes: list[int]) -> None:
    sides = [is_drawn(CANARY, key, BEGAN + timedelta(minutes=minute)) for minute in sorted(minutes)]

    assert sides == sorted(sides)


@given(key=st.binary())
def test_a_weight_of_one_takes_every_key(key: bytes) -> None:
    assert is_drawn(for_a_share(1.0), key, BEGAN)


@given(prefix=st.text(max_size=8), version=st.text(min_size=1, max_size=8), weight=st.sampled_from([0.01, 0.05, 0.5]))
def test_the_share_of_keys_is_the_weight(prefix: str, version: str, weight: float) -> None:
    keys, challenger = 2_000, for_a_share(weight, version)

    drawn = sum(is_drawn(challenger, f"{prefix}{number}".encode(), BEGAN) for number in range(keys))

    # Six standard deviations of a fair draw: once in some ten million examples it is missed
    assert abs(drawn - weight * keys) < 6 * sqrt(keys * weight * (1 - weight))


def test_another_challenger_draws_anew() -> None:
    keys = [str(number).encode() for number in range(10_000)]

    of_v3, of_v4 = (
        {key for key in keys if is_drawn(for_a_share(0.2, version), key, BEGAN)} for version in ("v3", "v4")
    )

    assert len(of_v3 & of_v4) == pytest.approx(0.2 * 0.2 * len(keys), rel=0.25)


def test_places_are_those_of_every_other_process() -> None:
    assert [place_of("v3", key) for key in (b"", b"trip-1")] == [0.5121973689529717, 0.24611682248767153]


@pytest.mark.parametrize(
    ("answers", "failed", "slow", "goes_on"),
    [
        (0, 0, 0, True),
        (1, 1, 1, True),
        (2, 2, 0, False),
        (2, 0, 2, False),
        (100, 1, 1, True),
        (1000, 10, 10, True),
        (1000, 11, 0, False),
        (1000, 0, 11, False),
    ],
)
def test_a_trial_ends_when_more_than_a_share_fail_or_are_slow(
    answers: int, failed: int, slow: int, goes_on: bool
) -> None:
    assert may_go_on(AbortRule(), answers, failed, slow).allowed == goes_on


def test_says_which_bound_was_broken() -> None:
    rule = AbortRule(error_rate=0.05, p99_ms=20.0)

    slow, both = may_go_on(rule, 200, 0, 9), may_go_on(rule, 200, 100, 9)

    assert slow.reasons == ("9 of 200 answers took longer than 20 ms, 1.00% may",)
    assert both.reasons == ("100 of 200 answers failed, 5.00% may", *slow.reasons)
