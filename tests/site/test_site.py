"""The site in build/site, as `make site` has built it: it is whole, and needs no network.

That no page is left out of the menu, no anchor is missing and there is no warning at all, the build has made sure of: it is
strict.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

CHECKOUT = Path(__file__).resolve().parents[2]
SITE = CHECKOUT / "build" / "site"
BUILT = sorted(SITE.rglob("*.html"))


class Addresses(HTMLParser):
    """What a page has a browser fetch, `loaded`, and where a reader may click, `linked`."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if tag == "a" and name == "href":
                self.linked.append(value or "")
            elif name in ("href", "src", "srcset", "data", "poster"):
                self.loaded.append(value or "")


def is_there(page: Path, address: str) -> bool:
    path = re.split("[?#]", address)[0]
    return (SITE / path[1:] if path.startswith("/") else page.parent / path).exists()


@pytest.mark.parametrize("page", BUILT, ids=lambda page: str(page.relative_to(SITE)))
def test_all_that_a_page_loads_or_links_to_lies_in_the_site(page: Path) -> None:
    found = Addresses(page)
    assert len(found.loaded) > 3, "scripts and styles"
    for address in found.loaded:
        assert "//" not in address, address
        assert is_there(page, address), address
    for address in found.linked:
        assert re.match("https?://", address) or is_there(page, address), address


def test_no_style_loads_from_elsewhere() -> None:
    styles = sorted(SITE.rglob("*.css"))
    assert styles
    for style in styles:
        text = style.read_text(encoding="utf-8")
        assert "@import" not in text, style
        assert "url(http" not in text, style
        assert "url(//" not in text, style


def test_each_page_of_the_menu_was_built() -> None:
    def pages(entries: list[dict[str, object]]) -> list[str]:
        found: list[str] = []
        for entry in entries:
            for value in entry.values():
                found += pages(value) if isinstance(value, list) else [str(value)]
        return found

    menu = pages(yaml.safe_load((CHECKOUT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    expected = {page.replace("README.md", "index.md").removesuffix(".md") + ".html" for page in menu}
    assert expected == {str(page.relative_to(SITE)) for page in BUILT} - {"404.html"}
