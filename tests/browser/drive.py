"""Opens pages in Chromium, for `browser.py`: an order a line of standard input, in JSON, and an answer a line of standard output.

Runs in an environment of its own, with Playwright and nothing of ours.
"""

import json
import sys
from typing import Any

from playwright.sync_api import Browser, sync_playwright

FLAGS = [
    "--no-sandbox",  # which a container mostly does not allow
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def look(browser: Browser, order: dict[str, Any]) -> dict[str, Any]:
    """Opens a page, does the actions there, and tells what was seen."""
    context = browser.new_context(
        viewport={"width": order["width"], "height": 900},
        color_scheme=order["scheme"],
        java_script_enabled=order["javascript"],
    )
    context.set_default_timeout(10_000)
    page = context.new_page()
    messages: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: messages.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: messages.append(f"error: {error}"))
    page.on("dialog", lambda dialog: (messages.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda request: requests.append(request.url))
    page.emulate_media(media=order["media"], color_scheme=order["scheme"])
    page.goto(order["url"], wait_until="load")
    for name, *arguments in order["actions"]:
        getattr(page, name)(*arguments)
    value = page.evaluate(order["script"]) if order["script"] else None
    overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    if order["screenshot"]:
        page.screenshot(path=order["screenshot"], full_page=True)
    context.close()
    sent = [url for url in requests if url != order["url"] and not url.startswith("data:")]
    return {"messages": messages, "requests": sent, "value": value, "overflow": overflow}


def main() -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=sys.argv[1], args=FLAGS)  # in a profile of its own
        print(json.dumps({"version": browser.version}), flush=True)
        for line in sys.stdin:
            try:
                answer = look(browser, json.loads(line))
            except Exception as error:
                answer = {"failed": f"{type(error).__name__}: {error}"}
            print(json.dumps(answer), flush=True)
        browser.close()


if __name__ == "__main__":
    main()
