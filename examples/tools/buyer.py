"""An agent that calls tools as models do: mostly well, sometimes by a name or with arguments that it has made up."""

import asyncio

from crewkeeper_agents import Agent
from crewkeeper_bus import BudgetSpent, ToolRefused

agent = Agent("buyer")

MADE_UP = [
    ("transfer_money", {"to": "shop", "usd": 3}),
    ("price", {"item": "bread"}),
    ("pay", {"item": "bread", "count": "two", "urgent": True}),
    ("prices", {"item": "unicorn"}),
]


@agent.main
async def main(crew):
    for name, args in MADE_UP:
        try:
            await crew.call_tool(name, args)
        except ToolRefused as refused:
            print(f"{name}: {refused.code}: {refused.text}")
    print("bread costs", await crew.call_tool("prices", {"item": "bread"}))

    bought = await asyncio.gather(*(buy(crew, number) for number in range(20)))
    print(f"{sum(bought)} of 20 orders were paid for")
    print(await crew.call_tool("receipt", {"lines": [f"{sum(bought)} bread"]}))


async def buy(crew, number):
    try:
        await crew.call_tool("pay", {"item": "bread", "count": 1}, call_id=f"order-{number}")
    except BudgetSpent:
        return False
    return True


if __name__ == "__main__":
    agent.run()
