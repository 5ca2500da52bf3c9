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
        "https://example.org",
        "https://xn--bcher-kva.example/a",
        "http://127.0.0.1:8080/",
        "http://[::1]:8080/",
        "db://Users/Kim@home",
        "file:///srv/100%25.txt",
        "file:///srv/(a)+{b}.txt",
        "file:///srv/caf\u00e9",
        "file:///",
        "plan",
        "urn:isbn:0451450523",
        "db://x/%2F",
        "note:today...",
    ],
)
def test_a_plain_uri_passes_and_the_server_gets_it_as_it_was_written(uri: str) -> None:
    want = reading.wanted("resources/read", {"uri": uri})
    assert want.name == uri
    assert reading.granted(want, want.args) == {"uri": uri}


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
        "file:///srv/papers/drafts/a.txt/",
        "file:///srv/papers/%2564rafts/a.txt",
        "file:///srv/papers/%252E%252E/a.txt",
        "file:///srv/papers/100%/a.txt",
        "file:///srv/papers/%zz",
        "memo://plan%",
        "%66ile:///srv",
        "\ufb01le:///srv",
        "https://Example.org/a",
        "https://example.org./a",
        "https://example.org:443/a",
        "https://example.org:0443/a",
        "https://example.org:/a",
        "https://kim@example.org/a",
        "https://b\u00fccher.example/a",
        "https://b%C3%BCcher.example/a",
        "https://example\u3002org/a",
        "https:example.org/a",
        "https:/example.org/a",
        "https:///example.org/a",
        "http://127.1/a",
        "http://2130706433/a",
        "http://0x7f000001/a",
        "http://127.0.0.01/a",
        "http://[0:0:0:0:0:0:0:1]/a",
        "http://[::1]:80/a",
        "http://[::1%25lo]/a",
        "http://[::ffff:7f00:1]/a",
        "file:///srv/papers/%C0%AE%C0%AE/a.txt",
        "file:///srv/papers/%E0%80%AE/a.txt",
        "file:///srv/papers/%F0%80%80%AE/a.txt",
        "file:///srv/papers/draft.txt%00.pdf",
        "http://[::1/a",
    ],
)
def test_another_spelling_is_refused(uri: str) -> None:
    with pytest.raises(BadFrame, match="spelled as plainly"):
        reading.wanted("resources/subscribe", {"uri": uri})
