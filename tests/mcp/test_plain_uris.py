"""Which resources may be asked for at all: those whose URI has no second spelling that a rule would not know."""

import pytest

from crewkeeper_supervisor.mcp import reading
from crewkeeper_supervisor.mcp.rpc import BadFrame


@pytest.mark.parametrize(
    "uri",
    [
        "file:///srv/papers/drafts/a.txt",
        "file:///srv/a%20b/%C3%A9.md",
        "memo://plan",
        "memo://plan/",
        "test://static/resource/1",
        "https://example.org:8080/a/b?x=../y%2Fz#z",
        "urn:isbn:0451450523",
        "db://x/%2F",
        "note:today...",
    ],
)
def test_a_plain_uri_passes(uri: str) -> None:
    assert reading.wanted("resources/read", {"uri": uri}).name == uri


@pytest.mark.parametrize(
    "uri",
    [
        "FILE:///srv/papers/drafts/a.txt",
        "file:/srv/papers/drafts/a.txt",
        "file://localhost/srv/papers/drafts/a.txt",
        "file:////srv/papers/drafts/a.txt",
        "file:///srv/papers//drafts/a.txt",
        "file:///srv/papers/./drafts/a.txt",
        "file:///srv/papers/x/../drafts/a.txt",
        "file:///srv/papers/x/..",
        "file:///srv/papers/x/..?y",
        "file:///srv/papers/drafts/a.txt?y",
        "file:///srv/papers/drafts/a.txt#y",
        "file:///srv/papers/x\\..\\drafts",
        "file:///srv/papers/%64rafts/a.txt",
        "file:///srv/papers/x/%2E%2E/drafts/a.txt",
        "file:///srv/papers/x/%2e%2e%2fdrafts/a.txt",
        "file:///srv/papers%2fdrafts/a.txt",
        "file:///srv/papers%2Fdrafts/a.txt",
        "file:///srv/papers/x%2F..%2Fdrafts/a.txt",
        "file:///srv/papers/x%5C..%5Cdrafts/a.txt",
        "db://x/y%2F..%2Fdrafts",
        "memo://pl\u200ban",
        "memo://pl an",
        "memo://plan\n",
    ],
)
def test_another_spelling_is_refused(uri: str) -> None:
    with pytest.raises(BadFrame, match="spelled as plainly"):
        reading.wanted("resources/subscribe", {"uri": uri})
