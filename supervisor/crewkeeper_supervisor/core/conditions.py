"""Conditions that the core understands beyond those of the bus: topics and room in a mailbox.

No client announces them: it has no topics, and its mailbox refuses instead of making the sender wait. They stand in
wait cases, alone or inside the nested conditions of the bus.
"""

from msgspec import Struct

from crewkeeper_bus.messages import Condition


class OnTopic(Struct, frozen=True, kw_only=True):
    """A message on a topic.

    Attributes:
        topic: The topic.
        publishers: The agents that could publish; None if anybody could, somebody outside too.
    """

    topic: str
    publishers: tuple[str, ...] | None = None


class OnRoom(Struct, frozen=True, kw_only=True):
    """Room for one more call in the mailbox of this agent, or of any instance of this role."""

    agent: str


AnyCondition = Condition | OnTopic | OnRoom
