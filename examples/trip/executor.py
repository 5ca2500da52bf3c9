"""The executor: turns an approved plan into files, and checks what it wrote against the data.

It writes into the folder named by TRIP_OUT, by default `out` where it runs: `itinerary.md` and `bookings.csv`.
"""

import csv
import hashlib
import io
import os
from pathlib import Path
from typing import Any

from town import Town, cents, euros, read_town

from crewkeeper_agents import Agent

agent = Agent("executor")
Plan = dict[str, Any]

COLUMNS = ["reference", "kind", "id", "name", "date", "time", "for", "eur"]


def bookings(town: Town, plan: Plan) -> list[dict[str, str]]:
    """What has to be paid ahead: the hotel, and every sight that sells tickets."""
    people = str(town.request.travellers)
    hotel = town.hotels[plan["hotel"]]
    rows = [["hotel", hotel.id, hotel.name, plan["days"][0]["date"], "", people, euros(plan["hotel_cents"])]]
    for day in plan["days"]:
        for stop in day["stops"]:
            if stop["kind"] == "visit" and stop["cost_cents"]:
                name = town.sights[stop["what"]].name
                cost = euros(stop["cost_cents"])
                rows.append(["ticket", stop["what"], name, day["date"], stop["starts"], people, cost])
    return [dict(zip(COLUMNS, [reference(row), *row], strict=True)) for row in rows]


def reference(row: list[str]) -> str:
    """The same booking always has the same reference, so booking again after a restart books nothing twice."""
    return "LX-" + hashlib.sha256("|".join(row).encode()).hexdigest()[:8].upper()


def itinerary(town: Town, plan: Plan, remarks: list[str]) -> str:
    """The plan as a page to print."""
    hotel = town.hotels[plan["hotel"]]
    total, budget = euros(plan["total_cents"]), euros(town.request.budget_cents)
    lines = [
        f"# {town.request.objective}",
        "",
        f"Total: {total} EUR of {budget} EUR. Hotel: {hotel.name} ({hotel.area}), {town.request.nights} nights.",
    ]
    names = {place.id: place.name for place in (*town.sights.values(), *town.hotels.values())}
    for day in plan["days"]:
        lines += ["", f"## {day['date']}", ""]
        for stop in day["stops"]:
            what = names.get(stop["what"], stop["what"])
            where = f" to {names[stop['to']]}" if stop["kind"] == "move" else ""
            cost = f" ({euros(stop['cost_cents'])} EUR)" if stop["cost_cents"] else ""
            lines.append(f"- {stop['starts']}-{stop['ends']} {what}{where}{cost}")
    lines += ["", "## Remarks of the reviewer", "", *(f"- {remark}" for remark in remarks), ""]
    return "\n".join(lines)


def as_csv(rows: list[dict[str, str]]) -> str:
    """The bookings as a CSV file."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write(path: Path, text: str) -> None:
    """Write the whole file or nothing: a crash leaves no half of it."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def validate(town: Town, plan: Plan, folder: Path) -> int:
    """Read the files back and compare them with the data; the total in cents.

    A difference raises ValueError.
    """
    with (folder / "bookings.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    people, nights = town.request.travellers, town.request.nights
    paid = 0
    for row in rows:
        if row["kind"] == "hotel":
            right = town.hotels[row["id"]].night_cents * nights
        else:
            right = town.sights[row["id"]].ticket_cents * people
        if cents(row["eur"]) != right:
            raise ValueError(f"bookings.csv: {row['name']} is {row['eur']} EUR, the data say {euros(right)} EUR")
        paid += right
    fares = sum(stop["cost_cents"] for day in plan["days"] for stop in day["stops"] if stop["kind"] == "move")
    total: int = paid + fares + town.request.meals_cents * len(plan["days"])
    if total != plan["total_cents"] or total > town.request.budget_cents:
        raise ValueError(f"bookings.csv adds up to {euros(total)} EUR, the plan to {euros(plan['total_cents'])} EUR")
    page = (folder / "itinerary.md").read_text(encoding="utf-8")
    missing = [row["name"] for row in rows if row["name"] not in page]
    if missing:
        raise ValueError(f"itinerary.md lacks {', '.join(missing)}")
    return total


def book_all(town: Town, plan: Plan, remarks: list[str], folder: Path) -> int:
    """Write both files and validate them; the total in cents."""
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "bookings.csv", as_csv(bookings(town, plan)))
    write(folder / "itinerary.md", itinerary(town, plan, remarks))
    return validate(town, plan, folder)


@agent.handler("book")
async def book(crew: Any, request: Any) -> dict[str, Any]:
    """Write the files of an approved plan; answer with their names and the total."""
    town = read_town()
    plan, remarks = request.body["plan"], request.body["remarks"]
    folder = Path(os.environ.get("TRIP_OUT") or "out")
    await crew.progress(f"booking into {folder}")
    await crew.checkpoint()  # the last moment at which a pause or a stop leaves nothing half done
    total = book_all(town, plan, remarks, folder)
    await crew.progress(f"files written and checked: {euros(total)} EUR")
    return {"files": [str(folder / "itinerary.md"), str(folder / "bookings.csv")], "total_cents": total}


if __name__ == "__main__":
    agent.run()
