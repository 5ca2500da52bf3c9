"""The planner: builds a plan from the data, has it approved, and hands it on to be booked.

It serves one thing itself, the cost breakdown of its plan. It has one slot, and its own main activity holds that slot
while it waits for the reviewer; who asks it for the breakdown then waits for ever, and that is the deadlock.
"""

from typing import Any

import anyio.to_thread
from town import Hotel, Place, Sight, Town, clock, euros, read_town, weekday

from crewkeeper_agents import Agent
from crewkeeper_bus import Refused, WouldDeadlock

agent = Agent("planner")
Plan = dict[str, Any]  # plain data: it travels as JSON

ORDINARY = 5.0  # a sight of this score is worth no more than strolling
FIRST_SIGHTS = 6  # how many sights are tried as the first one of a day


def make_plan(town: Town) -> Plan:
    """The best plan over all hotels: days are filled greedily by worth per minute, each from several first sights."""
    plans = [plan for hotel in town.hotels.values() if (plan := plan_with(town, hotel)) is not None]
    if not plans:
        raise ValueError(f"no hotel leaves anything of {euros(town.request.budget_cents)} EUR; raise budget_eur")
    return max(plans, key=lambda plan: (plan["worth"], -plan["total_cents"]))


def plan_with(town: Town, hotel: Hotel) -> Plan | None:
    """The best plan found that sleeps in this hotel; None if the budget does not cover bed and meals."""
    request = town.request
    money = request.budget_cents - hotel.night_cents * request.nights - request.meals_cents * len(request.days)
    if money < 0:
        return None
    unseen = dict(town.sights)
    worth = (hotel.rating - 7.0) * request.nights
    days = []
    for number, day in enumerate(request.days):
        share = money // (len(request.days) - number)  # what this day may cost; what is left over goes to the next
        open_today = [sight for sight in unseen.values() if sight.closed_on != weekday(day)]
        best_first = sorted(open_today, key=lambda sight: (-sight.score, sight.id))[:FIRST_SIGHTS]
        tried = [DayBuilder(town, hotel, share).fill([first], open_today) for first in best_first]
        best = max(tried, key=lambda built: (built.worth, -built.spent_cents))
        money -= best.spent_cents
        worth += best.worth
        for stop in best.stops:
            unseen.pop(stop["what"], None)
        days.append({"date": day.isoformat(), "stops": best.stops, "meals_cents": request.meals_cents})
    bed = hotel.night_cents * request.nights
    total = request.budget_cents - money
    return {"hotel": hotel.id, "hotel_cents": bed, "days": days, "total_cents": total, "worth": round(worth, 2)}


class DayBuilder:
    """Fills one day, stop by stop, always able to be back at the hotel in time and in budget."""

    def __init__(self, town: Town, hotel: Hotel, money_cents: int) -> None:
        self.town = town
        self.hotel = hotel
        self.money_cents = money_cents
        self.stops: list[dict[str, Any]] = []
        self.spent_cents = 0
        self.worth = 0.0
        self.now = town.request.day_starts
        self.here: Place = hotel

    def fill(self, first: list[Sight], sights: list[Sight]) -> "DayBuilder":
        """Visit the first ones, then whatever is worth most per minute, then go home."""
        left = {sight.id: sight for sight in sights}
        had_lunch = False
        while True:
            if not had_lunch and self.now >= self.town.request.lunch_from:
                had_lunch = True
                self._add("lunch", "lunch", self.now, self.now + self.town.request.lunch_minutes, 0)
            choices = [sight for sight in first if sight.id in left] or list(left.values())
            ways = [way for sight in choices if (way := self._way(sight)) is not None]
            if not ways:
                if first:
                    first = []
                    continue
                break
            _, _, sight, starts = max(ways, key=lambda way: way[:2])
            self._go(sight)
            self._add("visit", sight.id, starts, starts + sight.minutes, self._all(sight.ticket_cents))
            self.worth += sight.score - ORDINARY
            del left[sight.id]
            first = []
        self._go(self.hotel)
        return self

    def _way(self, sight: Sight) -> tuple[float, str, Sight, int] | None:
        """Worth per minute of visiting it next, and when that would begin; None if it does not fit."""
        there = self.town.move(self.here, sight, self.now)
        if there is None:
            return None
        starts = max(there.arrives, sight.opens)
        ends = starts + sight.minutes
        back = self.town.move(sight, self.hotel, ends)
        if back is None or ends > sight.closes or back.arrives > self.town.request.day_ends:
            return None
        cost = self._all(there.fare_cents + sight.ticket_cents + back.fare_cents)
        if self.spent_cents + cost > self.money_cents:
            return None
        return (sight.score - ORDINARY) / (ends - self.now), sight.id, sight, starts

    def _go(self, place: Place) -> None:
        move = self.town.move(self.here, place, self.now)
        assert move is not None, "checked when the place was chosen"
        self._add("move", move.by, self.now, move.arrives, self._all(move.fare_cents), to=place.id)
        self.here = place

    def _add(self, kind: str, what: str, starts: int, ends: int, cost: int, **more: str) -> None:
        stop = {"kind": kind, "what": what, "starts": clock(starts), "ends": clock(ends), "cost_cents": cost}
        self.stops.append(stop | more)
        self.spent_cents += cost
        self.now = ends

    def _all(self, amount: int) -> int:
        return amount * self.town.request.travellers


def break_down(plan: Plan) -> list[dict[str, Any]]:
    """What each day of the plan costs, as the plan says."""
    return [
        {"date": day["date"], "cents": day["meals_cents"] + sum(stop["cost_cents"] for stop in day["stops"])}
        for day in plan["days"]
    ]


plans: list[Plan] = []  # the latest plan is the last one


@agent.handler("breakdown")
async def breakdown(crew: Any, request: Any) -> list[dict[str, Any]]:
    """Answer with the cost of each day of the latest plan."""
    if not plans:
        raise Refused("there is no plan yet; ask again after the planner asked for approval", reason="no_plan")
    return break_down(plans[-1])


@agent.main
async def plan_trip(crew: Any) -> None:
    """Plan, have it approved, have it booked."""
    town = read_town()
    await crew.progress(f"planning: {town.request.objective}")
    plan = await anyio.to_thread.run_sync(make_plan, town)  # in a thread, so that the agent goes on answering
    plans.append(plan)
    visits = sum(stop["kind"] == "visit" for day in plan["days"] for stop in day["stops"])
    await crew.progress(f"{visits} visits for {euros(plan['total_cents'])} EUR; asking the reviewer")
    try:
        verdict = await crew.ask("reviewer", {"plan": plan}, verb="approve")
    except (
        WouldDeadlock
    ) as ring:  # ours is the wait that was broken: give at once what the reviewer would have asked for
        await crew.progress("that would have been a deadlock; sending the breakdown along")
        await crew.sleep(ring.retry_after_s)
        verdict = await crew.ask("reviewer", {"plan": plan, "breakdown": break_down(plan)}, verb="approve")
    if not verdict["approved"]:
        raise ValueError("the reviewer refused the plan: " + "; ".join(verdict["problems"]))
    await crew.progress("approved; asking the executor to book")
    booked = await crew.ask("executor", {"plan": plan, "remarks": verdict["remarks"]}, verb="book")
    await crew.progress(f"booked for {euros(booked['total_cents'])} EUR: {', '.join(booked['files'])}")


if __name__ == "__main__":
    agent.run()
