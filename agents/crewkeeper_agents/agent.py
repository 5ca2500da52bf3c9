"""Agent: what an author declares of an agent, its handlers and its main activity; running it is `runtime`'s."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeAlias, TypeVar

from crewkeeper_bus.errors import ConfigError
from crewkeeper_bus.subjects import check_agent, check_token

if TYPE_CHECKING:
    from crewkeeper_bus.client import Client
    from crewkeeper_bus.serving import Request

Handler: TypeAlias = "Callable[[Client, Request], Awaitable[Any]]"
Main: TypeAlias = "Callable[[Client], Awaitable[Any]]"
_H = TypeVar("_H", bound="Handler")
_M = TypeVar("_M", bound="Main")

ANY_VERB: Final = "*"


class Agent:
    """An agent as its author declares it.

    ```python
    agent = Agent("reviewer")


    @agent.handler("approve")
    async def approve(crew, request):
        return {"approved": True}


    if __name__ == "__main__":
        agent.run()
    ```

    Args:
        name: Its name where the environment (`CREWKEEPER_AGENT`) gives none.
        leave_when_done: Leave when main is over although there are handlers. Without handlers that is always so.

    Raises:
        SubjectError: The name cannot be a subject token.
    """

    def __init__(self, name: str, *, leave_when_done: bool = False) -> None:
        self.name = check_agent(name)
        self.leave_when_done = leave_when_done
        self.handlers: dict[str, Handler] = {}
        self.main_activity: Main | None = None

    def __repr__(self) -> str:
        return f"Agent({self.name!r}, handlers={sorted(self.handlers)}, main={self.main_activity is not None})"

    def handler(self, verb: str = "ask") -> Callable[[_H], _H]:
        """Declare who answers calls with this verb; `"*"` answers every verb that has no handler of its own.

        The function gets the client and the request, and returns the answer (plain data or a struct).

        Raises:
            SubjectError: The verb cannot be a subject token.
            ConfigError: The verb has a handler already.
        """
        if verb != ANY_VERB:
            check_token(verb, "verb")
        if verb in self.handlers:
            raise ConfigError(f"agent {self.name!r}: verb {verb!r} has a handler already: {self.handlers[verb]!r}")

        def declare(function: _H) -> _H:
            self.handlers[verb] = function
            return function

        return declare

    def main(self, function: _M) -> _M:
        """Declare the main activity: it starts when the crew is complete, and holds one slot until it returns.

        What it returns, plain data or a struct, is its result; the last one of a crew is the crew's final answer.

        Raises:
            ConfigError: There is one already.
        """
        if self.main_activity is not None:
            raise ConfigError(f"agent {self.name!r} has a main activity already: {self.main_activity!r}")
        self.main_activity = function
        return function

    def register(self, client: "Client") -> None:
        """Make the client serve the declared handlers. Best before it connects: no call then comes too early."""
        for verb, function in self.handlers.items():
            client.serve(verb)(_bound(function, client))

    async def serve_on(self, client: "Client", *, until: str = "stop") -> int:
        """Live on a client that is entered: register the handlers, wait for the crew, run main, serve; then return.

        For tests and for programs that do more than being an agent. The client is left by whoever entered it.

        Args:
            client: Entered, without handlers of the same verbs.
            until: As `run`.

        Returns:
            What the exit status would be.

        Raises:
            Exception: Whatever main raises.
        """
        from crewkeeper_agents.runtime import Life

        self.register(client)
        life = Life(self, client, until=until)
        await life.live()
        return life.status

    def run(self, *, until: str = "stop") -> NoReturn:
        """Be this agent: connect as the environment says, wait for the crew, serve, obey; then exit the process.

        Args:
            until: `"stop"` serves until told to stop, `"main"` until main is over. Without handlers it is always main.

        Exit status: 0 left in order; 1 main raised, or the bus cannot be reached or refuses this agent; 2 the
        configuration is wrong; 3 stopped in mid-work. SIGTERM and SIGINT stop it as the supervisor would, with 0.
        """
        from crewkeeper_agents import runtime

        raise SystemExit(int(runtime.run(self, until=until)))


def _bound(function: Handler, client: "Client") -> "Callable[[Request], Awaitable[Any]]":
    async def serve(request: "Request") -> Any:
        return await function(client, request)

    serve.__qualname__ = getattr(function, "__qualname__", "handler")
    return serve
