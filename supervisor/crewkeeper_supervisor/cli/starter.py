"""The files that `supervisor init` writes: a commented crew and two small agents. Text only; nothing runs here."""

from typing import Final

SCHEMA_FILE: Final = "crew.schema.json"

CREW_YAML: Final = """\
# yaml-language-server: $schema=./crew.schema.json
# Check this file:  supervisor crew check crew.yaml
# Run the crew:     supervisor up crew.yaml

crew: first                        # at most 20 letters, digits, _ and -
objective: Write a short note and have it reviewed

agents:
  writer:
    run: python writer.py          # a command line; no shell runs
    may_call: [reviewer]           # whom it asks and waits for; [] is nobody
  reviewer:
    run: python reviewer.py
    may_call: []
    # concurrency: 4               # tasks it works on at once (default 1)
    # replicas: 2                  # instances: reviewer-1, reviewer-2

restart:                           # for every agent; an agent may have its own
  policy: transient                # permanent | transient (unless it ended well) | temporary
  intensity: 3                     # at most 3 restarts ...
  period: 60s                      # ... within a minute

responses:                         # what is done about what is found; without this section, what
  deadlock:                        # docs/crew-file.md says, which tells a human where one is needed
    do: [break]                    # fail one wait, so that the others go on
  restart_intensity:
    do: [warn]
  forgery:
    do: [warn]
  intrusion:
    do: [warn]
  survivor:
    do: [warn]
  flood:
    do: [pause, kill]              # held first; ended if it goes on

# To tell a human: take out the section `responses` above, and say where to.
# A secret is made by:   export OPS_WEBHOOK_SECRET=$(supervisor --quiet hooks rotate)
# Try it before it counts:   supervisor hooks test crew.yaml
# escalate:
#   - webhook: "${OPS_WEBHOOK}"    # read from the environment when used
#     secret: "${OPS_WEBHOOK_SECRET}"
#     # format: slack              # or pagerduty, alertmanager, cloudevents
#     # allow_private: true        # for a receiver on this machine or in your own network
"""

WRITER_PY: Final = '''\
"""Writes a note and has it reviewed until it is accepted."""

from crewkeeper_agents import Agent

agent = Agent("writer")


@agent.main
async def main(crew):
    """Write, ask, improve: every wait is visible to the supervisor."""
    note = "agents that wait for each other stop"
    for _ in range(3):
        verdict = await crew.ask("reviewer", {"note": note}, verb="review", timeout_s=30)
        if verdict["accepted"]:
            break
        note = verdict["suggestion"]
    await crew.progress(f"done: {note}")


if __name__ == "__main__":
    agent.run()
'''

REVIEWER_PY: Final = '''\
"""Reviews notes: they begin with a capital and end with a full stop."""

from crewkeeper_agents import Agent

agent = Agent("reviewer")


@agent.handler("review")
async def review(crew, request):
    """Accept the note, or suggest a better one."""
    note = request.body["note"]
    better = note[:1].upper() + note[1:].rstrip(".") + "."
    return {"accepted": note == better, "suggestion": better}


if __name__ == "__main__":
    agent.run()
'''

FILES: Final = {"crew.yaml": CREW_YAML, "writer.py": WRITER_PY, "reviewer.py": REVIEWER_PY}
"""File name to content; `SCHEMA_FILE` is generated."""
