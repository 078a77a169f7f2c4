"""The page at `/`: what is written, and what a person sees in a real browser."""

import base64
import hashlib
import re
import shutil
from collections.abc import Callable, Iterator
from datetime import datetime
from html.parser import HTMLParser

import pytest
from msgspec.structs import replace
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.expected_conditions import text_to_be_present_in_element
from selenium.webdriver.support.wait import WebDriverWait

from infra.journal.journal import Journal
from infra.keys import KeyFile
from models.bundle import Bundle, Card
from models.contract.columns import Category, Contract, Number, Time
from models.figures import Evaluation, Level, PredictionIntervals
from services.access import Access
from services.app import Edge
from services.champion import load
from services.endpoints import Endpoints
from services.following import Following
from services.page import HEADERS, page
from services.predictions import Predictions
from tests.services.conftest import ROW, Caller

WITHIN_S = 20.0
CHROMIUM, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")

needs_chromium = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="wants a browser: apt-get install chromium chromium-driver"
)


class Read(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, html: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def having(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for _, attributes in self.tags if name in attributes]


@pytest.fixture
def card(make_bundle: Callable[..., Bundle]) -> Card:
    return make_bundle().card


def test_every_column_has_its_labelled_field(card: Card) -> None:
    read = Read(page(card))

    fields = read.having("data-kind")
    labelled = [label["for"] for label in read.having("for")]
    assert [(one["name"], one["data-kind"]) for one in fields] == [
        ("starts_at", "local"),
        ("distance", "number"),
        ("weight", "number"),
        ("kind", "text"),
        ("zone", "integer"),
    ]
    assert labelled == ["key", *(one["id"] for one in fields)]
    described = {part for one in fields for part in str(one["aria-describedby"]).split()}
    assert described <= {one["id"] for one in read.having("id")}
    for told in ("distance km", "0 to 100", "weight kg, may be empty", "starts_at America/New_York"):
        assert told in read.text


def test_the_example_is_filled_in(card: Card) -> None:
    values = {one["name"]: one.get("value") for one in Read(page(card)).having("data-kind")}

    assert values == {
        "starts_at": "2020-03-01T08:15:00",
        "distance": "50",
        "weight": "25",
        "kind": None,  # a select shows its first option
        "zone": None,
    }


def test_many_categories_are_searched_and_instants_are_in_utc(card: Card) -> None:
    contract = Contract(
        time=Time(name="at", zone=None, parts=()),
        features=(Category(name="place", values=tuple(range(300))),),
        target=card.contract.target,
    )

    read = Read(page(replace(card, contract=contract)))

    time, place = read.having("data-kind")
    assert (time["data-kind"], time["value"]) == ("instant", "2020-03-01T08:15:00")
    assert place["list"] in [attributes.get("id") for tag, attributes in read.tags if tag == "datalist"]
    assert len([tag for tag, _ in read.tags if tag == "option"]) == 300


def test_nothing_of_a_card_becomes_markup(card: Card) -> None:
    nasty = "</script><script>alert(1)</script>\"'&<img src=x>"
    contract = Contract(
        time=Time(name=nasty.replace("/", "") + "t", zone="UTC", parts=(), description=nasty),
        features=(
            Category(name="<b>", values=(nasty, "b"), description=nasty),
            Number(name='"', unit=nasty, minimum=0, maximum=1),
        ),
        target=Number(name=nasty.replace("/", ""), unit=nasty, minimum=0, maximum=1, description=nasty),
    )
    odd = replace(
        card, model=nasty, version=nasty, contract=contract, slices={nasty: {nasty: 1.0}}, metrics={nasty: 1.0}
    )

    read, plain = Read(page(odd)), Read(page(card))

    assert [tag for tag, _ in read.tags].count("script") == 2
    assert {tag for tag, _ in read.tags} <= {tag for tag, _ in plain.tags} | {"strong"}
    assert not [name for _, attributes in read.tags for name in attributes if name.startswith("on") or name == "src"]
    assert nasty in [attributes.get("value") for tag, attributes in read.tags if tag == "option"]


def test_the_policy_allows_the_one_style_and_the_one_script(card: Card) -> None:
    policy = dict(HEADERS)[b"content-security-policy"].decode()
    html = page(card).decode()

    for tag in ("style", "script"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r'(src|href)="(?!data:,)', html)


def test_shows_the_card(card: Card) -> None:
    text = Read(page(replace(card, slices={"hour": {"0-5": 2.0}}, metrics={"mae": 1.5, "rows": 1234.0}))).text

    for told in ("mean error1.50 min", "rows judged1,234", "2020-01-01 00:00 UTC", card.onnx_digest, "0-52.00 min"):
        assert told in text


def test_the_page_is_answered_at_the_root(client: Caller) -> None:
    answer = client.get("/")

    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert client.request("HEAD", "/").content == b""
    assert client.post("/").status_code == 405


@pytest.fixture
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """A headless Chromium that writes below a folder of its own; it makes a socket there, whose path must be short."""
    folder = tmp_path_factory.mktemp("b")
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", f"user-data-dir={folder / 'chromium'}"):
        options.add_argument(f"--{argument}")
    home = {name: str(folder) for name in ("HOME", "TMPDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")}
    service = webdriver.ChromeService(DRIVER, env={"PATH": "/usr/bin:/bin", **home})
    driver = webdriver.Chrome(options, service)
    yield driver
    driver.quit()


class Visit:
    """What a person does with the page."""

    def __init__(self, browser: webdriver.Chrome, url: str) -> None:
        self._browser = browser
        browser.get(url)

    def fill(self, name: str, value: str) -> None:
        field = self._browser.find_element(By.NAME, name)
        if field.tag_name == "input":
            field.clear()
        field.send_keys(value)

    def enter_key(self, key: str) -> None:
        field = self._browser.find_element(By.ID, "key")
        field.clear()
        field.send_keys(key)

    def send(self) -> None:
        self._browser.find_element(By.CSS_SELECTOR, "button[type=submit]").click()

    def sees(self, selector: str) -> str:
        """Wait until something is shown; give its text."""
        found = WebDriverWait(self._browser, WITHIN_S).until(
            lambda driver: [one for one in driver.find_elements(By.CSS_SELECTOR, selector) if one.is_displayed()]
        )
        return str(found[0].text)

    def comes_to_see(self, selector: str, text: str) -> bool:
        """Wait until what is shown, perhaps in place of something else, has a text."""
        wait = WebDriverWait(self._browser, WITHIN_S, ignored_exceptions=[StaleElementReferenceException])
        return bool(wait.until(text_to_be_present_in_element((By.CSS_SELECTOR, selector), text)))

    def focused(self) -> str | None:
        return self._browser.switch_to.active_element.get_attribute("name")

    def complaints(self) -> list[str]:
        """What the browser has to say: refused styles or scripts, missing files, errors of the script."""
        return [line["message"] for line in self._browser.get_log("browser")]  # type: ignore[no-untyped-call]


@needs_chromium
def test_a_person_is_answered_and_told_what_is_wrong(browser: webdriver.Chrome, url: str, journal: Journal) -> None:
    visit = Visit(browser, url)

    visit.fill("distance", "3")
    visit.fill("weight", "")
    visit.fill("kind", "car")
    visit.send()
    assert visit.sees(".value") == "16.0 min"
    assert "mean error alone, 1.5 min" in visit.sees("#answer")
    assert "v1" in visit.sees("#answer .hint code")
    (recorded,) = journal.predictions()
    assert recorded.row == {**ROW, "starts_at": datetime(2020, 3, 1, 8, 15), "zone": None}
    assert visit.complaints() == []

    visit.fill("weight", "heavy")
    visit.fill("distance", "101")
    visit.send()
    assert visit.sees("#c1-error") == "out of range: expected a number from 0 to 100 (km), got 101"
    assert visit.sees("#c2-error").startswith("wrong type: expected a number from 0 to 50 (kg) or null")
    assert visit.focused() == "distance"
    assert journal.counts().predictions == 1


@needs_chromium
def test_asks_for_a_key_and_shows_the_interval(
    browser: webdriver.Chrome, url: str, edge: Edge, journal: Journal, make_bundle: Callable[..., Bundle], keys: KeyFile
) -> None:
    plain = make_bundle()
    level = Level(share=0.9, half_widths=(2.0, 5.0), coverage=0.91, interval=None, mean_width=7.0)
    widths = PredictionIntervals(rows=100, edges=(125.0,), levels=(level,))  # an edge belongs to the bin above
    evaluation = Evaluation(
        blocks=10,
        naive_loss=9.0,
        naive_interval=None,
        intervals={},
        slices={},
        prediction_intervals=widths,
        importance={},
        importance_rows=0,
        over_time=(),
        epochs=(),
    )
    judged = replace(plain, card=replace(plain.card, metrics={"mae": 1.5}, evaluation=evaluation))
    endpoints = Endpoints(Following(load(judged.files()), None, "main", 1.0), journal, Predictions(journal))
    edge.find = endpoints.find
    edge.access = endpoints.access = Access(keys)
    key = keys.add("person", ["predict"])
    visit = Visit(browser, url)

    assert "distance" not in browser.page_source
    for given in ("wrong", key):
        visit.enter_key(given)
        visit.send()
        visit.sees("#key-error" if given == "wrong" else "#answer")
    visit.send()

    assert visit.sees(".value") == "125.0 min"
    assert visit.sees(".interval") == "120.0 to 130.0 min"
    assert "held 91 % of rows" in visit.sees("#answer")
    visit.fill("distance", "49")
    visit.send()
    assert visit.comes_to_see(".value", "123.0 min")
    assert visit.sees(".interval") == "121.0 to 125.0 min"
    keys.revoke("person")
    edge.access = endpoints.access = Access(keys)
    visit.send()
    assert visit.sees("#key-error") == "This key is not accepted."


def test_who_has_no_key_sees_nothing_of_contract_and_card(edge: Edge, endpoints: Endpoints, keys: KeyFile) -> None:
    key = keys.add("person", ["predict"])
    edge.access = endpoints.access = Access(keys)

    locked = Caller(edge).get("/")
    opened = Caller(edge).request("GET", "/", headers={"authorization": f"Bearer {key}"})

    assert (locked.status_code, locked.headers["content-type"]) == (401, "text/html; charset=utf-8")
    assert not [told for told in ("distance", "Card of", "minutes") if told in locked.text]
    assert locked.headers["content-security-policy"] == opened.headers["content-security-policy"]
    assert (opened.status_code, "distance" in opened.text) == (200, True)
