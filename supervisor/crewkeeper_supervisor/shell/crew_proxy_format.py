"""The keys of a crew file about its model proxy, as data."""

from typing import Final

from crewkeeper_supervisor.shell.crew_kinds import Count, Duration, Flag, Key, Section, Size, Text

OPENAI_URL: Final = "https://api.openai.com/v1"
ANTHROPIC_URL: Final = "https://api.anthropic.com"


def _upstream(name: str, url: str, variable: str) -> Section:
    return Section(
        title=f"model_proxy.upstreams.{name}",
        keys=(
            Key(
                name="url",
                kind=Text(variables=True, url=True),
                default=url,
                doc="Where requests go, as the provider's own client wants it.",
            ),
            Key(
                name="key",
                kind=Text(variables=True, empty=True),
                default=f"${{{variable}}}",
                doc="The provider's key, best as `${NAME}`; agents never see it. Empty: none is sent.",
            ),
        ),
    )


UPSTREAMS: Final = Section(
    title="model_proxy.upstreams",
    keys=(
        Key(
            name="openai",
            kind=_upstream("openai", OPENAI_URL, "OPENAI_API_KEY"),
            default="none",
            doc="Whoever speaks as OpenAI does; `{}` is OpenAI.",
        ),
        Key(
            name="anthropic",
            kind=_upstream("anthropic", ANTHROPIC_URL, "ANTHROPIC_API_KEY"),
            default="none",
            doc="Whoever speaks as Anthropic does; `{}` is Anthropic.",
        ),
    ),
)
_SECTION: Final = Section(
    title="model_proxy",
    keys=(
        Key(
            name="upstreams",
            kind=UPSTREAMS,
            required=True,
            default="required",
            doc="The providers, one at least.",
        ),
        Key(
            name="listen",
            kind=Text(max_chars=100, pattern=r"^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}$", hint="host:port"),
            default="127.0.0.1:0",
            doc="Where agents reach it; port 0 is a free one.",
        ),
        Key(
            name="max_output_tokens",
            kind=Count(low=1, high=2**31),
            default="4096",
            doc="What a request that names no limit may bring out; it is reserved.",
        ),
        Key(
            name="body",
            kind=Size(low=1024, high=64 * 1024 * 1024),
            default="8MiB",
            doc="Largest request.",
        ),
        Key(
            name="hold",
            kind=Duration(low_s=1, high_s=7 * 24 * 3600),
            default="1h",
            doc="How long a call is withheld at the longest, while its agent is paused or it waits for people.",
        ),
        Key(
            name="unpriced",
            kind=Flag(),
            default="false",
            doc="Let through requests for services that tokens do not pay: tools run by the provider, faster tiers.",
        ),
    ),
)
MODEL_PROXY: Final = Key(
    name="model_proxy",
    kind=_SECTION,
    default="none",
    doc="Where the agents call models; see model-proxy.md.",
)
