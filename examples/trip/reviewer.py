"""The reviewer: checks a plan against the data, without believing any number in it."""

from typing import Any

from town import Hotel, Sight, Town, clock, euros, minutes, read_town, weekday

from crewkeeper_agents import Agent
from crewkeeper_bus import WouldDeadlock

agent = Agent("reviewer")
Plan = dict[str, Any]


def check(town: Town, plan: Plan) -> list[str]:
    """What is wrong with the plan, one sentence each; empty if nothing is."""
    hotel = town.hotels.get(plan["hotel"])
    if hotel is None:
        return [f"there is no hotel {plan['hotel']!r}"]
    problems = []
    if [day["date"] for day in plan["days"]] != [day.isoformat() for day in town.request.days]:
        problems.append("the days are not the days asked for")
    seen: set[str] = set()
    for day, plan_day in zip(town.request.days, plan["days"], strict=False):
        problems += [f"{plan_day['date']}: {text}" for text in check_day(town, hotel, weekday(day), plan_day, seen)]
    costs = cost_by_day(town, plan)
    total = hotel.night_cents * town.request.nights + sum(day["cents"] for day in costs)
    if total != plan["total_cents"]:
        problems.append(f"the plan says {euros(plan['total_cents'])} EUR, the data say {euros(total)} EUR")
    if total > town.request.budget_cents:
        problems.append(f"{euros(total)} EUR is over the budget of {euros(town.request.budget_cents)} EUR")
    return problems


def check_day(town: Town, hotel: Hotel, today: str, day: dict[str, Any], seen: set[str]) -> list[str]:
    """What is wrong with one day; `seen` holds what was visited before and is added to."""
    problems = []
    here: Hotel | Sight = hotel
    now = town.request.day_starts
    for stop in day["stops"]:
        starts, ends = minutes(stop["starts"]), minutes(stop["ends"])
        if starts < now:
            problems.append(f"{stop['what']} begins at {stop['starts']}, before {clock(now)} when one is free")
        if stop["kind"] == "visit":
            problems += check_visit(town, here, today, stop, seen)
        elif stop["kind"] == "move":
            there = town.sights.get(stop["to"]) or town.hotels.get(stop["to"])
            way = town.move(here, there, starts) if there else None
            if there is None or way is None or way.arrives > ends:
                problems.append(
                    f"one cannot get from {here.name} to {stop['to']} from {stop['starts']} to {stop['ends']}"
                )
            elif way.fare_cents * town.request.travellers != stop["cost_cents"]:
                problems.append(f"{stop['what']} costs {euros(way.fare_cents)} EUR each")
            here = there or here
        now = max(now, ends)
    if here is not hotel or now > town.request.day_ends:
        problems.append(f"the day does not end at the hotel by {clock(town.request.day_ends)}")
    return problems


def check_visit(town: Town, here: Hotel | Sight, today: str, stop: dict[str, Any], seen: set[str]) -> list[str]:
    """What is wrong with one visit."""
    sight = town.sights.get(stop["what"])
    if sight is None:
        return [f"there is no sight {stop['what']!r}"]
    problems = []
    if sight is not here:
        problems.append(f"one is not at {sight.name} when its visit begins")
    if sight.id in seen:
        problems.append(f"{sight.name} is visited twice")
    seen.add(sight.id)
    if sight.closed_on == today:
        problems.append(f"{sight.name} is closed on {today}")
    starts, ends = minutes(stop["starts"]), minutes(stop["ends"])
    if starts < sight.opens or ends > sight.closes:
        problems.append(f"{sight.name} is open from {clock(sight.opens)} to {clock(sight.closes)}")
    if ends - starts < sight.minutes:
        problems.append(f"{sight.name} needs {sight.minutes} minutes")
    if stop["cost_cents"] != sight.ticket_cents * town.request.travellers:
        problems.append(f"{sight.name} costs {euros(sight.ticket_cents)} EUR each")
    return problems


def cost_by_day(town: Town, plan: Plan) -> list[dict[str, Any]]:
    """What each day costs by the ticket prices in the data; fares are the plan's, `check_day` has compared them."""
    costs = []
    for day in plan["days"]:
        fares = sum(stop["cost_cents"] for stop in day["stops"] if stop["kind"] == "move")
        visits = [stop["what"] for stop in day["stops"] if stop["kind"] == "visit"]
        tickets = sum(town.sights[id_].ticket_cents for id_ in visits if id_ in town.sights) * town.request.travellers
        costs.append({"date": day["date"], "cents": town.request.meals_cents + fares + tickets})
    return costs


@agent.handler("approve")
async def approve(crew: Any, request: Any) -> dict[str, Any]:
    """Check the plan; answer with a verdict, the problems, and remarks for the travellers."""
    plan = request.body["plan"]
    town = read_town()
    await crew.progress("checking opening hours, ways, overlaps and sums")
    problems = check(town, plan)
    own = cost_by_day(town, plan)
    remarks = []
    told = request.body.get("breakdown")
    if told is None:
        try:
            # The mistake that teams make: the planner is waiting for us, and we ask it for something before we answer.
            told = await crew.ask(request.sender, None, verb="breakdown")
        except WouldDeadlock:
            remarks.append("The planner could not give the breakdown while it waited; it is computed from the data.")
            told = own
    if told != own:
        problems.append("the breakdown given is not what the data say")
    remarks += [f"{day['date']} costs {euros(day['cents'])} EUR" for day in own]
    await crew.progress(f"refused: {len(problems)} problems" if problems else "approved")
    return {"approved": not problems, "problems": problems, "remarks": remarks}


if __name__ == "__main__":
    agent.run()
