"""The page and /api of a real `gapwatch run`: what they say is so, OpenAPI tells it, and only who may look does."""

import http.client
import json
import re
import signal
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from building import ACCOUNT, ROLE
from conftest import Gapwatch, start_gapwatch
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from page_scene import ADMIN, EVIL, HOSTILE_TEXTS, MFA, STRANGER, day_text, key_text, write_scene
from test_run import Running, wait_for

from processor.page.access import Access, is_loopback, read_access
from processor.page.openapi import ROUTES
from processor.page.site import find_next
from processor.settings import PageSettings
from processor.settings_error import SettingsError

TOKEN = "0123456789abcdef-secret"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The scene, restarted once, so that facets and days are in the store only."""
    folder = tmp_path_factory.mktemp("page")
    args = [*write_scene(folder), "--state", folder / "state"]
    for start in range(2):
        with Running(*args) as found:
            found.wait_ready()
            found.wait_classes(10, use=44, denied=7)
            if start:
                yield found
            assert found.stop() == 0, found.said


def ask(running: "Running | Elsewhere", path: str, **headers: str) -> tuple[int, dict[str, str], str]:
    """Status, headers and text; redirects are not followed."""
    place = urllib.parse.urlsplit(running.url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port or 0, timeout=10)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read().decode()
    finally:
        connection.close()


def read(running: "Running | Elsewhere", path: str) -> Any:
    status, _, text = ask(running, path)
    assert status == 200, text
    return json.loads(text)


# --- what is said -----------------------------------------------------------------------------------------------------


def test_the_fleet_is_sorted_by_gap_and_searched(running: Running) -> None:
    fleet = read(running, "/api/principals")
    assert [row["arn"] for row in fleet["principals"]] == [EVIL, ADMIN, ROLE, STRANGER], "no inventory: last"
    assert (fleet["total"], fleet["matched"], fleet["window"]) == (4, 4, "30d")
    indexes = [row["windows"][1]["gap_index"] for row in fleet["principals"] if row["windows"]]
    assert indexes == sorted(indexes, reverse=True)
    found = read(running, "/api/principals?q=BUILD&size=1")
    assert [row["arn"] for row in found["principals"]] == [ROLE]
    assert found["principals"][0]["path"] == f"/principals/{key_text(ROLE)}"
    second = read(running, "/api/principals?size=1&page=2&sort=name")
    assert (second["page"], second["pages"], second["principals"][0]["arn"]) == (2, 4, ROLE)
    assert read(running, "/api/principals?risk=credentials_exposure")["matched"] == 3
    assert read(running, "/api/principals?account=1")["matched"] == 0


def test_the_numbers_are_those_of_the_report(running: Running, gapwatch: Gapwatch) -> None:
    found = read(running, f"/api/principals/{key_text(ROLE)}")
    (window,) = (each for each in found["windows"] if each["window"] == "30d")
    metrics = running.read("gapwatch_gap_grants", principal=ROLE, window="30d", account=ACCOUNT)
    assert {name: window[name] for name in metrics} == metrics
    assert {name: window[name] for name in ("used", "unused", "unobservable")} == {
        "used": 1, "unused": 3, "unobservable": 1
    }  # fmt: skip
    (listed,) = read(running, "/api/principals?q=builder")["principals"]
    assert listed["windows"] == found["windows"]
    assert found["tags"] == {"team": "blue", HOSTILE_TEXTS[0]: HOSTILE_TEXTS[1]}
    assert [(each["reason"], each["count"], each["services"]) for each in found["unobservable"]] == [
        ("data_events_off", 1, {"s3": 1})
    ]
    services = {each["service"]: each for each in found["services"]}
    assert services["ec2"]["unused"] == {"7d": 1, "30d": 1}
    assert services["ec2"]["verdict"] == {"7d": "used", "30d": "used"}


def test_an_action_has_its_evidence(running: Running) -> None:
    (found,) = read(running, f"/api/principals/{key_text(ROLE)}/actions?action=IAM:createaccesskey")["actions"]
    assert found["action"] == "iam:CreateAccessKey"
    assert found["verdict"] == {"7d": "unused", "30d": "unused"}
    assert found["risk"][0] == "privilege_escalation"
    assert "no use is known" in found["because"]["30d"]
    assert found["granted_by"][0]["policy"] == "inline-work"
    assert found["granted_by"][0]["statement"] == "Work"
    (refused,) = read(running, f"/api/principals/{key_text(ROLE)}/actions?action=ec2:RunInstances")["actions"]
    assert (refused["usage"]["count"], refused["usage"]["denied"]) == (0, 7)


def test_what_is_in_the_store_only_is_shown(running: Running) -> None:
    answer = read(running, f"/api/principals/{key_text(EVIL)}/actions?action=s3:CreateBucket")
    (found,) = answer["actions"]
    assert answer["whole"]
    assert set(found["usage"]["operators"]["seen"]) == set(HOSTILE_TEXTS)
    assert set(found["usage"]["resources"]["seen"]) == {f"arn:aws:s3:::{text}" for text in HOSTILE_TEXTS}
    assert json.loads(found["granted_by"][0]["condition"]) == MFA
    timeline = read(running, f"/api/principals/{key_text(ROLE)}/timeline")
    assert timeline["whole"]
    assert len(timeline["days"]) == 30
    days = {day["day"]: day["uses"] for day in timeline["days"]}
    assert [days[day_text(ago)] for ago in (29, 20, 4, 3, 1)] == [1, 1, 1, 0, 0]
    assert sum(days.values()) == 26


def test_actions_are_narrowed_and_the_risky_unused_come_first(running: Running) -> None:
    path = f"/api/principals/{key_text(ADMIN)}/actions"
    notable = read(running, path)
    assert notable["matched"] > 1_000
    assert "privilege_escalation" in notable["actions"][0]["risk"]
    assert notable["actions"][0]["verdict"]["30d"] == "unused"
    everything = read(running, f"{path}?show=all")
    assert everything["matched"] > 20_000
    assert read(running, f"{path}?verdict=used")["matched"] == 1
    assert {each["action"].partition(":")[0] for each in read(running, f"{path}?service=sqs")["actions"]} == {"sqs"}
    last = read(running, f"{path}?show=all&page=999999&size=200")
    assert last["page"] == last["pages"] == -(-everything["matched"] // 200)
    stranger = read(running, f"/api/principals/{key_text(STRANGER)}/actions?verdict=not_granted")
    assert [each["action"] for each in stranger["actions"]] == ["ec2:StopInstances"]


def test_the_policy_is_of_what_was_used(running: Running) -> None:
    found = read(running, f"/api/principals/{key_text(ROLE)}/policy")
    (document,) = found["documents"]
    assert {each["Sid"]: (each["Action"], each["Resource"]) for each in document["Statement"]} == {
        "UsedEc2": (["ec2:DescribeInstances"], ["*"]),
        "KeptUnobservableDataEventsOffS3": (["s3:GetObject"], ["*"]),
    }
    week = read(running, f"/api/principals/{key_text(ROLE)}/policy?window=7d")
    assert (week["window"], week["counts"]["used"]) == ("7d", 1)
    _, _, text = ask(running, f"/principals/{key_text(ROLE)}?policy=7d")
    assert "used in 7d: what is used less often" in text
    evil = read(running, f"/api/principals/{key_text(EVIL)}/policy")
    used = next(each for each in evil["documents"][0]["Statement"] if each["Sid"] == "UsedS3")
    assert used["Resource"] == [f"arn:aws:s3:::{HOSTILE_TEXTS[1]}"]
    assert used["Condition"] == MFA
    status, _, text = ask(running, f"/api/principals/{key_text(STRANGER)}/policy")
    assert (status, "no inventory has this principal" in text) == (404, True)


# --- OpenAPI ----------------------------------------------------------------------------------------------------------


def test_openapi_tells_what_is_answered(running: Running) -> None:
    document = read(running, "/api/openapi.json")
    validate(document)
    assert set(document["paths"]) == {route.path for route in ROUTES}
    for route in ROUTES:
        for arn in (ROLE, ADMIN, EVIL, *((STRANGER,) if "policy" not in route.path else ())):
            answer = read(running, route.path.format(key=key_text(arn)))
            schema = document["paths"][route.path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
            check_schema(document, schema, answer)
    for path in ("/api/principals/0", "/api/principals?size=0", "/api/nothing", "/api/principals?window=5d"):
        status, headers, text = ask(running, path)
        assert (status in (400, 404), headers["Content-Type"]) == (True, "application/json"), path
        check_schema(document, {"$ref": "#/components/schemas/ErrorAnswer"}, json.loads(text))


def check_schema(document: Any, schema: Any, answer: Any) -> None:
    """The answer is as the document says, and has no field that it does not name."""
    closed = json.loads(json.dumps(document["components"]))
    for component in closed["schemas"].values():
        component["additionalProperties"] = False
    Draft202012Validator({**schema, "components": closed}).validate(answer)


def test_every_parameter_of_the_document_is_taken(running: Running) -> None:
    document = read(running, "/api/openapi.json")
    for path, item in document["paths"].items():
        for parameter in item["get"]["parameters"]:
            if parameter["in"] == "query":
                schema = parameter["schema"]
                wrong = "x" if schema.get("type") == "integer" else "y" * (schema.get("maxLength", 300) + 1)
                status, _, text = ask(running, f"{path.format(key=key_text(ROLE))}?{parameter['name']}={wrong}")
                assert status == 400, (path, parameter)
                assert parameter["name"] in text


# --- HTML -------------------------------------------------------------------------------------------------------------


class Elements(HTMLParser):
    """The tags of a page, and whether each was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "br", "input", "rect"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag != "rect":
            assert self.open.pop() == tag


PAGES = (
    "/",
    "/?q=%22%3E%3Cscript%3Ealert(9)%3C/script%3E",
    "/?sort=name",
    f"/principals/{key_text(EVIL)}?show=all",
    f"/principals/{key_text(ROLE)}",
    f"/principals/{key_text(STRANGER)}",
    f"/principals/{key_text(ADMIN)}?verdict=unused",
)


@pytest.mark.parametrize("path", PAGES)
def test_pages_are_well_formed_and_no_name_is_markup(running: Running, path: str) -> None:
    status, headers, text = ask(running, path)
    assert status == 200, text
    elements = Elements()
    elements.feed(text)
    elements.close()
    assert elements.open == []
    scripts = [attributes for tag, attributes in elements.found if tag == "script"]
    assert [set(found) for found in scripts] == [{"src", "defer"}]
    assert not any(tag == "img" for tag, _ in elements.found)
    assert not any(name.startswith("on") or name == "style" for _, found in elements.found for name in found)
    assert "\u202e" not in text
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"
    assert "Set-Cookie" not in headers


def test_hostile_names_are_shown_as_they_are(running: Running) -> None:
    _, _, text = ask(running, f"/principals/{key_text(EVIL)}?action=s3:CreateBucket")
    assert "\\u202egnp.exe" in text
    assert "&lt;img src=x onerror=alert(3)&gt;" in text
    assert "{{ 7 * 7 }}" in text
    assert "49{%" not in text


def test_links_on_the_pages_lead_somewhere(running: Running) -> None:
    seen: set[str] = set()
    for page in ("/", f"/principals/{key_text(ROLE)}", f"/principals/{key_text(EVIL)}"):
        _, _, text = ask(running, page)
        elements = Elements()
        elements.feed(text)
        hrefs = {found["href"] or "" for tag, found in elements.found if tag in ("a", "link") and found.get("href")}
        ids = {found.get("id") for _, found in elements.found}
        for href in hrefs:
            if href.startswith("#"):
                assert href[1:] in ids
            seen.add(href.partition("#")[0])
    seen.discard("")
    assert len(seen) > 30
    for path in seen:
        status, _, text = ask(running, path)
        assert status == 200, (path, text)


def test_dashboards_and_alerts_find_a_principal_by_its_arn(running: Running) -> None:
    query = urllib.parse.urlencode({"arn": EVIL, "action": "iam:PassRole"})
    status, headers, _ = ask(running, f"/principals?{query}")
    assert (status, headers["Location"]) == (303, f"/principals/{key_text(EVIL)}?action=iam:PassRole")
    status, headers, _ = ask(running, "/principals?arn=arn:aws:iam::1:role/none")
    assert (status, headers["Location"]) == (303, "/?q=arn:aws:iam::1:role/none")


def test_what_is_wrong_is_said(running: Running) -> None:
    for path, status, words in (
        ("/principals/ffffffffffffffff", 404, "no principal has the key"),
        ("/principals/..", 404, ""),
        ("/?sort=sideways", 400, "sort"),
        ("/?window=3d", 400, "7d, 30d"),
        ("/?page=1e9", 400, "page"),
    ):
        found, _, text = ask(running, path)
        assert (found, words in text) == (status, True), (path, text)


def test_a_foreign_host_is_refused_but_for_metrics(running: Running) -> None:
    assert ask(running, "/", Host="evil.example")[0] == 421
    assert ask(running, "/api/status", Host="evil.example:80")[0] == 421
    assert ask(running, "/metrics", Host="prometheus.internal")[0] == 200
    assert ask(running, "/", Host="[::1]:9464")[0] == 200
    assert ask(running, "/", Host="localhost")[0] == 200


# --- the token --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Bound to all addresses, with a token."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "token").write_text(TOKEN + "\n")
    with Running(*write_scene(folder), "--host", "0.0.0.0", "--token-file", folder / "token") as found:  # noqa: S104 - that is the case
        found.wait_ready()
        yield found
        assert TOKEN not in found.said
        assert found.stop() == 0


def test_page_and_api_ask_for_the_token_and_metrics_do_not(guarded: Running) -> None:
    for path in ("/metrics", "/healthz", "/readyz"):
        assert ask(guarded, path)[0] == 200
    status, headers, _ = ask(guarded, "/?q=x&sort=name")
    assert status == 303
    place = urllib.parse.urlsplit(headers["Location"])
    assert (place.path, urllib.parse.parse_qs(place.query)) == ("/login", {"next": ["/?q=x&sort=name"]})
    status, headers, text = ask(guarded, "/api/principals")
    assert (status, headers["WWW-Authenticate"][:6]) == (401, "Bearer")
    assert "arn:" not in text
    assert ask(guarded, "/api/principals", Authorization=f"Bearer {TOKEN}x")[0] == 401
    assert ask(guarded, "/api/principals", Authorization=f"Basic {TOKEN}")[0] == 401
    assert ask(guarded, "/api/principals", Authorization=f"bearer {TOKEN}", Host="anything.example")[0] == 200
    assert ask(guarded, "/principals?arn=x")[0] == 303
    assert "role" not in ask(guarded, "/login")[2].partition("<main")[2].replace('role="alert"', "")


def test_the_login_gives_a_cookie_that_can_do_no_harm(guarded: Running) -> None:
    def post(token: str, target: str) -> tuple[int, Any, str]:
        place = urllib.parse.urlsplit(guarded.url)
        connection = http.client.HTTPConnection(place.hostname or "", place.port or 0, timeout=10)
        body = urllib.parse.urlencode({"token": token, "next": target})
        connection.request("POST", "/login", body, {"Content-Type": "application/x-www-form-urlencoded"})
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, answer.headers, text

    begun = time.monotonic()
    status, headers, text = post("wrong", "/")
    assert (status, "not the token" in text, headers["Set-Cookie"]) == (403, True, None)
    assert time.monotonic() - begun >= 1
    status, headers, _ = post(TOKEN, "/?q=builder")
    assert (status, headers["Location"]) == (303, "/?q=builder")
    cookie = headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert TOKEN not in cookie
    value = cookie.partition(";")[0]
    assert ask(guarded, "/", Cookie=value)[0] == 200
    name, _, session = value.partition("=")
    end, _, signed = session.partition(".")
    for bad in (
        f"{int(end) + 1}.{signed}",
        f"{end}.",
        f"{end}.{signed[:-1]}0" if signed[-1] != "0" else f"{end}.{signed[:-1]}1",
        "x",
    ):
        assert ask(guarded, "/", Cookie=f"{name}={bad}")[0] == 303
    assert post(TOKEN, "//evil.example/")[1]["Location"] == "/"


def test_it_refuses_to_be_open_to_the_network(tmp_path: Path, gapwatch: Gapwatch) -> None:
    args = write_scene(tmp_path)
    ran = gapwatch("run", *args, "--host", "0.0.0.0")  # noqa: S104 - that is the case
    assert ran.code == 2
    assert ran.stderr.count("\n") == 1
    assert "--token-file" in ran.stderr
    assert "serve = false" in ran.stderr
    settings = tmp_path / "plain.toml"
    settings.write_text("[run]\nport = 0\n[page]\nserve = false\n")
    args[args.index("--config") + 1] = settings
    with Running(*args, "--host", "0.0.0.0") as running:  # noqa: S104 - metrics only
        running.wait_ready()
        assert ask(running, "/metrics")[0] == 200
        assert ask(running, "/")[0] == ask(running, "/api/status")[0] == 404


@pytest.mark.parametrize(
    ("text", "says"),
    [(None, "No such file"), ("short", "16 to"), ("\x00" * 20, "printable"), ("é" * 20, "printable"), ("", "16 to")],
)
def test_a_token_that_is_none_is_refused(tmp_path: Path, text: str | None, says: str) -> None:
    path = tmp_path / "token"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SettingsError, match=says):
        read_access("127.0.0.1", PageSettings(token_file=str(path)))


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("LOCALHOST", True), ("0.0.0.0", False),  # noqa: S104 - cases
     ("::", False), ("10.0.0.1", False), ("", False), ("example.com", False), ("localhost.example.com", False)],
)  # fmt: skip
def test_what_is_a_loopback_address(host: str, expected: bool) -> None:
    assert is_loopback(host) == expected


@pytest.mark.parametrize("target", ["//x", "/\\x", "https://x", "", "x", "/\nx", "/\u202e", "javascript:alert(1)"])
def test_after_the_login_one_stays_here(target: str) -> None:
    assert find_next(target) == "/"


def test_a_session_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000_000.0
    access = Access(TOKEN, frozenset(), lambda: now)
    value = access.open_session()
    assert access._is_session(value)
    now += 12 * 3600
    assert not access._is_session(value)
    assert not Access("another token of 16", frozenset(), lambda: 0.0)._is_session(value)


# --- the demo ---------------------------------------------------------------------------------------------------------


def test_the_demo_serves_the_page_and_its_stories_lead_there() -> None:
    process = start_gapwatch("demo", "--weeks", 1, stdin=subprocess.DEVNULL)
    try:
        assert process.stdout is not None
        said = process.stdout.readline().decode()
        found = re.search(r"Page: (http\S+)/ ", said)
        assert found, said
        demo = Elsewhere(found[1])
        wait_for(lambda: ask(demo, "/api/principals?q=break-glass")[0] == 200, 60)
        wait_for(lambda: read(demo, "/api/principals?q=ci-deployer")["matched"] > 0, 60)
        _, _, stories = ask(demo, "/stories")
        assert 'href="/stories">Stories</a>' in ask(demo, "/")[2]
        (link,) = set(re.findall(r'href="(/principals\?arn=[^"]*ci-deployer&amp;action=iam%3APassRole)"', stories))
        status, headers, _ = ask(demo, link.replace("&amp;", "&"))
        assert (status, headers["Location"].endswith("?action=iam:PassRole")) == (303, True)
        assert ask(demo, headers["Location"])[0] == 200
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)


@dataclass(frozen=True)
class Elsewhere:
    """Something that serves and was not started by Running."""

    url: str


# --- when things are away ---------------------------------------------------------------------------------------------


def test_a_page_comes_while_the_store_is_away(tmp_path: Path) -> None:
    from processor.shell.embedded import start_redis

    redis = start_redis(tmp_path / "redis")
    try:
        with Running(*write_scene(tmp_path), "--redis", redis.url) as running:
            running.wait_ready()
            running.wait_classes(10, use=44, denied=7)
            redis.stop()
            wait_for(lambda: read(running, "/api/status")["store_waiting"], 10)
            begun = time.monotonic()
            status, _, text = ask(running, f"/principals/{key_text(ROLE)}")
            assert (status, "The store does not answer" in text) == (200, True)
            assert time.monotonic() - begun < 6
            assert not read(running, f"/api/principals/{key_text(ROLE)}/timeline")["whole"]
            assert re.search(r"<bdi>builder</bdi>", ask(running, "/")[2])
    finally:
        redis.stop()
