"""What a crew file says about its model proxy: checked together, and made into what the proxy takes."""

from typing import Any, Final

from crewkeeper_supervisor.core.model_proxy import ModelProxy, Upstream
from crewkeeper_supervisor.shell.crew_problems import shown
from crewkeeper_supervisor.shell.crew_proxy_format import ANTHROPIC_URL, OPENAI_URL
from crewkeeper_supervisor.shell.crew_reading import INVALID, Reading
from crewkeeper_supervisor.shell.crew_variables import names_in, upstream_values
from crewkeeper_supervisor.shell.place import is_loopback

PROVIDER_VARIABLES: Final = (
    "OPENAI_API_KEY",
    "OPENAI_ADMIN_KEY",
    "OPENAI_BASE_URL",
    "OPENAI_ORG_ID",
    "OPENAI_PROJECT_ID",
    "ANTHROPIC_API_KEY",
    "ANTHROPIC_AUTH_TOKEN",
    "ANTHROPIC_BASE_URL",
)
"""Variables by which the providers' own clients find their way: no agent of a crew with a proxy inherits them."""
_DEFAULTS: Final = {
    "openai": Upstream(url=OPENAI_URL, key="${OPENAI_API_KEY}"),
    "anthropic": Upstream(url=ANTHROPIC_URL, key="${ANTHROPIC_API_KEY}"),
}
_UNITS: Final = {"body": "body_bytes", "hold": "hold_s"}


def withheld(declared: ModelProxy | None) -> frozenset[str]:
    """Environment variables that no agent inherits because of the proxy: the providers' and those its keys are in."""
    if declared is None:
        return frozenset()
    named = names_in(*(text for _, text in upstream_values(declared)))
    return frozenset((*named, *PROVIDER_VARIABLES))


class ProxyChecks:
    """What the keys about a model proxy mean together. Values already refused are passed over.

    Args:
        reading: The walk that read the file; problems go there.
        surface: What it read.
    """

    def __init__(self, reading: Reading, surface: dict[str, Any]) -> None:
        """Hold them."""
        self.reading = reading
        self.surface = surface

    def run(self) -> None:
        """Note every problem."""
        proxy = self.surface.get("model_proxy")
        if not isinstance(proxy, dict):
            return
        upstreams = proxy.get("upstreams")
        if isinstance(upstreams, dict):
            self._upstreams(upstreams)
        self._listen(proxy.get("listen"))
        if all(value is not INVALID for value in _values(proxy)):
            self._agents(proxy)

    def _upstreams(self, upstreams: dict[str, Any]) -> None:
        path = ("model_proxy", "upstreams")
        if not upstreams and not any(key[:2] == path and len(key) > 2 for key in self.reading.keys):
            self.reading.add_at_key("CREW-111", path, "no provider is named", "add openai: {} or anthropic: {}")
        for name, given in upstreams.items():
            key = given.get("key") if isinstance(given, dict) else None
            if isinstance(key, str) and key and not names_in(key):
                self.reading.add(
                    "CREW-203",
                    (*path, name, "key"),
                    "the key stands in the file, where everybody who reads it learns it",
                    "put it into the environment and write ${NAME}",
                    warning=True,
                )

    def _listen(self, listen: Any) -> None:
        if not isinstance(listen, str):
            return
        host, _, port = listen.rpartition(":")
        path = ("model_proxy", "listen")
        if int(port) > 65535:
            self.reading.add("CREW-114", path, f"{port} is no port", "use 0 to 65535; 0 is a free one")
        if not is_loopback(host.strip("[]")):
            self.reading.add(
                "CREW-205",
                path,
                f"{shown(host)} can be reached from other machines, and keys of agents cross the network unencrypted",
                "listen on 127.0.0.1, or put something that encrypts in front",
                warning=True,
            )

    def _agents(self, proxy: dict[str, Any]) -> None:
        hidden = withheld(_made(proxy))
        for name, agent in self.surface.get("agents", {}).items():
            env = agent.get("env", {}) if agent is not INVALID else {}
            for variable, value in env.items() if isinstance(env, dict) else ():
                path = ("agents", name, "env", variable)
                used = set(names_in(value)) if isinstance(value, str) else set[str]()
                if variable in PROVIDER_VARIABLES:
                    self.reading.add_at_key(
                        "CREW-119", path, f"{variable} is set because of model_proxy", "remove it, or model_proxy"
                    )
                elif seen := sorted(used & hidden):
                    self.reading.add(
                        "CREW-119",
                        path,
                        f"it gives {seen[0]} to an agent, which only the model proxy may know",
                        "remove it, or model_proxy",
                    )


def proxy_of(surface: dict[str, Any]) -> ModelProxy | None:
    """The model proxy of a file without problems; None: it has none."""
    proxy = surface.get("model_proxy")
    return None if proxy is None else _made(proxy)


def _made(proxy: dict[str, Any]) -> ModelProxy:
    given: dict[str, Any] = {_UNITS.get(key, key): value for key, value in proxy.items() if key != "upstreams"}
    upstreams: dict[str, Any] = {
        name: Upstream(**({"url": default.url, "key": default.key} | proxy["upstreams"][name]))
        for name, default in _DEFAULTS.items()
        if name in proxy.get("upstreams", {})
    }
    return ModelProxy(**given, **upstreams)


def _values(value: Any) -> list[Any]:
    return [leaf for each in value.values() for leaf in _values(each)] if isinstance(value, dict) else [value]
