"""Whether the browser tells what the other tests here rely on."""

from __future__ import annotations

from pathlib import Path

from browser import PHONE, Browser

FAULTY = """\
<!doctype html><meta name="viewport" content="width=device-width"><body><p id="said">nothing</p>
<div style="width: 900px">wide</div><img src="http://127.0.0.1:9/picture.png">
<script>document.getElementById("said").textContent = "something"; console.warn("beware"); alert("boo"); undefinedThing()</script>
"""


def test_what_is_wrong_with_a_page_is_seen(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "faulty.html"
    page.write_text(FAULTY)
    seen = browser.look(page, PHONE, script="document.getElementById('said').textContent")
    assert seen.requests == ["http://127.0.0.1:9/picture.png"]
    assert seen.value == "something"
    assert seen.overflow > 400
    assert "warning: beware" in seen.messages
    assert "dialog: boo" in seen.messages
    assert any("undefinedThing is not defined" in message for message in seen.messages)


def test_a_page_without_javascript_stays_as_it_was_written(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "faulty.html"
    page.write_text(FAULTY)
    seen = browser.look(page, javascript=False, script="document.getElementById('said').textContent")
    assert seen.value == "nothing"
    assert not [message for message in seen.messages if "beware" in message or "boo" in message]


def test_scheme_and_medium_are_the_page_s(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "plain.html"
    page.write_text("<!doctype html><p>plain")
    asked = "['(prefers-color-scheme: dark)', 'print'].map((query) => matchMedia(query).matches)"
    assert browser.look(page, script=asked).value == [False, False]
    assert browser.look(page, scheme="dark", script=asked).value == [True, False]
    assert browser.look(page, media="print", script=asked).value == [False, True]
