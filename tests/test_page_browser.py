"""The page in a real Chromium: what an on-call does with it, hostile names that do nothing, and accessibility by axe."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from building import ROLE
from page_scene import ADMIN, EVIL, HOSTILE_TEXTS, key_text, write_scene
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
from test_run import Running

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run", "--disable-quic", "--disable-dev-shm-usage",
)  # fmt: skip
PHONE = {"width": 390, "height": 800}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("browser")
    with Running(*write_scene(folder)) as found:
        found.wait_ready()
        found.wait_classes(10, use=44, denied=7)
        yield found
        assert found.stop() == 0, found.said


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None and os.environ.get("CI") == "true":
        pytest.fail("chromium is missing: apt-get install chromium")
    if CHROMIUM is None:
        pytest.skip("chromium is not here")
    with sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield found
        found.close()


class Watched:
    """A browser's page whose dialogs, console messages and requests are noted."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.page: Page = context.new_page()
        self.url = url
        self.dialogs: list[str] = []
        self.console: list[str] = []
        self.requests: list[str] = []
        self.page.on("dialog", self._note_dialog)
        self.page.on("console", lambda message: self.console.append(message.text))
        self.page.on("pageerror", lambda error: self.console.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def _note_dialog(self, dialog: Any) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def open(self, path: str) -> Page:
        self.page.goto(self.url + path)
        return self.page

    def check_quiet(self) -> None:
        """Nothing ran that should not, nothing was refused by the policy, nothing came from elsewhere."""
        assert self.dialogs == []
        assert self.console == []
        assert all(url.startswith(self.url) for url in self.requests)


@pytest.fixture
def watched(browser: Browser, running: Running) -> Iterator[Watched]:
    context = browser.new_context()
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=running.url)
    found = Watched(context, running.url)
    yield found
    found.check_quiet()
    context.close()


def test_from_the_worst_role_to_the_evidence_and_the_policy(watched: Watched, running: Running) -> None:
    rows = json.loads(running.get("/api/principals")[1])["principals"]
    widest = max(rows, key=lambda row: (row["windows"] or [{"gap_index": -1}])[-1]["gap_index"])
    page = watched.open("/")
    worst = page.locator("tbody tr").first
    expect(worst.locator("th small")).to_have_text(widest["arn"])
    worst.get_by_role("link").click()
    expect(page.locator("p.arn")).to_have_text(widest["arn"])
    page = watched.open("/")
    page.get_by_label("Search").fill("team/builder")
    page.get_by_role("button", name="Show").click()
    worst = page.locator("tbody tr").first
    expect(worst).to_contain_text("builder")
    worst.get_by_role("link").click()
    expect(page).to_have_title("builder · gapwatch")
    page.locator("#gap ~ .scroll").first.get_by_role("link", name="privilege escalation").last.click()
    found = page.locator(".actions details").first
    expect(found.locator("summary")).to_contain_text("iam:CreateAccessKey")
    if found.get_attribute("open") is None:
        found.locator("summary").click()
    expect(found).to_contain_text("no use is known, though the log is known since")
    expect(found).to_contain_text("inline-work")
    expect(found).to_contain_text("statement Work")
    page.get_by_role("button", name="Copy").first.click()
    expect(page.locator(".copied").first).to_have_text("Copied.")
    copied = json.loads(page.evaluate("navigator.clipboard.readText()"))
    _, text = running.get(f"/api/principals/{key_text(ROLE)}/policy")
    assert copied == json.loads(text)["documents"][0]
    assert copied["Statement"][0]["Action"] == ["ec2:DescribeInstances"]


def test_hostile_names_do_nothing(watched: Watched) -> None:
    page = watched.open("/")
    row = page.locator("tbody tr", has_text="evil")
    expect(row.locator("th small")).to_have_text(EVIL)
    row.get_by_role("link").click()
    expect(page.locator("p.arn")).to_have_text(EVIL)
    page.locator("details").evaluate_all("all => all.forEach(each => { each.open = true; })")
    text = page.locator("main").inner_text()
    for shown in (HOSTILE_TEXTS[0], "\\u202egnp.exe", HOSTILE_TEXTS[2], HOSTILE_TEXTS[3], HOSTILE_TEXTS[4]):
        assert shown in text
    assert page.locator("main img, main script").count() == 0
    page.get_by_role("button", name="Copy").first.click()
    expect(page.locator(".copied").first).to_have_text("Copied.")
    copied = json.loads(page.evaluate("navigator.clipboard.readText()"))
    assert [f"arn:aws:s3:::{HOSTILE_TEXTS[1]}"] in [each.get("Resource") for each in copied["Statement"]]


PLACES = (
    "/",
    f"/principals/{key_text(ROLE)}?action=ec2:DescribeInstances",
    f"/principals/{key_text(ADMIN)}",
    "/principals/0",
)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", PLACES)
def test_axe_finds_no_serious_fault(browser: Browser, running: Running, path: str, scheme: Any) -> None:
    for size in ({"width": 1280, "height": 900}, PHONE):
        context = browser.new_context(color_scheme=scheme, viewport=size, bypass_csp=True)  # axe is put in as a script.
        page = context.new_page()
        page.goto(running.url + path)
        page.locator("details").evaluate_all("all => all.slice(0, 30).forEach(each => { each.open = true; })")
        found = Axe().run(page)
        serious = [
            (each["id"], each["impact"], [node["html"][:200] for node in each["nodes"][:3]])
            for each in found.response["violations"]
            if each["impact"] in ("serious", "critical", "moderate")
        ]
        assert serious == []
        assert len(found.response["passes"]) > 10, "axe has looked at something"
        context.close()


def test_axe_would_find_a_fault(browser: Browser, running: Running) -> None:
    context = browser.new_context(bypass_csp=True)
    page = context.new_page()
    page.goto(running.url)
    page.evaluate("document.querySelector('input[name=q]').parentElement.replaceWith(document.createElement('input'))")
    assert any(each["id"] == "label" for each in Axe().run(page).response["violations"])
    context.close()


def test_all_of_it_works_without_scripts(browser: Browser, running: Running) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(running.url)
    page.get_by_label("Search").fill("builder")
    page.get_by_label("Sort by").select_option("unused")
    page.get_by_role("button", name="Show").click()
    expect(page.locator("tbody tr")).to_have_count(1)
    page.locator("tbody tr a").click()
    page.locator("select[name=verdict]").select_option("unused")
    page.get_by_role("button", name="Show").click()
    expect(page.locator(".actions details")).to_have_count(3)
    page.locator(".actions summary").first.click()
    expect(page.locator(".actions .evidence").first).to_be_visible()
    expect(page.locator("pre").first).to_contain_text('"Version": "2012-10-17"')
    assert page.get_by_role("button", name="Copy").count() == 0, "a button that could do nothing is not shown"
    context.close()


@pytest.mark.parametrize("path", PLACES)
def test_nothing_is_wider_than_a_phone(browser: Browser, running: Running, path: str) -> None:
    context = browser.new_context(viewport=PHONE)
    page = context.new_page()
    page.goto(running.url + path)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    context.close()


def test_the_login_in_a_browser(browser: Browser, tmp_path: Path) -> None:
    token = "a-token-of-twenty-two-x"
    (tmp_path / "token").write_text(token)
    with Running(*write_scene(tmp_path), "--token-file", tmp_path / "token") as running:
        running.wait_ready()
        context = browser.new_context()
        watched = Watched(context, running.url)
        page = watched.open("/?q=builder")
        expect(page).to_have_title("Login · gapwatch")
        page.get_by_label("Token").fill(token)
        page.get_by_role("button", name="Look").click()
        expect(page.locator("tbody tr")).to_have_count(1)
        page.locator("tbody tr a").click()
        expect(page.locator("h1")).to_have_text("builder")
        watched.check_quiet()
        context.close()
        assert running.stop() == 0
