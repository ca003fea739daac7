"""The page on which robots are watched: sliders, menus, buttons, and what has happened, by viser.

Everything that a browser asks for is done by the one thread that also steps the simulation, between two steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock
from typing import Any

from viser import ViserServer

from metarl.errors import KNOWN
from metarl.live.charts import Charts
from metarl.live.drawing import Drawing
from metarl.live.knobs import Menu, Slider, knobs
from metarl.live.session import SPEEDS, Session
from metarl.live.telling import Robots, describe

IDLE = 0.05  # seconds between two looks at what is asked for, while nothing moves
FOLDED = 8  # a parameter with more sliders than this is folded away
LIGHT = 0.45  # of the surroundings; mjviser's 0.8 pales the colours
HINTS = {
    "robot": "at the next episode the memory stays; to forget begins one without it",
    "policy": "a gradient step adapts on episodes of this task, played out of sight; as trained undoes them all",
}
OOD = " (ood)"


class Page:
    """Robots on a server's page: one is drawn, and what is asked for is asked of all.

    Nobody watches, nothing moves: they go on when a browser comes back.
    """

    def __init__(self, server: ViserServer, robots: Robots) -> None:
        self._server, self._robots = server, robots
        self._lead = self._drawn = next(iter(robots.values()))
        self._asked: dict[str, Callable[[], object]] = {}  # of one control the last request counts
        self._lock = Lock()
        self._turned: dict[Slider | Menu, Any] = {}
        self._told = ""
        server.gui.configure_theme(show_logo=False, show_share_button=False)
        server.gui.main_panel.dock_right()
        server.gui.set_panel_label("metarl")
        self._drawing = Drawing(server, self._lead.env)
        server.scene.configure_environment_map(environment_intensity=LIGHT)
        self._text = server.gui.add_markdown("")
        self._charts = Charts(server, robots)
        self._add_buttons()
        self._add_knobs()
        self.tell()

    def serve(self) -> None:
        """Go on until something is raised, such as by Ctrl-C."""
        while True:
            began = time.perf_counter()
            pause = self.tick()
            time.sleep(max(0.0, began + pause - time.perf_counter()))

    def tick(self) -> float:
        """Do what was asked for, and one control step if the robot is to move; seconds from here to the next one."""
        with self._lock:
            asked, self._asked = self._asked, {}
        for action in asked.values():
            self._try(action)
        moves = not self._lead.paused and bool(self._server.get_clients())
        if moves:
            self._try(lambda: self._each(Session.advance))
        if moves or asked:
            self._drawing.show()
            self.tell()
        return self._lead.pace if moves else IDLE

    def tell(self) -> None:
        """Bring text and charts up to date."""
        if (text := describe(self._robots)) != self._told:
            self._text.content = self._told = text
        self._charts.tell(self._drawn)

    def _try(self, action: Callable[[], object]) -> None:
        """A known failure is told on the page, and the robots wait; they go on from there."""
        try:
            action()
        except KNOWN as error:
            self._lead.paused = self._paused.value = True
            self._notify("That did not work", " ".join(str(error).split()), color="red")

    def _each(self, action: Callable[[Session], object]) -> None:
        for session in self._robots.values():
            action(session)

    def _notify(self, title: str, body: str, **style: Any) -> None:
        for client in self._server.get_clients().values():
            client.add_notification(title, body, **style)

    def _when(self, handle: Any, action: Callable[[], object], click: bool = False) -> None:
        """Ask for an action when somebody uses a control, but not when the page itself sets it."""

        def ask(event: Any) -> None:
            if event.client is not None:
                with self._lock:
                    self._asked[handle.label] = action

        (handle.on_click if click else handle.on_update)(ask)

    def _add_buttons(self) -> None:
        gui, session = self._server.gui, self._lead
        if len(self._robots) > 1:
            drawn = gui.add_dropdown("drawn", list(self._robots), hint="all of them act; this one is in the scene")
            self._when(drawn, lambda: self._draw(self._robots[drawn.value]))
        fresh = gui.add_button_group("new task", session.splits, hint="another one, with the policy as it was at first")
        self._when(fresh, lambda: self._new_task(fresh.value), click=True)
        choices: dict[str, dict[str, Callable[[], object]]] = {
            "robot": {
                "next episode": lambda: self._each(Session.next_episode),
                "forget": lambda: self._each(Session.forget),
            },
            "policy": {"gradient step": self._gradient_step, "as trained": lambda: self._each(Session.as_trained)},
        }
        for label, actions in choices.items():
            group = gui.add_button_group(label, list(actions), hint=HINTS[label])
            self._when(group, lambda group=group, actions=actions: actions[group.value](), click=True)
        self._paused = paused = gui.add_checkbox("pause", session.paused)
        self._when(paused, lambda: setattr(session, "paused", paused.value))
        low, high = SPEEDS
        speed = gui.add_slider("speed", low, high, 0.1, session.speed, hint="1 is real time")
        self._when(speed, lambda: setattr(session, "speed", speed.value))
        follow = gui.add_checkbox("follow the robot", self._drawing.follows)
        self._when(follow, lambda: setattr(self._drawing, "follows", follow.value))

    def _add_knobs(self) -> None:
        gui, found = self._server.gui, list(knobs(self._lead.env.distribution))
        by_name = {name: [knob for knob in found if knob.name == name] for name in {knob.name: None for knob in found}}
        with gui.add_folder("task (hidden from the robot)"):
            for name, some in by_name.items():
                if len(some) > FOLDED:
                    with gui.add_folder(f"{name} ({len(some)})", expand_by_default=False):
                        self._add(some)
                else:
                    self._add(some)

    def _add(self, some: list[Slider | Menu]) -> None:
        gui = self._server.gui
        for knob in some:
            if isinstance(knob, Menu):
                names = [name + OOD * (name in knob.ood) for name in knob.choices]
                handle = gui.add_dropdown(knob.name, names, initial_value=self._shown(knob))
            else:
                ends = [(value, f"{value:.3g}") for value in (knob.low, knob.high)]
                middles = [((low + high) / 2, "ood") for low, high in knob.ood]
                marks = tuple(sorted([*ends, *middles, *((value, "") for part in knob.ood for value in part)]))
                handle = gui.add_slider(
                    knob.label, knob.low, knob.high, knob.step, self._shown(knob), marks=marks, hint=knob.hint
                )
            self._turned[knob] = handle
            self._when(handle, lambda knob=knob, handle=handle: self._turn(knob, handle.value))

    def _draw(self, session: Session) -> None:
        self._drawn = session
        self._drawing.watch(session.env)

    def _shown(self, knob: Slider | Menu) -> Any:
        """What a control shows of the present task."""
        values = self._lead.values[knob.name]
        if isinstance(knob, Menu):
            name = knob.choices[int(values[0])]
            return name + OOD * (name in knob.ood)
        return min(max(round(float(values[knob.axis]), knob.digits), knob.low), knob.high)

    def _turn(self, knob: Slider | Menu, value: Any) -> None:
        if isinstance(knob, Menu):
            self._each(lambda session: session.change(knob.name, value.removesuffix(OOD)))
        else:
            self._each(lambda session: session.change(knob.name, value, knob.axis))
            if abs((shown := self._shown(knob)) - value) > knob.step:  # not every place can be had
                self._turned[knob].value = shown
        self._drawing.vary()

    def _new_task(self, split: str) -> None:
        self._lead.new_task(split)
        for session in self._robots.values():
            if session is not self._lead:
                session.present(self._lead.tasks)
        self._drawing.vary()
        for knob, handle in self._turned.items():
            handle.value = self._shown(knob)

    def _gradient_step(self) -> None:
        count = self._lead.agent.run.settings.evaluate.episodes_per_step
        self._notify("Adapting", f"playing {count} exploring trials of this task", auto_close_seconds=3.0)
        self._each(Session.gradient_step)
