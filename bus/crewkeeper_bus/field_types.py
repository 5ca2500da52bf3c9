"""Field types: what the values in messages may be, with their limits."""

from typing import Annotated, Final

from msgspec import Meta

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,32}\Z", description="a subject token")]
NameOrNone = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{0,32}\Z", description="a subject token, or empty")]
Text = Annotated[str, Meta(max_length=2000)]
TraceContext = Annotated[str, Meta(max_length=64)]
"""W3C `traceparent`; what is none is ignored."""
Seconds = Annotated[float, Meta(ge=0, le=366 * 24 * 3600)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
NAMES_MAX: Final = 256
Names = Annotated[tuple[Name, ...], Meta(max_length=NAMES_MAX)]
TOOL_PATTERN: Final = r"^[A-Za-z_][A-Za-z0-9_-]*(\.[A-Za-z0-9_*-]+)?\Z"
ToolName = Annotated[str, Meta(max_length=128, pattern=TOOL_PATTERN, description="a tool, or tool.function")]
"""As the crew file gives an agent its tools; `*` stands for any characters of a function."""
