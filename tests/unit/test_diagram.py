"""The picture of the cluster: whole, truthful, and safe to open."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.config import load_stack, parse_config
from cluster.render.diagram import DRAWN_ONE_BY_ONE, render_diagram
from cluster.topology import Topology, build_topology, percent

SVG = "{http://www.w3.org/2000/svg}"
ROOT = Path(__file__).resolve().parents[2]

DOCUMENTED: dict[str, Any] = {
    "servers": [
        {"name": "app1", "weight": 3},
        {"name": "app2", "max_fails": 2, "fail_timeout": "20s"},
        {"name": "app3"},
        {"name": "app4", "backup": True},
    ],
    "sessions": {"engine": "cached_db"},
    "database": {"engine": "sqlite"},
    "site": {"instance_ports": 8000},
}


def topology(*, servers: object, site: dict[str, Any] | None = None, **more: Any) -> Topology:
    return build_topology(
        parse_config(
            {
                "platform": "local",
                "app": {"project": "./example", "settings": "example.settings"},
                "upstream": {"servers": servers, "method": more.pop("method", "round_robin")},
                "site": {"server_names": ["cluster", "localhost"], "listen": 8080, **(site or {})},
                **more,
            }
        )
    )


def texts(svg: str) -> list[str]:
    return ["".join(text.itertext()) for text in ET.fromstring(svg).iter(f"{SVG}text")]


def dashes(svg: str) -> list[str | None]:
    return [path.get("stroke-dasharray") for path in ET.fromstring(svg).iter(f"{SVG}path") if "C" in path.get("d", "")]


def widths(svg: str) -> list[float]:
    """Return the thickness of the arrows to the instances, in their order."""
    paths = [path for path in ET.fromstring(svg).iter(f"{SVG}path") if path.get("stroke") == "#059669"]
    return [float(path.get("stroke-width", "0")) for path in paths]


def test_the_picture_of_the_documents_is_up_to_date() -> None:
    drawn = render_diagram(build_topology(load_stack(ROOT, "local")), "local")
    message = "run: cluster render local --diagram > docs/cluster.svg"
    assert (ROOT / "docs" / "cluster.svg").read_text(encoding="utf-8").rstrip("\n") == drawn.rstrip("\n"), message


@pytest.mark.parametrize("count", [1, 2, 4, 8, DRAWN_ONE_BY_ONE])
def test_every_instance_is_drawn_with_its_name_and_its_share(count: int) -> None:
    servers = [{"name": f"app{number}", "weight": number} for number in range(1, count + 1)]
    built = topology(servers=servers)
    found = texts(render_diagram(built, "dev"))
    for instance in built.instances:
        assert found[found.index(instance.name) - 1] == percent(instance.share)


def test_many_instances_are_drawn_as_one_card_of_each_kind() -> None:
    servers = [{"name": f"app{number}", "weight": 1 + number % 2} for number in range(1, 97)]
    servers += [{"name": "app97", "backup": True}, {"name": "app98", "backup": True}]
    servers += [{"name": "app99", "down": True}]
    found = texts(render_diagram(topology(servers=servers), "production"))
    assert {"app1 … app96", "app97 … app98", "app99"} <= set(found)
    assert {"96 instances, 0.694 % to 1.39 % each", "2 instances", "1 instance"} <= set(found)
    assert found[found.index("app1 … app96") - 1] == "100 %"


def test_backups_are_dashed_and_those_that_are_down_dotted_and_both_say_so() -> None:
    servers = [{"name": "app1"}, {"name": "app2", "backup": True}, {"name": "app3", "down": True}]
    svg = render_diagram(topology(servers=servers), "dev")
    assert dashes(svg)[1:4] == [None, "6 5", "2 4"]
    assert {"backup", "down"} <= set(texts(svg))


def test_an_arrow_is_the_thicker_the_larger_the_share() -> None:
    servers = [{"name": "app1", "weight": 3}, {"name": "app2"}, {"name": "app3", "weight": 2}]
    thick = widths(render_diagram(topology(servers=servers), "dev"))
    assert thick[0] > thick[2] > thick[1]


def test_the_stores_are_named_with_every_node_of_memcached() -> None:
    found = texts(render_diagram(topology(**DOCUMENTED), "local"))
    assert {"cached_db", "memcached 1", "memcached 2", "sqlite", "cluster", "localhost", "port 8080"} <= set(found)
    many = {"engine": "db", "previous": "cache", "memcached": {"nodes": 9}}
    found = texts(render_diagram(topology(servers=2, sessions=many), "local"))
    assert {"db", "still reads cache", "memcached 6", "and 3 more nodes of memcached", "the project's own"} <= set(
        found
    )


def test_shares_that_nginx_does_not_keep_exactly_are_said_to_be_averages() -> None:
    exact, average = (render_diagram(topology(servers=2, method=m), "dev") for m in ("round_robin", "ip_hash"))
    assert "(on average)" not in exact
    assert "(on average)" in average


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=60) | st.just('<script>&"\x01\x00\ud800</svg>'))
def test_any_text_is_escaped_and_the_file_stays_well_formed(stack: str) -> None:
    svg = render_diagram(topology(servers=2), stack)
    root = ET.fromstring(svg.encode())
    assert root.tag == f"{SVG}svg"
    assert not list(root.iter(f"{SVG}script"))


@pytest.mark.parametrize("servers", [1, 4, 30, 1000, [{"name": "a" * 32, "down": True, "max_conns": 2**31 - 1}]])
def test_nothing_stands_outside_the_picture(servers: object) -> None:
    names = ["x" * 60 + ".example.com"] * 12
    sessions = {"engine": "cached_db", "memcached": {"nodes": 32}, "previous": "signed_cookies"}
    root = ET.fromstring(
        render_diagram(topology(servers=servers, site={"server_names": names}, sessions=sessions), "s" * 200)
    )
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for box in root.iter(f"{SVG}rect"):
        x, y, wide, high = (float(box.attrib[key]) for key in ("x", "y", "width", "height"))
        assert 0 <= x <= x + wide <= width
        assert 0 <= y <= y + high <= height
    for text in root.iter(f"{SVG}text"):
        assert 0 < float(text.attrib["x"]) < width
        assert 0 < float(text.attrib["y"]) < height


def test_it_is_the_same_every_time_and_needs_nothing_from_elsewhere() -> None:
    one, other = (render_diagram(topology(**DOCUMENTED), "local") for _ in range(2))
    assert one == other
    assert "href" not in one
    assert "url(" not in one
    assert one.count("http") == one.count('xmlns="http://www.w3.org/2000/svg"') == 1
