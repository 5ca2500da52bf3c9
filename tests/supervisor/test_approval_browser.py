"""The form behind an approval link in a real browser: what it shows, what it does, and what a hostile page cannot do.

Needs Chromium, which `.ci/run` installs where it can; `CREWKEEPER_BROWSER` names another one.
"""

import contextlib
import os
import shutil

import pytest
from approval_stage import controlled, crew, scene
from nats_process import until
from test_approval_links import path_of, serving

from crewkeeper_bus.tool_messages import ApprovalDecided
from crewkeeper_supervisor.chaos.real.loopback import free_port
from crewkeeper_supervisor.core.rules import Rule

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = os.environ.get("CREWKEEPER_BROWSER") or next((found for name in NAMES if (found := shutil.which(name))), "")
playwright = pytest.importorskip("playwright.async_api", reason="the package playwright is not installed")
pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(
        not BROWSER,
        reason=f"no browser: none of {', '.join(NAMES)} is on PATH, and CREWKEEPER_BROWSER is not set; "
        "on Debian: apt-get install chromium",
    ),
]

EVIL = "<img src=x onerror=\"document.title='owned';alert(1)\"></dd><script>alert(2)</script><form action='http://evil.test'>"
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextlib.asynccontextmanager
async def browser():
    async with playwright.async_playwright() as drive:
        made = await drive.chromium.launch(executable_path=BROWSER, args=list(FLAGS))
        try:
            yield made
        finally:
            await made.close()


@contextlib.asynccontextmanager
async def tab(made, *, scripts=True):
    """A page, and everything on it that should not be: dialogs, requests to elsewhere."""
    context = await made.new_context(java_script_enabled=scripts)
    strange = []
    page = await context.new_page()
    page.on("dialog", lambda dialog: strange.append(f"dialog {dialog.message}"))
    page.on("request", lambda request: strange.append(request.url) if "127.0.0.1" not in request.url else None)
    try:
        yield page, strange
    finally:
        await context.close()


async def test_a_person_decides_in_a_browser_and_a_hostile_page_does_not(tmp_path):
    port = free_port()
    rules = (Rule(id="ask", do="approve", hop="resource", because=EVIL),)
    declared = crew(approval_listen=f"127.0.0.1:{port}", rules=rules, approval_who="finance")
    async with scene(tmp_path, declared) as made, controlled(made):
        await made.begin()
        with serving(tmp_path, port) as process:
            await until(lambda: f":{port}" in process.text())
            base = f"http://127.0.0.1:{port}"
            asked = [await made.ask({EVIL: [EVIL]}, tool=f"{EVIL}{n}", what="resource", inside=True) for n in range(2)]
            first, second = (base + path_of(made, approval) for approval in asked)
            async with browser() as chromium:
                async with tab(chromium) as (page, strange):
                    await page.goto(first)
                    assert await page.title() == "Approve this call?"
                    assert f"{EVIL}0" in await page.inner_text("dl"), "it is shown as what it is: text"
                    assert await page.locator("img, script, iframe, a, link").count() == 0
                    assert await page.locator("form").count() == 1
                    await page.reload()
                    assert strange == []
                    assert await made.state(asked[0]) == "pending", "looking does nothing"

                    await attack(page, first)
                    assert "another origin" in await page.inner_text("body")
                    assert await made.heard(ApprovalDecided) == []
                    assert await made.state(asked[0]) == "pending", "a page of another origin cannot press the button"

                    await page.goto(first)
                    await page.fill("input[name=by]", "Kim")
                    await page.click("button")
                    assert await page.inner_text("h1") == "Approved"
                    assert await made.state(asked[0]) == "approved"
                    assert made.desk.approvals[asked[0].id].by == "Kim (link)"
                    await page.goto(first)
                    assert await page.inner_text("h1") == "Nothing to do", "it counts once"
                async with tab(chromium, scripts=False) as (page, strange):
                    await page.goto(second)
                    await page.fill("input[name=reason]", "looks fine")
                    await page.click("button")
                    assert await page.inner_text("h1") == "Approved", "no script is needed"
                    assert await made.state(asked[1]) == "approved"
                    assert strange == []


async def attack(page, target):
    """Open a page of somebody else that sends the form by itself."""
    html = f"<form method=post action='{target}'></form><script>document.forms[0].submit()</script>"
    await page.context.route("http://evil.test/", lambda route: route.fulfill(body=html, content_type="text/html"))
    async with page.expect_response(target):
        await page.goto("http://evil.test/", wait_until="commit")
    await page.wait_for_url(target)
    await page.wait_for_load_state()
