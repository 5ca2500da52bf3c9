"""What all three programs know: the town's data and how long a way takes. Who decides what stands in their own files.

Times of day are minutes since midnight, money is in euro cents.
"""

import csv
import json
import math
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

DATA = Path(__file__).with_name("data")
WALK_KM_PER_HOUR = 4.8
DETOUR = 1.25  # streets are not straight
SHORT_WALK_MIN = 15  # nobody takes a tram for less


@dataclass(frozen=True)
class Place:
    """A hotel or a sight: somewhere one can go."""

    id: str
    name: str
    area: str
    lat: float
    lon: float


@dataclass(frozen=True)
class Hotel(Place):
    """A place to sleep."""

    night_cents: int
    rating: float


@dataclass(frozen=True)
class Sight(Place):
    """A place to visit; `closed_on` is a weekday such as "Mon", or empty."""

    opens: int
    closes: int
    closed_on: str
    ticket_cents: int
    minutes: int
    score: float


@dataclass(frozen=True)
class Ride:
    """A line between the stops of two areas, the same timetable both ways."""

    line: str
    mode: str
    ends: frozenset[str]
    first: int
    last: int
    every: int
    minutes: int
    fare_cents: int

    def departs(self, now: int) -> int | None:
        """The next departure at or after `now`; None if the last one has left."""
        missed = max(0, math.ceil((now - self.first) / self.every))
        at = self.first + missed * self.every
        return at if at <= self.last else None


@dataclass(frozen=True)
class Request:
    """What the travellers want."""

    objective: str
    days: tuple[date, ...]
    travellers: int
    budget_cents: int
    day_starts: int
    day_ends: int
    lunch_from: int
    lunch_minutes: int
    meals_cents: int  # all travellers, one day

    @property
    def nights(self) -> int:
        """One less than the days."""
        return len(self.days) - 1


@dataclass(frozen=True)
class Move:
    """One way from place to place; `fare_cents` is for one traveller."""

    by: str
    arrives: int
    fare_cents: int


@dataclass
class Town:
    """All input files, read and checked."""

    request: Request
    hotels: dict[str, Hotel]
    sights: dict[str, Sight]
    stops: dict[str, Place]  # by area
    rides: list[Ride]
    _trips: dict[tuple[str, str, int], Move | None] = field(default_factory=dict)

    def move(self, here: Place, there: Place, now: int) -> Move | None:
        """The way one would take at `now`: on foot if that is short or no slower, else by line, or None."""
        walk = Move("on foot", now + walk_minutes(here, there), 0)
        if walk.arrives - now <= SHORT_WALK_MIN:
            return walk
        to_stop = now + walk_minutes(here, self.stops[here.area])
        trip = self._trip(here.area, there.area, to_stop)
        if trip is None:
            return walk if here.area == there.area else None
        arrives = trip.arrives + walk_minutes(self.stops[there.area], there)
        return walk if walk.arrives <= arrives else Move(trip.by, arrives, trip.fare_cents)

    def _trip(self, start: str, goal: str, now: int) -> Move | None:
        """The earliest arrival from stop to stop, changing lines where that helps."""
        key = (start, goal, now)
        if key not in self._trips:
            self._trips[key] = self._find_trip(start, goal, now)
        return self._trips[key]

    def _find_trip(self, start: str, goal: str, now: int) -> Move | None:
        reached = {start: Move("", now, 0)}
        done: set[str] = set()
        while open_areas := sorted(reached.keys() - done, key=lambda area: (reached[area].arrives, area)):
            here = open_areas[0]
            done.add(here)
            at = reached[here]
            if here == goal:
                return at if at.by else None
            for ride in self.rides:
                departs = ride.departs(at.arrives) if here in ride.ends else None
                if departs is None:
                    continue
                (there,) = ride.ends - {here}
                arrives = departs + ride.minutes
                if there not in reached or arrives < reached[there].arrives:
                    by = f"{at.by}, then " * bool(at.by) + f"{ride.mode} {ride.line} at {clock(departs)}"
                    reached[there] = Move(by, arrives, at.fare_cents + ride.fare_cents)
        return None


def walk_minutes(here: Place, there: Place) -> int:
    """How long the walk takes."""
    north = (there.lat - here.lat) * 111.2
    east = (there.lon - here.lon) * 111.2 * math.cos(math.radians(here.lat))
    return math.ceil(math.hypot(north, east) * DETOUR / WALK_KM_PER_HOUR * 60)


def minutes(text: str) -> int:
    """Minutes since midnight of "HH:MM"."""
    hours, minutes_ = text.split(":")
    return int(hours) * 60 + int(minutes_)


def clock(at: int) -> str:
    """ "HH:MM" of minutes since midnight."""
    return f"{at // 60:02}:{at % 60:02}"


def cents(text: str) -> int:
    """Euro cents of "12.50"."""
    return int(Decimal(text) * 100)


def euros(amount: int) -> str:
    """ "12.50" of euro cents."""
    return f"{amount // 100}.{amount % 100:02}"


def weekday(day: date) -> str:
    """ "Mon" … "Sun", whatever the locale."""
    return ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")[day.weekday()]


def read_town(folder: Path = DATA) -> Town:
    """Read the input files; a bad one raises KeyError or ValueError."""

    def rows(name: str) -> list[dict[str, str]]:
        with (folder / name).open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def place(row: dict[str, str]) -> tuple[str, str, str, float, float]:
        return row["id"], row["name"], row["area"], float(row["lat"]), float(row["lon"])

    hotels = [Hotel(*place(row), cents(row["eur_per_night"]), float(row["rating"])) for row in rows("hotels.csv")]
    sights = [
        Sight(
            *place(row),
            minutes(row["opens"]),
            minutes(row["closes"]),
            row["closed_on"],
            cents(row["eur"]),
            int(row["minutes"]),
            float(row["score"]),
        )
        for row in rows("sights.csv")
    ]
    stops = {
        row["area"]: Place(row["stop"], row["stop"], row["area"], float(row["lat"]), float(row["lon"]))
        for row in rows("areas.csv")
    }
    rides = [
        Ride(
            row["line"],
            row["mode"],
            frozenset((row["a"], row["b"])),
            minutes(row["first"]),
            minutes(row["last"]),
            int(row["every_min"]),
            int(row["minutes"]),
            cents(row["eur"]),
        )
        for row in rows("rides.csv")
    ]
    request = _read_request(json.loads((folder / "request.json").read_text(encoding="utf-8")))
    return Town(request, {hotel.id: hotel for hotel in hotels}, {sight.id: sight for sight in sights}, stops, rides)


def _read_request(data: dict[str, str | int]) -> Request:
    first = date.fromisoformat(str(data["first_day"]))
    travellers = int(data["travellers"])
    return Request(
        objective=str(data["objective"]),
        days=tuple(first + timedelta(days=number) for number in range(int(data["days"]))),
        travellers=travellers,
        budget_cents=cents(str(data["budget_eur"])),
        day_starts=minutes(str(data["day_starts"])),
        day_ends=minutes(str(data["day_ends"])),
        lunch_from=minutes(str(data["lunch_from"])),
        lunch_minutes=int(data["lunch_minutes"]),
        meals_cents=cents(str(data["meals_eur_per_traveller_and_day"])) * travellers,
    )
