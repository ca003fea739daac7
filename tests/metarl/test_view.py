"""The page in a real browser: it loads without errors, moves the task, and tells what happens. It needs Chromium."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import metarl
from metarl.live.session import Session
from tests.metarl.test_live import free_port

ROOT = Path(__file__).parents[2]
RUNS = ("run=pretrained/reach_search", "beside=pretrained/reach_search")
CHARTS = "window.__viserTestpoints.uplots"  # where viser's own tests find them
PATIENCE = 90_000  # ms; without a GPU a browser draws slowly

pytest.importorskip("mjviser", reason="the page needs viser and mjviser: pip install -e '.[view]'")


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command as a user gives it, on a port of its own."""
    port = free_port()
    line = [sys.executable, "-m", "metarl.view", *RUNS, f"port={port}", "device=cpu"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    # A shell that runs the tests in the background has them ignore Ctrl-C, and what they start as well.
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(line, env=environment, preexec_fn=heard, **pipes)
    assert process.stdout is not None
    said = process.stdout.readline()
    assert said.startswith(f"http://127.0.0.1:{port} shows A: pretrained/reach_search"), said + process.stdout.read()
    yield process, f"http://127.0.0.1:{port}"
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=300)
    assert process.returncode == 0 and "closed" in rest and "Traceback" not in rest, rest


@pytest.fixture(scope="module")
def page(server: tuple[subprocess.Popen[str], str]) -> Iterator[tuple[Any, list[str]]]:
    """The page in headless Chromium, and the errors that it has had."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install playwright")
    with playwright.sync_playwright() as tools:
        own = shutil.which("chromium") or shutil.which("google-chrome")
        flags = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
        try:
            browser = tools.chromium.launch(executable_path=own, args=flags)
        except playwright.Error as error:
            pytest.skip(f"no Chromium: apt install chromium, or playwright install chromium ({str(error).split()[0]})")
        tab, errors = browser.new_page(viewport={"width": 320, "height": 240}), []
        tab.set_default_timeout(PATIENCE)
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        tab.on("request", lambda asked: errors.append(asked.url) if _leaves(asked.url) else None)
        tab.goto(server[1])
        tab.get_by_text("next episode").wait_for()
        yield tab, errors
        browser.close()


def test_the_server_answers_on_this_machine_alone(server: tuple[subprocess.Popen[str], str]) -> None:
    with urllib.request.urlopen(server[1], timeout=30) as answer:
        assert answer.status == 200 and b"<html" in answer.read()
    port = int(server[1].rpartition(":")[2])
    listening = [row.split()[1].split(":") for row in _sockets() if row.split()[3] == "0A"]
    assert [address for address, number in listening if int(number, 16) == port] == ["0100007F"], "127.0.0.1"


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("127.0.0.1:{}", "http://127.0.0.1:{}", 101),
        ("localhost:{}", "http://localhost:{}", 101),
        ("127.0.0.1:{}", None, 101),  # a program
        ("127.0.0.1:{}", "http://evil.example", 403),
        ("127.0.0.1:{}", "http://127.0.0.1:1", 403),  # another server of this machine
        ("127.0.0.1:{}", "null", 403),
        ("evil.example:{}", "http://evil.example:{}", 403),  # a name that points here
    ],
)
def test_pages_of_other_servers_cannot_use_it(
    server: tuple[subprocess.Popen[str], str], host: str, origin: str | None, status: int
) -> None:
    """The handshake as a browser does it for a page of that origin."""
    port = int(server[1].rpartition(":")[2])
    lines = ["GET / HTTP/1.1", f"Host: {host.format(port)}", "Upgrade: websocket", "Connection: Upgrade"]
    lines += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"]
    lines += [f"Origin: {origin.format(port)}"] if origin else []
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        assert connection.recv(100).split()[1] == str(status).encode()


def test_what_does_not_work_is_told_and_the_session_waits() -> None:
    from viser import ViserServer

    from metarl.live.page import Page
    from metarl.live.telling import describe

    session = Session(metarl.load("cheetah_dir-maml", "cpu"))
    robots = {"cheetah": session}
    server = ViserServer("127.0.0.1", free_port(), verbose=False)
    try:
        page = Page(server, robots)
        page.tick()
        assert session.elapsed == 0, "nobody watches"
        page._asked["new task"] = lambda: page._new_task("nowhere")
        page.tick()
        assert session.paused and session.env.tasks is not None
        (turned,) = (handle for knob, handle in page._turned.items() if knob.name == "direction")
        for split in ("train", "ood"):
            page._new_task(split)
            assert "ood task: mass_scale" in describe(robots) or split == "train"
            assert turned.value in ("forward", "backward")
            assert (turned.value == "backward") == bool(session.values["direction"])
    finally:
        server.stop()


def test_a_slider_goes_to_where_the_dock_can_stand() -> None:
    from viser import ViserServer

    from metarl.live.page import Page

    session = Session(metarl.load("navigate_search", "cpu"))
    server = ViserServer("127.0.0.1", free_port(), verbose=False)
    try:
        page = Page(server, {"robot": session})
        along, across = (knob for knob in page._turned if knob.name == "goal")
        page._turn(along, 1.0)
        for asked, there in ((0.02, 0.35), (-0.02, -0.35), (0.7, 0.7)):
            page._turned[across].value = asked  # as the browser does
            page._turn(across, asked)
            assert page._turned[across].value == pytest.approx(there)
    finally:
        server.stop()


def test_the_page_is_used(server: tuple[subprocess.Popen[str], str], page: tuple[Any, list[str]]) -> None:
    tab, errors = page
    until(tab, r"\bA\s.*\b(yes|no)\s+\d+\s+B\s.*\b(yes|no)\b")  # both in the table
    until(tab, r"\byes\b")  # they find the goal
    assert re.search(r"[1-9] episodes?, 0 gradient steps", text(tab))
    tab.locator(".uplot").wait_for()  # the chart of the episodes
    ends = f"Object.values({CHARTS})[0].chart.scales.y"
    assert tab.evaluate(f"Number.isFinite({ends}.min) && {ends}.min < {ends}.max"), "it has no scale"
    tab.get_by_label("attention").click()
    tab.locator(".uplot").nth(1).wait_for()
    tab.get_by_label("drawn", exact=True).first.click()
    tab.get_by_role("option").last.click()
    until(tab, r"test task\b")
    box = tab.get_by_text("payload_mass (kg)").locator("xpath=ancestor::*[.//input][1]").locator("input").last
    box.fill("2.5")
    box.press("Enter")
    until(tab, r"ood task: payload_mass beyond what was trained on")
    tab.get_by_text("train", exact=True).click()
    until(tab, r"train task\n")
    tab.get_by_label("pause").click()
    until_still(tab)
    tab.get_by_text("forget", exact=True).click()
    until(tab, r"episode 1 in its memory \(trained with 3\), 0.0 s")
    assert errors == []


def test_a_browser_that_leaves_changes_nothing(
    server: tuple[subprocess.Popen[str], str], page: tuple[Any, list[str]]
) -> None:
    """It goes in the middle of a gradient step that it has asked for; the others see the step, and the robot acts."""
    tab, errors = page
    other = tab.context.browser.new_page(viewport={"width": 320, "height": 240})
    other.set_default_timeout(PATIENCE)
    other.goto(server[1])
    other.get_by_text("gradient step", exact=True).click()
    until(tab, r"Adapting|1 gradient step\b")  # a page sends from a thread of its own, and what was not sent is lost
    other.close()
    until(tab, r"1 gradient step\b")
    if tab.get_by_label("pause").is_checked():
        tab.get_by_label("pause").click()
    until(tab, r"[1-9] episodes?, 1 gradient step\b")
    assert server[0].poll() is None and errors == []


def text(tab: Any) -> str:
    return tab.inner_text("body")


def until(tab: Any, pattern: str) -> None:
    end = time.monotonic() + PATIENCE / 1000
    while not re.search(pattern, found := text(tab)):
        assert time.monotonic() < end, f"{pattern} is not in: {found}"
        tab.wait_for_timeout(100)


def until_still(tab: Any) -> None:
    """Until what the page tells has stopped changing."""
    end, before = time.monotonic() + PATIENCE / 1000, ""
    while (now := text(tab)) != before:
        assert time.monotonic() < end, "it does not pause"
        before = now
        tab.wait_for_timeout(700)


def _sockets() -> list[str]:
    path = Path("/proc/net/tcp")
    if not path.exists():
        pytest.skip("no /proc/net/tcp to read listening sockets from")
    return path.read_text().splitlines()[1:]


def _leaves(address: str) -> bool:
    return not re.match(r"(http|ws)://127\.0\.0\.1|data:|blob:", address)
