"""A picture of the cluster: clients, nginx, instances, and where data is kept. One SVG that needs nothing else.

Mermaid draws in a browser and Graphviz is a program of its own: neither could be seen in a pull request as it is.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Required, TypedDict, Unpack

from cluster.config.models import DatabaseEngine, SessionEngine
from cluster.topology import exact_shares, percent
from cluster_runtime.sessions import table_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cluster.config.models import Server
    from cluster.topology import Instance, Topology

Point = tuple[float, float]

#: So many instances are drawn one by one; more are drawn as one card for each kind.
DRAWN_ONE_BY_ONE = 20

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

#: A character's width over the font's size, on the safe side for the fonts above.
CHARACTER, BOLD_CHARACTER = 0.61, 0.69
REGULAR = 400
SMALLEST_FONT = 8.0

WHITE, PAPER, LINE = "#ffffff", "#f8fafc", "#cbd5e1"
INK, SOFT = "#0f172a", "#55657b"
BLUE, GREEN, AMBER, GREY, VIOLET = "#2563eb", "#059669", "#b45309", "#94a3b8", "#7c3aed"
COLOUR = {"serving": GREEN, "backup": AMBER, "down": GREY}

WIDTH, TOP, MARGIN = 1096.0, 92.0, 28.0
CARD, CARD_GAP = 50.0, 10.0
POOL_HEAD, POOL_PAD = 32.0, 12.0
NAMES_SHOWN, NODES_SHOWN = 4, 6
NODE, NODE_GAP = 26.0, 6.0
STORE_HEAD, STORE_GAP, DATABASE = 66.0, 40.0, 74.0

#: What each engine is, in a few words.
DATABASES = {
    DatabaseEngine.SQLITE: "one file",
    DatabaseEngine.POSTGRES: "made by the platform",
    DatabaseEngine.EXTERNAL: "run by somebody else",
}


@dataclass(frozen=True)
class _Stroke:
    colour: str
    thick: float
    dash: str | None = None

    def attributes(self) -> dict[str, str]:
        dash = {"stroke-dasharray": self.dash} if self.dash else {}
        return {"stroke": self.colour, "stroke-width": _number(self.thick), **dash}


class _Look(TypedDict, total=False):
    size: Required[float]
    weight: int
    fill: str
    anchor: str


@dataclass(frozen=True, kw_only=True)
class _Box:
    x: float
    y: float
    width: float
    height: float

    @property
    def right(self) -> float:
        return self.x + self.width

    @property
    def bottom(self) -> float:
        return self.y + self.height

    @property
    def middle(self) -> float:
        return self.y + self.height / 2

    @property
    def centre(self) -> float:
        return self.x + self.width / 2


@dataclass(frozen=True, kw_only=True)
class _Card:
    """What is drawn for an instance, or for many of one kind."""

    kind: str
    name: str
    share: Fraction
    detail: str
    count: int = 1


def render_diagram(topology: Topology, stack: str) -> str:
    """Return the SVG of the cluster of `stack`."""
    cards = _cards(topology)
    cards_height = len(cards) * (CARD + CARD_GAP) - CARD_GAP
    store_height = _session_height(topology) + STORE_GAP + DATABASE
    names = topology.config.site.server_names
    nginx_height = max(122.0 + 16 * min(len(names), NAMES_SHOWN + 1), min(0.45 * cards_height, 340))
    half = max(POOL_HEAD + cards_height / 2, store_height / 2, nginx_height / 2)
    middle = TOP + half
    height = middle + half + 62

    drawing = _Drawing(height)
    drawing.heading(topology, stack)
    clients = _Box(x=MARGIN, y=middle - 46, width=116, height=92)
    nginx = _Box(x=212, y=middle - nginx_height / 2, width=196, height=nginx_height)
    pool = _Box(
        x=512,
        y=middle - cards_height / 2 - POOL_HEAD,
        width=280,
        height=POOL_HEAD + cards_height + POOL_PAD,
    )
    stores = _Box(x=864, y=middle - store_height / 2, width=WIDTH - MARGIN - 864, height=store_height)
    drawing.pool(pool, topology)
    drawing.arrow((clients.right, middle), (nginx.x, middle), _Stroke(BLUE, 2.5))
    drawing.label((clients.right + nginx.x) / 2 - 3, middle - 10, "HTTP")
    drawing.clients(clients)
    drawing.nginx(nginx, topology)
    drawing.cards(pool, nginx, cards)
    drawing.stores(stores, pool, topology)
    drawing.legend(cards, height - 30, exact=exact_shares(topology.config))
    return drawing.text()


def _kind(server: Server) -> str:
    return "down" if server.down else "backup" if server.backup else "serving"


def _cards(topology: Topology) -> list[_Card]:
    if len(topology.instances) <= DRAWN_ONE_BY_ONE:
        return [
            _Card(
                kind=_kind(instance.server), name=instance.name, share=instance.share, detail=_instance_detail(instance)
            )
            for instance in topology.instances
        ]
    groups = ([i for i in topology.instances if _kind(i.server) == kind] for kind in COLOUR)
    return [_group(group) for group in groups if group]


def _group(group: list[Instance]) -> _Card:
    first, last = group[0], group[-1]
    shares = sorted({instance.share for instance in group})
    each = " to ".join(dict.fromkeys((_percent(shares[0]), _percent(shares[-1]))))
    kind = _kind(first.server)
    many = f"{len(group)} instances" if len(group) > 1 else "1 instance"
    return _Card(
        kind=kind,
        name=first.name if first is last else f"{first.name} … {last.name}",
        share=sum((instance.share for instance in group), Fraction(0)),
        detail=f"{many}, {each} each" if kind == "serving" and len(group) > 1 else many,
        count=len(group),
    )


def _instance_detail(instance: Instance) -> str:
    server = instance.server
    parts = [f"weight {server.weight}"]
    if server.max_fails:
        parts.append(f"{server.max_fails} {'fail' if server.max_fails == 1 else 'fails'} in {server.fail_timeout}")
    if server.max_conns:
        parts.append(f"{server.max_conns} conns")
    if instance.port is not None:
        parts.append(f"port {instance.port}")
    return " · ".join(parts)


def _percent(share: Fraction) -> str:
    return percent(share) if share == 0 or share >= Fraction(1, 100_000) else "< 0.001 %"


def _session_height(topology: Topology) -> float:
    return STORE_HEAD + 8 + _node_rows(topology) * (NODE + NODE_GAP) + (18 if topology.config.sessions.previous else 0)


def _node_rows(topology: Topology) -> int:
    nodes = topology.memcached_nodes
    return (min(nodes, NODES_SHOWN) + 1) // 2 + (1 if nodes > NODES_SHOWN else 0)


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _points(points: Sequence[Point]) -> str:
    return " ".join(f"{_number(x)},{_number(y)}" for x, y in points)


def _clean(text: str) -> str:
    """Replace what XML can't hold."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)


class _Drawing:
    """The SVG's tree, and how each part of the cluster is drawn into it."""

    def __init__(self, height: float) -> None:
        size = {
            "width": _number(WIDTH),
            "height": _number(height),
            "viewBox": f"0 0 {_number(WIDTH)} {_number(height)}",
        }
        self._root = ET.Element(
            "svg", {"xmlns": "http://www.w3.org/2000/svg", **size, "role": "img", "font-family": FONT}
        )
        self._heads: set[str] = set()
        self._title = ET.SubElement(self._root, "title")
        self._definitions = ET.SubElement(self._root, "defs")
        self._rect(_Box(x=0.5, y=0.5, width=WIDTH - 1, height=height - 1), fill=WHITE, stroke=LINE, radius=12)

    def text(self) -> str:
        ET.indent(self._root)
        return ET.tostring(self._root, encoding="unicode") + "\n"

    def heading(self, topology: Topology, stack: str) -> None:
        config = topology.config
        count = len(topology.instances)
        what = f"{count} instances" if count > 1 else "1 instance"
        self._title.text = _clean(f"The cluster of stack {stack}: {what} behind nginx")
        self._text((MARGIN, 40), stack, WIDTH - 2 * MARGIN, size=22, weight=700)
        line = f"platform {config.platform.value} · {what} · {config.upstream.method.value}"
        self._text((MARGIN, 62), line, WIDTH - 2 * MARGIN, size=13, fill=SOFT)

    def clients(self, box: _Box) -> None:
        self._rect(box, fill=PAPER, stroke=LINE)
        window = _Box(x=box.centre - 22, y=box.y + 16, width=44, height=32)
        self._rect(window, fill=WHITE, stroke=BLUE, radius=4, thick=1.8)
        self._line((window.x, window.y + 9), (window.right, window.y + 9), _Stroke(BLUE, 1.8))
        for number in range(3):
            self._circle(window.x + 6 + 5 * number, window.y + 4.6, 1.4, BLUE)
        self._text((box.centre, box.bottom - 18), "Clients", box.width, size=14, weight=600, anchor="middle")

    def nginx(self, box: _Box, topology: Topology) -> None:
        site = topology.config.site
        self._rect(box, fill=WHITE, stroke=GREEN, thick=2, radius=10)
        self._rect(_Box(x=box.x, y=box.y, width=box.width, height=38), fill=GREEN, stroke=GREEN, thick=2, radius=10)
        self._rect(_Box(x=box.x, y=box.y + 24, width=box.width, height=14), fill=GREEN, stroke=GREEN, thick=2, radius=0)
        self._text((box.x + 16, box.y + 25), "nginx", 90, size=16, weight=700, fill=WHITE)
        self._text((box.right - 16, box.y + 25), f"port {site.listen}", 90, size=12, fill=WHITE, anchor="end")
        y, space = box.y + 62, box.width - 32
        self._text((box.x + 16, y), "server names", space, size=11, fill=SOFT)
        shown = site.server_names[:NAMES_SHOWN]
        more = len(site.server_names) - len(shown)
        for name in [*("any" if name == "_" else name for name in shown), *([f"and {more} more"] if more else [])]:
            y += 16
            self._text((box.x + 16, y), name, space, size=13, weight=600)
        self._text((box.x + 16, y + 26), "balances by", space, size=11, fill=SOFT)
        self._text((box.x + 16, y + 42), topology.config.upstream.method.value, space, size=13, weight=600)

    def pool(self, box: _Box, topology: Topology) -> None:
        self._rect(box, fill=PAPER, stroke=LINE, radius=12)
        interface = topology.config.app.interface.value
        space = box.width - 2 * POOL_PAD
        self._text((box.x + POOL_PAD + 2, box.y + 21), "Django instances", space, size=12, weight=600)
        self._text(
            (box.right - POOL_PAD - 2, box.y + 21), f"gunicorn, {interface}", space, size=11, fill=SOFT, anchor="end"
        )

    def cards(self, pool: _Box, nginx: _Box, cards: Sequence[_Card]) -> None:
        largest = max(card.share for card in cards) or Fraction(1)
        reach = min(nginx.height - 60, 14.0 * (len(cards) - 1))
        thickest = min(6.5, 50 / len(cards))
        for number, card in enumerate(cards):
            box = _Box(
                x=pool.x + POOL_PAD,
                y=pool.y + POOL_HEAD + number * (CARD + CARD_GAP),
                width=pool.width - 2 * POOL_PAD,
                height=CARD,
            )
            start = nginx.middle - reach / 2 + (reach * number / (len(cards) - 1) if len(cards) > 1 else 0)
            thick = 1.2 + (thickest - 1.2) * float(card.share / largest) if card.share else 1.5
            dash = {"serving": None, "backup": "6 5", "down": "2 4"}[card.kind]
            self.arrow((nginx.right, start), (box.x, box.middle), _Stroke(COLOUR[card.kind], thick, dash))
            self._card(box, card)

    def _card(self, box: _Box, card: _Card) -> None:
        colour = COLOUR[card.kind]
        for behind in range(min(card.count - 1, 2), 0, -1):
            shifted = _Box(x=box.x + 4 * behind, y=box.y + 4 * behind, width=box.width - 4 * behind, height=box.height)
            self._rect(shifted, fill=WHITE, stroke=LINE)
        if card.count > 1:
            box = _Box(x=box.x, y=box.y, width=box.width - 8, height=box.height)
        self._rect(box, fill=WHITE, stroke=LINE)
        self._rect(_Box(x=box.x, y=box.y, width=5, height=box.height), fill=colour, stroke=colour, radius=2.5)
        faded = SOFT if card.kind == "down" else INK
        pill = {"serving": 0.0, "backup": 56.0, "down": 46.0}[card.kind]
        share = _percent(card.share)
        right = box.right - 12
        self._text((right, box.y + 21), share, 80, size=14, weight=700, fill=SOFT if pill else colour, anchor="end")
        name_space = box.width - 28 - len(share) * 14 * BOLD_CHARACTER - 8
        self._text((box.x + 16, box.y + 21), card.name, name_space, size=14, weight=600, fill=faded)
        detail_space = box.width - 28 - (pill + 8 if pill else 0)
        self._text((box.x + 16, box.y + 38), card.detail, detail_space, size=11, fill=SOFT)
        if pill:
            badge = _Box(x=right - pill, y=box.y + 26, width=pill, height=17)
            self._rect(badge, fill=WHITE, stroke=colour, radius=8.5)
            dark = SOFT if card.kind == "down" else colour
            at = (badge.centre, badge.y + 12.5)
            self._text(at, card.kind, pill, size=11, weight=600, fill=dark, anchor="middle")
        else:
            track = _Box(x=box.x + 16, y=box.bottom - 7, width=box.width - 28, height=3)
            self._rect(track, fill="#e2e8f0", stroke="none", radius=1.5)
            filled = _Box(x=track.x, y=track.y, width=max(3.0, track.width * float(card.share)), height=3)
            self._rect(filled, fill=colour, stroke="none", radius=1.5)

    def stores(self, space: _Box, pool: _Box, topology: Topology) -> None:
        sessions = _Box(x=space.x, y=space.y, width=space.width, height=_session_height(topology))
        database = _Box(x=space.x, y=space.bottom - DATABASE, width=space.width, height=DATABASE)
        engine = topology.config.sessions.engine
        for box, colour in ((sessions, VIOLET), (database, BLUE)):
            if box is sessions and engine is SessionEngine.SIGNED_COOKIES and not topology.config.sessions.previous:
                continue
            start = min(max(box.middle, pool.y + 20), pool.bottom - 20)
            self.arrow((pool.right, start), (box.x, box.middle), _Stroke(colour, 2))
        if table_of(engine):
            self.arrow(
                (sessions.centre, sessions.bottom), (database.centre, database.y), _Stroke(VIOLET, 2), upright=True
            )
        self._sessions(sessions, topology)
        self._database(database, topology)

    def _sessions(self, box: _Box, topology: Topology) -> None:
        sessions = topology.config.sessions
        space = box.width - 32
        self._store(box, VIOLET, "Sessions", sessions.engine.value, sessions.engine.where)
        y = box.y + STORE_HEAD
        nodes = topology.memcached_nodes
        for number in range(min(nodes, NODES_SHOWN)):
            width = (space - NODE_GAP) / 2
            x = box.x + 16 + (number % 2) * (width + NODE_GAP)
            node = _Box(x=x, y=y + (number // 2) * (NODE + NODE_GAP), width=width, height=NODE)
            self._rect(node, fill="#f5f3ff", stroke="#c4b5fd", radius=5)
            self._text(
                (node.centre, node.y + 17),
                f"memcached {number + 1}",
                width - 12,
                size=11,
                fill="#5b21b6",
                anchor="middle",
            )
        y += _node_rows(topology) * (NODE + NODE_GAP)
        if nodes > NODES_SHOWN:
            self._text(
                (box.x + 16, y - 14), f"and {nodes - NODES_SHOWN} more nodes of memcached", space, size=11, fill=SOFT
            )
        if sessions.previous is not None:
            self._text((box.x + 16, y + 8), f"still reads {sessions.previous.value}", space, size=11, fill=SOFT)

    def _database(self, box: _Box, topology: Topology) -> None:
        database = topology.config.database
        name = database.engine.value if database else "the project's own"
        self._store(box, BLUE, "Database", name, DATABASES[database.engine] if database else "as DATABASES says")

    def _store(self, box: _Box, colour: str, title: str, name: str, meaning: str) -> None:
        self._rect(box, fill=WHITE, stroke=colour, thick=1.6, radius=10)
        space = box.width - 32
        self._text((box.x + 16, box.y + 21), title, space, size=11, fill=SOFT)
        self._text((box.x + 16, box.y + 39), name, space - 30, size=15, weight=700, fill=colour)
        self._text((box.x + 16, box.y + 56), meaning, space, size=11, fill=SOFT)
        self._cylinder(box.right - 30, box.y + 13, colour)

    def _cylinder(self, x: float, y: float, colour: str) -> None:
        sides = f"M{_number(x)} {_number(y + 3)}v16c0 4 16 4 16 0v-16m-16 8c0 4 16 4 16 0"
        stroke = {"fill": "none", "stroke": colour, "stroke-width": "1.6"}
        ET.SubElement(self._root, "path", {"d": sides, **stroke})
        ET.SubElement(
            self._root, "ellipse", {"cx": _number(x + 8), "cy": _number(y + 3), "rx": "8", "ry": "3", **stroke}
        )

    def legend(self, cards: Sequence[_Card], y: float, *, exact: bool) -> None:
        kinds = {card.kind for card in cards}
        entries = [
            ("serving", None, 4.0, f"requests; the thicker, the larger the share{'' if exact else ' (on average)'}"),
            ("backup", "6 5", 1.5, "backup: only when all others are unavailable"),
            ("down", "2 4", 1.5, "down: drained, gets no new request"),
        ]
        x = MARGIN
        for kind, dash, thick, words in entries:
            if kind in kinds:
                self._line((x, y), (x + 30, y), _Stroke(COLOUR[kind], thick, dash))
                self._text((x + 40, y + 4), words, 400, size=11, fill=SOFT)
                x += 40 + len(words) * 11 * 0.52 + 28

    def label(self, x: float, y: float, words: str) -> None:
        self._text((x, y), words, 60, size=11, fill=SOFT, anchor="middle")

    def arrow(self, start: Point, end: Point, stroke: _Stroke, *, upright: bool = False) -> None:
        """Draw an arrow that leaves and arrives level (or upright)."""
        (x1, y1), (x2, y2) = start, end
        head, wing = 10.0, 4.5 + stroke.thick / 2
        if upright:
            bends = [(x1, (y1 + y2) / 2), (x2, (y1 + y2) / 2), (x2, y2 - head + 1)]
            corners = [end, (x2 - wing, y2 - head), (x2 + wing, y2 - head)]
        else:
            bends = [((x1 + x2) / 2, y1), ((x1 + x2) / 2, y2), (x2 - head + 1, y2)]
            corners = [end, (x2 - head, y2 - wing), (x2 - head, y2 + wing)]
        curve = f"M{_points([start])}C{_points(bends)}"
        ET.SubElement(self._root, "path", {"d": curve, "fill": "none", **stroke.attributes()})
        ET.SubElement(self._root, "polygon", {"points": _points(corners), "fill": stroke.colour})

    def _text(self, at: Point, words: str, space: float, **look: Unpack[_Look]) -> None:
        """Write a line; one that has no room is written smaller, and then cut, with the whole as its title."""
        words = _clean(words)
        weight, anchor = look.get("weight", REGULAR), look.get("anchor", "start")
        width = CHARACTER if weight == REGULAR else BOLD_CHARACTER
        size = min(look["size"], space / (width * max(len(words), 1)))
        shown = words
        if size < SMALLEST_FONT:
            size = SMALLEST_FONT
            shown = words[: int(space / (width * size)) - 1] + "…"
        style = {"font-size": _number(size), "fill": look.get("fill", INK)}
        if weight != REGULAR:
            style["font-weight"] = str(weight)
        if anchor != "start":
            style["text-anchor"] = anchor
        element = ET.SubElement(self._root, "text", {"x": _number(at[0]), "y": _number(at[1]), **style})
        if shown == words:
            element.text = words
        else:
            title = ET.SubElement(element, "title")
            title.text, title.tail = words, shown

    def _rect(self, box: _Box, *, fill: str, stroke: str, radius: float = 8, thick: float = 1) -> None:
        place = {"x": box.x, "y": box.y, "width": box.width, "height": box.height, "rx": radius}
        look = {"fill": fill} | ({"stroke": stroke, "stroke-width": _number(thick)} if stroke != "none" else {})
        ET.SubElement(self._root, "rect", {key: _number(value) for key, value in place.items()} | look)

    def _circle(self, x: float, y: float, radius: float, fill: str) -> None:
        ET.SubElement(self._root, "circle", {"cx": _number(x), "cy": _number(y), "r": _number(radius), "fill": fill})

    def _line(self, start: Point, end: Point, stroke: _Stroke) -> None:
        place = {"x1": start[0], "y1": start[1], "x2": end[0], "y2": end[1]}
        ET.SubElement(self._root, "line", {key: _number(value) for key, value in place.items()} | stroke.attributes())
