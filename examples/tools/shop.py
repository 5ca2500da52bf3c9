"""Tools: plain functions. They run in processes of their own, and only when the gate has granted the call."""

from typing import Annotated

from msgspec import Meta

from crewkeeper_agents.tools import ToolError, tool

PRICES = {"bread": 3, "milk": 2, "cheese": 9}


@tool
def prices(item: str) -> int:
    """Price of one item, in euro cents.

    Args:
        item: What it is called.
    """
    if item not in PRICES:
        raise ToolError(f"there is no {item!r}; there is {', '.join(PRICES)}")
    return PRICES[item]


@tool
def pay(item: str, count: Annotated[int, Meta(ge=1, le=10)]) -> dict[str, int]:
    """Buy so many of an item."""
    return {"cents": prices(item) * count}
