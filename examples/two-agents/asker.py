from crewkeeper_agents import Agent

agent = Agent("asker")


@agent.main
async def main(crew):
    answer = await crew.ask("adder", [17, 25], verb="add")
    await crew.progress(f"17 + 25 = {answer}")


if __name__ == "__main__":
    agent.run()
