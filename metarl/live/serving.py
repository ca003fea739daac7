"""The `metarl.view` command: a page on this machine, and what may keep it from coming up."""

from __future__ import annotations

import contextlib
import errno
import io
import socket
import warnings

from rich.console import Console

from metarl.agent import load
from metarl.assembly.device import enough_memory
from metarl.config.deployment import ViewSettings
from metarl.errors import ConfigError, RunWarning, ViewError, install
from metarl.live.session import Session
from metarl.live.telling import Robots


@enough_memory()
def view_run(settings: ViewSettings) -> None:
    """The `metarl.view` command; it ends by Ctrl-C.

    Raises:
        ViewError: if viser or mjviser is missing, the environment has no MuJoCo model, the run beside has other tasks,
            or the port is in use.
    """
    try:
        from viser import ViserServer

        from metarl.live.origin import is_loopback, own_pages_only
        from metarl.live.page import Page
    except ImportError as error:
        raise ViewError(f"{error.name} is missing: {install('view')}") from None
    console = Console(highlight=False, soft_wrap=True, markup=False)
    check_port(settings.host, settings.port)
    local = is_loopback(settings.host)
    if not local:
        warnings.warn(
            f"host={settings.host}: whoever reaches this machine sees the page and can use it, without a password",
            RunWarning,
            stacklevel=2,
        )
    robots = _robots(settings)
    # viser has a frame of its own around the address
    with contextlib.redirect_stdout(io.StringIO()), own_pages_only(local):
        server = ViserServer(settings.host, settings.port, verbose=False)
    try:
        if server.get_port() != settings.port:  # viser takes the next free one if another was quicker
            raise ViewError(_in_use(settings.port))
        server.request_share_url = lambda *_, **__: None  # nothing leaves this machine, whatever a page asks for
        page = Page(server, robots)
        shown = ", ".join(robots)
        console.print(f"http://{_in_url(settings.host)}:{settings.port} shows {shown}; Ctrl-C ends it")
        page.serve()
    except KeyboardInterrupt:
        console.print("closed")
    finally:
        with contextlib.redirect_stdout(io.StringIO()):  # viser says that it stopped, after we said so
            server.stop()


def _robots(settings: ViewSettings) -> Robots:
    """The run's policy, and the one beside it, on the same task."""
    runs = [run for run in (settings.run, settings.beside) if run is not None]
    agents = [load(run, settings.device, settings.checkpoint, settings.trust) for run in runs]
    lead = Session(agents[0], settings.split, settings.task, settings.seed)
    if len(agents) == 1:
        return {agents[0].run.name: lead}
    other = Session(agents[1], seed=settings.seed, beside=lead)
    return {f"A: {agents[0].run.name}": lead, f"B: {agents[1].run.name}": other}


def check_port(host: str, port: int) -> None:
    """Raises:
    ConfigError: if this machine has no such address.
    ViewError: if the port is in use, or not for us.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise ConfigError(f"host={host}: {error.strerror}") from None
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server will
        try:
            probe.bind(address)
            probe.listen()
        except PermissionError:
            raise ViewError(f"port={port} needs more rights than you have: choose one from 1024") from None
        except OSError as error:
            text = f"host={host}: {error.strerror}" if error.errno != errno.EADDRINUSE else _in_use(port)
            raise ViewError(text) from None


def _in_use(port: int) -> str:
    return f"port={port} is in use: choose another, such as port={port + 1 if port < 65535 else port - 1}"


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else "localhost" if host in ("0.0.0.0", "") else host
