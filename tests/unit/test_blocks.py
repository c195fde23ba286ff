"""nginx's lines in a plan: blocks are told whole, lines of a location or a map with what they are in."""

from __future__ import annotations

import time

from cluster.plan.nginx import changed_lines, difference

SITE = """\
map $http_host $port {
    default '';
    cluster:80 :80;
}
server {
    listen 80;
    server_name cluster;
    location / {
        proxy_pass http://cluster;
    }
    location ^~ /static/ {
        root /srv/static;
    }
}
server {
    listen unix:/run/internal;
    location = /-/config {
        return 200 abc;
    }
}
"""

REPORTS = """\
    location ^~ /reports/ {
        proxy_read_timeout 5m;
        proxy_pass http://cluster;
    }
"""


def changed(before: str, after: str) -> list[str]:
    return list(changed_lines(before.splitlines(), after.splitlines()))


def test_a_block_that_comes_or_goes_is_told_from_its_first_line_to_its_last() -> None:
    after = SITE.replace("    location ^~ /static/", f"{REPORTS}    location ^~ /static/").replace("abc", "def")
    told = [line.removeprefix("    ") for line in REPORTS.splitlines()]
    assert changed(SITE, after) == [f"+ {line}" for line in told]
    assert changed(after, SITE) == [f"- {line}" for line in told]


def test_what_changes_within_a_location_or_a_map_is_told_with_its_first_line() -> None:
    after = SITE.replace("root /srv/static", "root /srv/other").replace("cluster:80 :80", "cluster:81 :81")
    assert changed(SITE, after.replace("listen 80", "listen 81")) == [
        "  map $http_host $port {",
        "-     cluster:80 :80;",
        "+     cluster:81 :81;",
        "- listen 80;",
        "+ listen 81;",
        "  location ^~ /static/ {",
        "-     root /srv/static;",
        "+     root /srv/other;",
    ]


def test_a_server_that_becomes_two_is_the_one_with_which_it_has_most_in_common() -> None:
    first = "server {\n    listen 80;\n    server_name cluster;\n    return 308 https://cluster;\n}\n"
    site = SITE.replace("listen 80", "listen 443 ssl")
    after = site.replace("server {\n    listen 443", f"{first}server {{\n    listen 443")
    assert changed(SITE, after) == [
        *(f"+ {line}" for line in first.splitlines()),
        "- listen 80;",
        "+ listen 443 ssl;",
    ]


def test_what_closes_more_or_less_than_it_opens_is_compared_line_by_line() -> None:
    for broken in (f"{SITE}}}\n", SITE.removesuffix("}\n")):
        lines = changed(SITE, broken.replace("root /srv/static", "root /srv/other"))
        assert [line[1:].strip() for line in lines if "root" not in line] == ["}"]
        assert changed(broken, broken) == []


def test_directories_of_a_machine_are_left_out_the_longest_first() -> None:
    after = {"nginx.conf": "user www;\nalias /tmp/x/run/a;\nalias /tmp/x/b;\n"}
    lines = difference(lambda _path: "user www;\n", after, "d", ["nginx.conf"], places=["/tmp/x", "/tmp/x/run"])
    assert lines == ["+ alias …/a;", "+ alias …/b;"]


def test_a_hundred_servers_that_all_change_take_no_time() -> None:
    servers = [f"server {{\n    listen {port};\n{REPORTS}}}\n" for port in range(8000, 8100)]
    before = "".join(servers)
    began = time.process_time()
    lines = changed(before, before.replace("5m", "6m"))
    assert time.process_time() - began < 10
    assert lines.count("+     proxy_read_timeout 6m;") == 100
    assert len(lines) == 300
