"""Approval links over real HTTP: what looking does, what pressing does, and what neither does for a stranger."""

import contextlib
import re
import signal
import socket
import time
from html.parser import HTMLParser

import httpx2
import pytest
from approval_stage import RUN, controlled, crew, scene
from nats_process import python, until

from crewkeeper_bus.errors import ServerError
from crewkeeper_bus.tool_messages import ApprovalDecided
from crewkeeper_supervisor.chaos.real.loopback import free_port
from crewkeeper_supervisor.core.crew import Webhook
from crewkeeper_supervisor.shell.approval_guard import BURST, Guard, Rates
from crewkeeper_supervisor.shell.approval_links import (
    ApprovalKeys,
    Grant,
    LinkRefused,
    approval_keys,
    link,
    opened,
    token,
)
from crewkeeper_supervisor.shell.http_server import CONNECTIONS_MAX
from crewkeeper_supervisor.shell.receiver import Receiver

EVIL = "\x1b[2J\u202e<img src=x onerror=alert(1)>\n</pre><script>alert(1)</script>"
SECRET = "whsec_" + "Y2FuYXJ5LWNhbmFyeS1jYW5hcnktY2FuYXJ5"
KEY = "sk-proj-aB3dE5fG7hI9jK1lM3nO5pQ7rS9tU1vW3xY5z"
KEYS = ApprovalKeys(links="ab" * 32, callback="c" * 43)
GRANT = Grant(run="r1", about="A1-0", act="approve", expires_s=1000, digest="d" * 64, who="ops")


@contextlib.asynccontextmanager
async def served(tmp_path, declared=None, port=0):
    """A run with a controller, and a server of links in its own process; yields the run, a client, the process."""
    port = port or free_port()
    declared = declared or crew(approval_listen=f"127.0.0.1:{port}")
    async with scene(tmp_path, declared) as made, controlled(made):
        await made.begin()
        with serving(tmp_path, port) as process:
            async with client(port) as http:
                await until(lambda: f"approvals http://127.0.0.1:{port}" in process.text())
                yield made, http, process


def serving(tmp_path, port):
    words = ["-m", "crewkeeper_supervisor.cli.main", "approvals", "serve"]
    return python([*words, "--listen", f"127.0.0.1:{port}", "--state", str(tmp_path)], tmp_path / "approvals.log")


def client(port):
    return httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=120)


def path_of(made, approval, decision="approve", /, **changes):
    """The path of a link as the controller makes it, or of one that is otherwise."""
    fields = {"run": made.run, "about": approval.id, "act": decision, "digest": approval.digest}
    fields |= {"expires_s": int(approval.expires_at_s) + 1, "who": approval.who} | changes
    return f"/a/{token(approval_keys(made.server.directory), Grant(**fields))}"


class Tags(HTMLParser):
    """What a page is made of."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs


# --- tokens ---


def test_a_token_opens_to_what_it_was_made_for():
    assert opened(KEYS, token(KEYS, GRANT), 999.9) == GRANT
    assert link(KEYS, "https://ops.example/x/", GRANT).startswith("https://ops.example/x/a/")


def test_a_token_that_was_changed_anywhere_is_refused():
    made = token(KEYS, GRANT)
    for at, char in enumerate(made):
        other = "A" if char != "A" else "B"
        with pytest.raises(LinkRefused):
            opened(KEYS, made[:at] + other + made[at + 1 :], 0)
    for bad in ("", ".", made[:-1], f"{made}A", f"{made}.x", made.replace(".", ""), "é" + made, "A" * 5000, made + "="):
        with pytest.raises(LinkRefused):
            opened(KEYS, bad, 0)


def test_a_token_of_another_key_or_too_late_is_refused():
    other = ApprovalKeys(links="ac" * 32, callback=KEYS.callback)
    with pytest.raises(LinkRefused, match="made with a key that is no longer used"):
        opened(KEYS, token(other, GRANT), 0)
    with pytest.raises(LinkRefused, match="time of this link is over"):
        opened(KEYS, token(KEYS, GRANT), 1000)


def test_keys_are_private_made_once_and_never_shown(tmp_path):
    keys = approval_keys(tmp_path)
    assert approval_keys(tmp_path) == keys
    path = tmp_path / "keys" / "approvals.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert keys.links not in repr(keys)
    assert keys.callback not in repr(keys)
    path.chmod(0o644)
    with pytest.raises(ServerError, match="0644"):
        approval_keys(tmp_path)


def test_so_much_may_be_asked_and_no_more():
    now_s = [0.0]
    rates = Rates(lambda: now_s[0])
    assert sum(rates.admits("a") for _ in range(200)) == BURST
    assert rates.admits("b")
    now_s[0] = 5.0
    assert sum(rates.admits("a") for _ in range(200)) == 5


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("ops.example", None, 200),
        ("ops.example", "https://ops.example", 200),
        ("127.0.0.1:8790", "http://127.0.0.1:8790", 200),
        ("evil.example", None, 421),
        ("", None, 421),
        ("ops.example:8080", None, 421),
        ("ops.example", "https://evil.example", 403),
        ("ops.example", "http://ops.example", 403),
        ("ops.example", "null", 403),
    ],
)
async def test_only_our_own_names_and_pages_may_ask(host, origin, status):
    sent = []

    async def app(_scope, _receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message):
        sent.append(message)

    headers = [(b"host", host.encode())] + ([(b"origin", origin.encode())] if origin else [])
    guard = Guard(app, ["http://127.0.0.1:8790", "https://ops.example/base"])
    scope = {"type": "http", "method": "POST", "path": "/a/x", "headers": headers, "client": ("127.0.0.1", 1)}
    await guard(scope, None, send)
    assert sent[0]["status"] == status
    assert b"frame-ancestors 'none'" in dict(sent[0]["headers"])[b"content-security-policy"]


# --- the server ---


@pytest.mark.live
async def test_a_webhook_carries_links_of_which_each_counts_once(tmp_path):
    port = free_port()
    with Receiver(SECRET) as receiver:
        hooks = (Webhook(webhook=receiver.url, secret=SECRET, allow_private=True),)
        async with served(tmp_path, crew(escalate=hooks, approval_listen=f"127.0.0.1:{port}"), port) as (
            made,
            http,
            process,
        ):
            approval = await made.ask({"cents": 100, "api_key": KEY})
            await until(lambda: receiver.received)
            body = receiver.received[0].body
            assert body["type"] == "crewkeeper.approval.asked"
            data = body["data"]
            assert (data["id"], data["digest"], data["who"]) == (f"{RUN}.{approval.id}", approval.digest, "finance")
            assert data["args"]["cents"] == 100
            assert KEY not in str(body)
            approve, deny = data["links"]["approve"], data["links"]["deny"]

            # Mail scanners and chat previews fetch links: that must do nothing.
            for _ in range(3):
                page = await http.get(approve)
                assert page.status_code == 200
                assert (await http.head(deny)).status_code == 200
            assert approval.digest in page.text
            assert await made.state(approval) == "pending"

            done = await http.post(
                approve, data={"by": "Kim", "reason": "fine"}, headers={"origin": f"http://127.0.0.1:{port}"}
            )
            assert (done.status_code, "Approved" in done.text) == (200, True), done.text
            assert await made.ran() == [approval.call]
            assert await made.state(approval) == "approved"
            assert made.desk.approvals[approval.id].by == "Kim (link)"
            for again in (approve, deny):
                late = await http.post(again)
                assert late.status_code == 409
                assert "it was approved before by Kim (link): fine" in late.text
                assert (await http.get(again)).status_code == 409
            assert await made.ran() == [approval.call]
            log = process.text()
            assert "approvals.request" in log
            for secret in (approve.rpartition("/")[2], deny.rpartition("/")[2], approval.digest):
                assert secret not in log


@pytest.mark.live
async def test_a_link_is_for_one_action_and_for_its_time_alone(tmp_path):
    async with served(tmp_path) as (made, http, _):
        first, second = await made.ask({"cents": 1}), await made.ask({"cents": 999})
        stale = path_of(made, first, expires_s=int(time.time()) - 1)
        swapped = path_of(made, second, digest=first.digest)
        others = path_of(made, second, who="somebody else")
        broken = path_of(made, first)[:-3] + "AAA"
        for path in (stale, swapped, others, broken, "/a/x"):
            assert (await http.get(path)).status_code == 403
            assert (await http.post(path)).status_code == 403
        assert (await http.post(path_of(made, first, about="A999-0"))).status_code == 404
        assert (await http.post(path_of(made, first, run="gone-1"))).status_code == 404
        assert await made.heard(ApprovalDecided) == []
        assert (await http.post(path_of(made, first, "deny"))).status_code == 200
        assert await made.state(second) == "pending"
        assert await made.ran() == []


@pytest.mark.live
async def test_pages_of_strangers_and_names_of_strangers_do_nothing(tmp_path):
    async with served(tmp_path) as (made, http, _):
        approval = await made.ask()
        path = path_of(made, approval)
        assert (await http.post(path, headers={"origin": "https://evil.example"})).status_code == 403
        assert (await http.post(path, headers={"host": "evil.example"})).status_code == 421
        assert (await http.get(path, headers={"host": "evil.example"})).status_code == 421
        assert (
            await http.post(path, content=b"x" * 20_000, headers={"content-type": "application/x-www-form-urlencoded"})
        ).status_code == 413
        assert (await http.post(path, json={})).status_code == 415
        for method in ("PUT", "DELETE", "PATCH"):
            assert (await http.request(method, path)).status_code == 405
        assert (await http.get("/")).status_code == 404
        assert await made.state(approval) == "pending"


@pytest.mark.live
async def test_hostile_arguments_are_text_and_nothing_else(tmp_path):
    async with served(tmp_path) as (made, http, _):
        approval = await made.ask({EVIL: [EVIL, KEY]})
        page = await http.get(path_of(made, approval))
        tags = Tags(page.text)
        words = "html head meta title style body main h1 dl dt dd pre form label input button"
        assert set(tags.tags) == set(words.split())
        known = {"lang", "charset", "name", "content", "method", "autocomplete", "maxlength", "type"}
        assert {name for name, _ in tags.attributes} <= known
        assert not re.search(r"[\x00-\x09\x0b-\x1f\u202e]", page.text)
        assert KEY not in page.text
        assert "http" not in page.text.replace("http-equiv", "")
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert page.headers["cache-control"] == "no-store"
        done = await http.post(path_of(made, approval, "deny"), data={"by": EVIL, "reason": EVIL})
        assert set(Tags(done.text).tags) <= {"html", "head", "meta", "title", "style", "body", "main", "h1", "p"}


@pytest.mark.live
async def test_other_systems_decide_with_the_token_alone(tmp_path):
    async with served(tmp_path) as (made, http, process):
        approval = await made.ask()
        path = f"/v1/approvals/{RUN}.{approval.id}"
        bearer = {"authorization": f"Bearer {approval_keys(tmp_path).callback}"}
        wish = {"decision": "approve", "digest": approval.digest, "by": "change board", "reason": "CAB-7"}
        for headers in (
            {},
            {"authorization": "Bearer x"},
            {"authorization": f"Basic {approval_keys(tmp_path).callback}"},
        ):
            refused = await http.post(path, json=wish, headers=headers)
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert (await http.get(path)).status_code == 401
        assert (await http.get(path, headers=bearer)).json()["state"] == "pending"
        for wrong, status in (
            (wish | {"digest": "0" * 64}, 403),
            (wish | {"decision": "maybe"}, 400),
            (wish | {"extra": 1}, 400),
            ([], 400),
        ):
            assert (await http.post(path, json=wrong, headers=bearer)).status_code == status
        assert (await http.post("/v1/approvals/nothing", json=wish, headers=bearer)).status_code == 404
        assert (await http.post(path + "9", json=wish, headers=bearer)).status_code == 404
        assert await made.ran() == []

        done = await http.post(path, json=wish, headers=bearer)
        assert (done.status_code, done.json()["state"], done.json()["outcome"]) == (200, "approved", "decided"), (
            done.text
        )
        assert done.json()["by"] == "change board (callback)"
        assert await made.ran() == [approval.call]
        again = await http.post(path, json=wish | {"decision": "deny"}, headers=bearer)
        assert (again.status_code, again.json()["outcome"]) == (409, "late")
        assert approval_keys(tmp_path).callback not in process.text()


@pytest.mark.live
async def test_links_outlive_everything_that_is_killed(tmp_path):
    port = free_port()
    controllers = ["-m", "crewkeeper_supervisor.cli.main", "serve", "--state", str(tmp_path)]
    async with scene(tmp_path, crew(approval_listen=f"127.0.0.1:{port}")) as made:
        with python(controllers, tmp_path / "c1.log") as first, serving(tmp_path, port) as site:
            await made.begin()
            approval = await made.ask()
            path = path_of(made, approval)
            await until(lambda: f":{port}" in site.text())
            for process in (first, site):
                process.send(signal.SIGKILL)
                process.end()
        with python(controllers, tmp_path / "c2.log"), serving(tmp_path, port) as site:
            async with client(port) as http:
                await until(lambda: site.text().count(f":{port}") >= 2)
                done = await http.post(path)
                assert done.status_code == 200, done.text

                async def ran():
                    return await made.ran() == [approval.call]

                await until(ran)
                assert (await http.post(path)).status_code == 409


@pytest.mark.live
async def test_connections_on_which_nothing_comes_are_given_up(tmp_path):
    async with served(tmp_path) as (_, http, _process):
        with contextlib.ExitStack() as stack:
            for _ in range(CONNECTIONS_MAX + 10):
                idle = stack.enter_context(socket.create_connection(("127.0.0.1", http.base_url.port)))
                idle.sendall(b"GET /a/x HTTP/1.1\r\nHost: ")
            assert (await http.get("/a/x")).status_code == 503

            async def answered():
                return (await http.get("/a/x")).status_code == 403

            await until(answered)


@pytest.mark.live
async def test_too_many_requests_are_turned_away(tmp_path):
    async with served(tmp_path) as (_, http, _process):
        statuses = []

        async def turned_away():
            statuses.append((await http.get("/a/x")).status_code)
            return statuses[-1] == 429

        await until(turned_away)
        assert set(statuses) == {403, 429}
        assert len(statuses) > BURST


@pytest.mark.live
async def test_the_server_ends_when_told_and_says_what_is_wrong(tmp_path, capsys):
    async with scene(tmp_path) as made:
        port = free_port()
        with serving(tmp_path, port) as process:
            await until(lambda: f":{port}" in process.text())
            assert await made.act("approvals", "serve", "--listen", f"127.0.0.1:{port}", "--state", str(tmp_path)) == 1
            assert "cannot listen" in capsys.readouterr().err
            process.send(signal.SIGTERM)
            await until(lambda: process.process.poll() is not None)
            assert process.process.returncode == 0
        assert await made.act("approvals", "serve", "--listen", "nowhere", "--state", str(tmp_path)) == 3
        assert await made.act("approvals", "token", "--state", str(tmp_path)) == 0
        assert capsys.readouterr().out.strip() == approval_keys(tmp_path).callback
