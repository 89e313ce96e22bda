#!/usr/bin/env python3
"""Draws what the benchmarks have measured: target/benches/*.json into docs/performance/*.svg.

    cargo bench -p alphorn-benches && benches/plot.py

One file for each kind of figure of a measurement. A bar is a median, the line on it goes from
the least to the most. What grows with a number is a line over it, both in powers of ten. Needs
nothing but Python.
"""

import json
import math
import os
import pathlib
from collections import defaultdict
from html import escape

ROOT = pathlib.Path(__file__).resolve().parent.parent
JSON = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "benches"
SVG = ROOT / "docs" / "performance"

WIDTH, BAR, GAP, LEFT, RIGHT, TOP = 860, 18, 14, 260, 150, 58
COLOURS = ["#4c78a8", "#9ecae9", "#54a24b", "#f58518", "#b279a2", "#e45756"]


def text(x, y, words, anchor="start", size=12, weight="normal"):
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" '
            f'font-weight="{weight}">{escape(str(words))}</text>')


def number(value):
    if value >= 10_000:
        return f"{value / 1000:,.0f}k"
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def label(of, without=()):
    parts = []
    for name, value in of.items():
        if name in without:
            continue
        parts.append({"qos": f"QoS {value}", "bytes": f"{value} B", "rate": f"{value}/s"}.get(name, value))
    return ", ".join(parts)


def bars(title, unit, groups):
    """Groups of bars, each group under its name; a bar is (name, median, least, most)."""
    names = list(dict.fromkeys(name for _, group in groups for name, *_ in group))
    colour = {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(names)}
    most = max(figure[3] for _, group in groups for figure in group) or 1
    scale = (WIDTH - LEFT - RIGHT) / most
    y, drawn = TOP, []
    for name, group in groups:
        if name:
            drawn.append(text(10, y + 12, name, weight="bold"))
            y += 20
        for who, median, least, greatest in group:
            middle = y + BAR / 2
            drawn.append(text(LEFT - 8, middle + 4, who, "end"))
            drawn.append(f'<rect x="{LEFT}" y="{y}" width="{median * scale:.1f}" height="{BAR - 4}" '
                         f'fill="{colour[who]}"/>')
            drawn.append(f'<path d="M{LEFT + least * scale:.1f} {middle - 2}H{LEFT + greatest * scale:.1f}" '
                         f'stroke="#333"/>')
            words = f"{number(median)} [{number(least)} .. {number(greatest)}]"
            drawn.append(text(LEFT + greatest * scale + 6, middle + 2, words, size=11))
            y += BAR
        y += GAP
    head = [text(10, 24, title, size=16, weight="bold"),
            text(10, 42, f"{unit + ', ' if unit else ''}median [least .. most]", size=11)]
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" '
            f'viewBox="0 0 {WIDTH} {y}" font-family="sans-serif">\n'
            f'<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(head + drawn) + "\n</svg>\n")


def lines(title, unit, over, series):
    """A line for each name: points are (x, median), drawn over their logarithms."""
    height, left, bottom = 320, 90, 50
    points = [point for _, line in series for point in line]
    # Nothing has no logarithm; it is drawn where one is.
    place = lambda value: math.log10(max(value, 1))
    low_x, high_x = (pick(place(x) for x, _ in points) for pick in (min, max))
    low, high = math.floor(min(place(y) for _, y in points)), math.ceil(max(place(y) for _, y in points))
    high = max(high, low + 1)
    across = lambda x: left + (place(x) - low_x) / ((high_x - low_x) or 1) * (WIDTH - left - RIGHT)
    up = lambda y: height - bottom - (place(y) - low) / (high - low) * (height - bottom - TOP)
    drawn = [text(10, 24, title, size=16, weight="bold"), text(10, 42, f"{unit}, over {over}", size=11)]
    for power in range(low, high + 1):
        y = up(10**power)
        drawn.append(f'<path d="M{left} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        drawn.append(text(left - 8, y + 4, number(10**power), "end", 11))
    for x in sorted({x for x, _ in points}):
        drawn.append(text(across(x), height - bottom + 18, number(x) if x else "0", "middle", 11))
    for index, (name, line) in enumerate(series):
        colour = COLOURS[index % len(COLOURS)]
        path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in sorted(line))
        drawn.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        drawn += [f'<circle cx="{across(x):.1f}" cy="{up(y):.1f}" r="3" fill="{colour}"/>' for x, y in line]
        x, y = max(line)
        drawn.append(text(across(x) + 8, up(y) + 4, f"{name} {number(y)}", size=11))
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
            f'viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">\n'
            f'<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(drawn) + "\n</svg>\n")


def grown(figures):
    """What the figures grow with, if they do: the last of what they are of, when it is a number."""
    over = list(figures[0]["of"])[-1]
    values = {figure["of"][over] for figure in figures}
    return over if len(values) > 2 and all(value.isdecimal() for value in values) else None


def main():
    SVG.mkdir(parents=True, exist_ok=True)
    for file in sorted(JSON.glob("*.json")):
        report = json.loads(file.read_text())
        kinds = defaultdict(list)
        for figure in report["figures"]:
            kinds[figure["what"], figure["unit"]].append(figure)
        for (what, unit), figures in kinds.items():
            name = f"{report['measurement']}-{what.replace(' ', '-').replace(',', '').replace(chr(39), '')}.svg"
            title = f"{report['measurement']}: {what}"
            over = grown(figures) if report["measurement"] == "growth" else None
            if over:
                series = defaultdict(list)
                for figure in figures:
                    series[label(figure["of"], [over])].append((int(figure["of"][over]), figure["median"]))
                (SVG / name).write_text(lines(title, unit, over, list(series.items())))
                print(SVG / name)
                continue
            groups = defaultdict(list)
            # Who is compared are the bars; all else tells the groups apart.
            inner = [name for name in ("who", "beside", "outbox") if name in figures[0]["of"]]
            inner = inner or list(figures[0]["of"])[:1]
            for figure in figures:
                of = figure["of"]
                who = " / ".join(of[name] for name in ("who", "outbox", "beside") if name in of) or label(of)
                groups[label(of, inner)].append((who, figure["median"], figure["least"], figure["most"]))
            (SVG / name).write_text(bars(title, unit, list(groups.items())))
            print(SVG / name)


if __name__ == "__main__":
    main()
