"""Cron schedules against cron's own rules, and against looking at every minute."""

import datetime
import zoneinfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meltemi.local.controllers.schedule import BadSchedule, parse

NOON = datetime.datetime(2026, 2, 27, 12, 0, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("* * * * *", "2026-02-27T12:01"),
        ("*/15 * * * *", "2026-02-27T12:15"),
        ("30 4 1,15 * 5", "2026-03-01T04:30"),
        ("0 22 * * 1-5", "2026-02-27T22:00"),
        ("0 0 29 2 *", "2028-02-29T00:00"),
        ("0 9 * jan MON", "2027-01-04T09:00"),
        ("@hourly", "2026-02-27T13:00"),
        ("@weekly", "2026-03-01T00:00"),
        ("5 0 * * 7", "2026-03-01T00:05"),
    ],
)
def test_the_next_time_is_the_one_cron_means(text: str, expected: str) -> None:
    found = parse(text).after(NOON)
    assert found is not None
    assert f"{found:%Y-%m-%dT%H:%M}" == expected


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("* * * *", "five fields"),
        ("60 * * * *", "minute"),
        ("* 7-3 * * *", "hour"),
        ("* * * foo *", "month"),
        ("*/0 * * * *", "minute"),
    ],
)
def test_a_bad_schedule_names_the_field(text: str, part: str) -> None:
    with pytest.raises(BadSchedule, match=part):
        parse(text)


def test_a_day_that_never_comes_has_no_next_time() -> None:
    assert parse("0 0 31 2 *").after(NOON) is None


def test_times_are_those_of_the_zone() -> None:
    berlin = zoneinfo.ZoneInfo("Europe/Berlin")
    found = parse("0 6 * * *").after(NOON.astimezone(berlin))
    assert found is not None
    assert found.astimezone(datetime.UTC).hour == 5


_NUMBERS = st.integers(0, 59).map(str)
_MINUTES = st.one_of(st.just("*"), _NUMBERS, st.integers(1, 30).map(lambda n: f"*/{n}"))
_HOURS = st.one_of(st.just("*"), st.integers(0, 23).map(str), st.just("8-17/3"))
_WEEKDAYS = st.one_of(st.just("*"), st.integers(0, 7).map(str), st.just("1-5"))


@given(_MINUTES, _HOURS, _WEEKDAYS)
def test_no_scheduled_minute_is_passed_over(minute: str, hour: str, weekday: str) -> None:
    schedule = parse(f"{minute} {hour} * * {weekday}")
    found = schedule.after(NOON)
    assert found is not None
    moment = NOON + datetime.timedelta(minutes=1)
    while moment < found:
        fits = schedule.fits(moment.date())
        assert not (fits and moment.hour in schedule.hours and moment.minute in schedule.minutes)
        moment += datetime.timedelta(minutes=1)
