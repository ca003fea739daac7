"""python -m experiments.view_picture [run=pretrained/navigate_search] [task=0] [out=experiments/results/view.png]

Take the picture of `metarl.view` that the README shows: a robot in the episode after its first trial. It needs `pip
install -e '.[test]'`, and Chromium: `apt install chromium`, or `playwright install chromium`.

  run, task   as metarl.view takes them
  out         a .png file
"""

from __future__ import annotations

import io
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import metarl  # noqa: F401  - first: it checks the packages' places
from experiments.arguments import command, given
from metarl.errors import MetaRLError, install
from metarl.run_folder import atomic_write

DEFAULTS = {"run": "pretrained/navigate_search", "task": "0", "out": "experiments/results/view.png"}
SIZE = {"width": 1180, "height": 1040}
FLAGS = ("--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")  # WebGL without a GPU
PATIENCE = 300  # seconds; without a GPU a browser draws slowly
PLAYED = r"on this task: [3-9] episodes"


@contextmanager
def served(*settings: str) -> Iterator[str]:
    """The address of a page that metarl.view serves meanwhile."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    line = [sys.executable, "-m", "metarl.view", *settings, f"port={port}"]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        if not said.startswith("http"):
            raise MetaRLError(said.strip() or "metarl.view says nothing")
        yield said.split()[0]
    finally:
        process.terminate()
        process.wait()


@contextmanager
def browser() -> Iterator[Any]:
    """Headless Chromium, the system's or Playwright's own.

    Raises:
        MetaRLError: if Playwright or Chromium is missing.
    """
    try:
        from playwright import sync_api
    except ImportError:
        raise MetaRLError(f"playwright is missing: {install('test')}") from None
    with sync_api.sync_playwright() as tools:
        own = shutil.which("chromium") or shutil.which("google-chrome")
        try:
            found = tools.chromium.launch(executable_path=own, args=FLAGS)
        except sync_api.Error as error:
            text = "no Chromium: apt install chromium, or playwright install chromium"
            raise MetaRLError(f"{text} ({str(error).split()[0]})") from None
        yield found
        found.close()


def take(address: str) -> bytes:
    """A PNG of the page, once three episodes are over and the next one has begun."""
    with browser() as chromium:
        tab = chromium.new_page(viewport=SIZE)
        tab.set_default_timeout(1000 * PATIENCE)
        tab.goto(address)
        tab.get_by_text("next episode").wait_for()
        end = time.monotonic() + PATIENCE
        while not re.search(PLAYED, tab.inner_text("body")) and time.monotonic() < end:
            tab.wait_for_timeout(200)
        tab.wait_for_timeout(1500)
        tab.get_by_label("pause").click()
        for notice in tab.locator(".mantine-Notification-closeButton").all():
            notice.click()
        tab.wait_for_timeout(2000)
        return tab.screenshot()


def small(picture: bytes) -> bytes:
    """The PNG with 256 colours."""
    from PIL import Image

    content = io.BytesIO()
    Image.open(io.BytesIO(picture)).convert("RGB").quantize(256).save(content, "png", optimize=True)
    return content.getvalue()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""

    def work(words: Sequence[str]) -> None:
        values = DEFAULTS | given(words, DEFAULTS)
        with served(f"run={values['run']}", f"task={values['task']}") as address:
            atomic_write(Path(values["out"]), small(take(address)))
        print(f"picture: {values['out']}")

    return command(arguments, __doc__, work, bare=True)


if __name__ == "__main__":
    sys.exit(main())
