"""Cron schedules: five fields or @hourly and its like, in a time zone. Pure.

A field is a list of values, ranges and steps (`1,5-10,*/15`); months and days have names. As in
cron, a date must fit both day fields, or either where both are restricted.
"""

import datetime
from collections.abc import Mapping, Sequence

import msgspec

_MACROS: Mapping[str, str] = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FARTHEST = 366 * 8
"""Days to look ahead: the 29th of February may be eight years away."""


class BadSchedule(ValueError):
    """The text names the field and what is wrong with it."""


class Schedule(msgspec.Struct, frozen=True):
    """The minutes, hours, days, months and weekdays (0 is Sunday) that are meant."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    restricts_days: bool
    restricts_weekdays: bool

    def fits(self, day: datetime.date) -> bool:
        by_day = day.day in self.days
        by_weekday = day.isoweekday() % 7 in self.weekdays
        if day.month not in self.months:
            return False
        if self.restricts_days and self.restricts_weekdays:
            return by_day or by_weekday
        return by_day and by_weekday

    def after(self, moment: datetime.datetime) -> datetime.datetime | None:
        """The first scheduled time later than `moment`, in its time zone; None if there is none."""
        day = moment.date()
        for _ in range(_FARTHEST):
            if self.fits(day):
                for hour in sorted(self.hours):
                    for minute in sorted(self.minutes):
                        time = datetime.time(hour, minute, tzinfo=moment.tzinfo)
                        found = datetime.datetime.combine(day, time)
                        if found > moment:
                            return found
            day += datetime.timedelta(days=1)
        return None


def parse(text: str) -> Schedule:
    """Raises BadSchedule."""
    fields = _MACROS.get(text.strip().lower(), text).split()
    if len(fields) != 5:
        raise BadSchedule(
            f'schedule "{text}": five fields are expected: minute hour day month weekday'
        )
    minute, hour, day, month, weekday = fields
    weekdays = {d % 7 for d in _field("weekday", weekday, 0, 7, _DAYS)}
    return Schedule(
        minutes=_field("minute", minute, 0, 59),
        hours=_field("hour", hour, 0, 23),
        days=_field("day", day, 1, 31),
        months=_field("month", month, 1, 12, _MONTHS),
        weekdays=frozenset(weekdays),
        restricts_days=not day.startswith(("*", "?")),
        restricts_weekdays=not weekday.startswith(("*", "?")),
    )


def _field(what: str, text: str, low: int, high: int, names: Sequence[str] = ()) -> frozenset[int]:
    found: set[int] = set()
    for part in text.lower().split(","):
        span, slash, step = part.partition("/")
        first, dash, last = span.partition("-")
        try:
            if span in ("*", "?"):
                start, end = low, high
            else:
                start = _value(first, low, names)
                end = _value(last, low, names) if dash else high if slash else start
            stride = int(step) if slash else 1
        except ValueError as error:
            raise BadSchedule(f'{what} "{text}": {part} is not a number') from error
        if not (low <= start <= end <= high and stride > 0):
            raise BadSchedule(f'{what} "{text}": {part} is not within {low}-{high}')
        found.update(range(start, end + 1, stride))
    return frozenset(found)


def _value(text: str, low: int, names: Sequence[str]) -> int:
    return names.index(text) + low if text in names else int(text)
