"""Trace names: what spans and their attributes are called, in one place, because the conventions still change.

Those of generative AI follow OpenTelemetry's conventions of that name (status: development); what these have no word
for stands under `crewkeeper.`.
"""

from typing import Final

# --- operations of generative AI: `<operation> <name>` is the name of a span ---

INVOKE_WORKFLOW: Final = "invoke_workflow"
INVOKE_AGENT: Final = "invoke_agent"
EXECUTE_TOOL: Final = "execute_tool"
CHAT: Final = "chat"

# --- attributes of generative AI ---

OPERATION: Final = "gen_ai.operation.name"
WORKFLOW: Final = "gen_ai.workflow.name"
AGENT_NAME: Final = "gen_ai.agent.name"
CONVERSATION: Final = "gen_ai.conversation.id"
REQUEST_MODEL: Final = "gen_ai.request.model"
PROVIDER: Final = "gen_ai.provider.name"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
CACHED_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
TOOL_NAME: Final = "gen_ai.tool.name"
TOOL_CALL: Final = "gen_ai.tool.call.id"
ERROR_TYPE: Final = "error.type"

# --- messaging ---

MESSAGING: Final = "messaging.system"
DESTINATION: Final = "messaging.destination.name"
MESSAGE: Final = "messaging.message.id"

# --- ours ---

RUN: Final = "crewkeeper.run"
CREW: Final = "crewkeeper.crew"
AGENT: Final = "crewkeeper.agent"
CALL: Final = "crewkeeper.call.id"
VERB: Final = "crewkeeper.verb"
TASK: Final = "crewkeeper.task"
DECISION: Final = "crewkeeper.decision"
"""`allow`, `deny` or `ask`."""
CODE: Final = "crewkeeper.code"
"""Why a call was refused, as its caller was told."""
RULE: Final = "crewkeeper.rule"
POLICY: Final = "crewkeeper.policy"
APPROVAL: Final = "crewkeeper.approval.id"
COMMAND: Final = "crewkeeper.command.id"
COST_USD: Final = "crewkeeper.cost.usd"
FINDING: Final = "crewkeeper.finding.id"
FINDING_KIND: Final = "crewkeeper.finding.kind"
FINDING_AGENTS: Final = "crewkeeper.finding.agents"
VICTIM: Final = "crewkeeper.victim"
STATE: Final = "crewkeeper.state"

RUN_TOOL: Final = "crewkeeper.run_tool"
"""Span: a tool that the gate has let a tool host run."""
DECIDE: Final = "crewkeeper.decide"
"""Span: what the gate decided on one call."""
FOUND: Final = "crewkeeper.finding"
"""Span: one finding."""
ACT: Final = "crewkeeper.act"
"""Span: one thing the supervisor did to an agent: failed a wait, paused, stopped."""
