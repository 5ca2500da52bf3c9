from crewkeeper_agents import Agent

agent = Agent("adder")


@agent.handler("add")
async def add(crew, request):
    return sum(request.body)


if __name__ == "__main__":
    agent.run()
