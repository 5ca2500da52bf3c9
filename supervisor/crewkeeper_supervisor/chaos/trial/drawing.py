"""Drawing: lanes of a run and wait graphs as SVG inside HTML; whatever comes from a run is escaped."""

import math
import re
from collections.abc import Callable, Iterator
from html import escape
from typing import Final

from crewkeeper_supervisor.chaos.trial.events import FINDINGS, Sighting
from crewkeeper_supervisor.chaos.trial.verdict import Observed

WIDTH: Final = 1040
LEFT: Final = 130
LANE: Final = 22
TOP: Final = 34
LANES_MAX: Final = 60
"""Agents shown; a larger crew is cut."""
SPANS_MAX: Final = 3000
NODES_MAX: Final = 24
TICKS: Final = 9
"""About so many times stand below the lanes."""
LETTER: Final = 6
"""About the width of one in the names of faults."""
_NAME_MAX: Final = 16
_KINDS: Final = {"up": (14, "var(--up)"), "wait": (8, "var(--wait)"), "held": (4, "var(--held)")}


def lanes(observed: Observed) -> str:
    """A lane for each agent, shaded while a fault is at work on it, or on all; findings as marks."""
    agents = sorted({span.agent for span in observed.spans}, key=_by_number)[:LANES_MAX]
    from_s = min([0.0, *(span.from_s for span in observed.spans)])
    until_s = max(observed.end_s, from_s + 0.001)
    height = TOP + LANE * max(1, len(agents)) + 26

    def x(at_s: float) -> float:
        share = (min(max(at_s, from_s), until_s) - from_s) / (until_s - from_s)
        return round(LEFT + share * (WIDTH - LEFT - 10), 1)

    parts = [
        f"<svg viewBox='0 0 {WIDTH} {height}' width={WIDTH} height={height} role=img aria-label='lanes of agents'>"
    ]
    parts += _axis(from_s, until_s, x, height)
    spans = sorted(observed.spans[:SPANS_MAX], key=lambda span: -_KINDS.get(span.what, (4, ""))[0])  # thin on thick
    for number, agent in enumerate(agents):
        y = TOP + LANE * number + LANE / 2
        parts.append(f"<text x=4 y={y + 4}>{escape(_cut(agent))}</text>")
        parts += [
            _bar(
                x(span.from_s),
                x(span.to_s),
                y,
                span.what,
                f"{span.what} {span.text} {span.from_s:.3f}-{span.to_s:.3f} s",
            )
            for span in spans
            if span.agent == agent
        ]
    parts += _shades(observed, agents, x, until_s)  # over the bars, which would hide them
    for each in [each for each in observed.seen if each.event in FINDINGS][:200]:
        title = escape(f"{each.event} at {each.at_s:.3f} s: {each.summary}")
        at = x(each.at_s)
        parts.append(
            f"<path d='M{at} 4 l5 9 h-10 z' fill='var(--fail)'><title>{title}</title></path>"
            f"<line x1={at} y1=13 x2={at} y2={height - 20} stroke='var(--fail)' stroke-dasharray='2 3'/>"
        )
    return "".join(parts) + "</svg>"


def _bar(from_x: float, to_x: float, y: float, what: str, title: str) -> str:
    thick, color = _KINDS.get(what, (4, "var(--faint)"))
    return (
        f"<rect x={from_x} y={y - thick / 2} width={max(1.0, to_x - from_x):.1f} height={thick} fill='{color}'>"
        f"<title>{escape(title)}</title></rect>"
    )


def _shades(observed: Observed, agents: list[str], x: Callable[[float], float], until_s: float) -> Iterator[str]:
    """Where faults are at work: in the lane of one agent, or in all of them. Names do not hide each other."""
    taken: dict[float, float] = {}
    for fault in observed.struck:
        end_s = fault.end_s if fault.end_s is not None else until_s
        from_x, to_x = x(fault.at_s), x(end_s)
        own = fault.target in agents
        top = TOP + LANE * (agents.index(fault.target) if own else 0)
        high = LANE * (1 if own else max(1, len(agents)))
        named_y = top + 15 if own else TOP - 10
        named_x = max(from_x + 3, taken.get(named_y, 0.0))
        taken[named_y] = named_x + LETTER * (len(fault.do) + 1)
        title = f"{fault.do} {fault.target}, {fault.at_s:.2f} to {end_s:.2f} s, fired {fault.fired}"
        yield (
            f"<rect x={from_x} y={top} width={max(2.0, to_x - from_x):.1f} height={high} fill='var(--shade)' "
            f"opacity=.22><title>{escape(title)}</title></rect>"
            f"<text x={named_x:.1f} y={named_y} style='font-size: 10px'>{escape(fault.do)}</text>"
        )


def _axis(from_s: float, until_s: float, x: Callable[[float], float], height: int) -> Iterator[str]:
    """Lines at round times, the beginning of the crew among them."""
    rough_s = (until_s - from_s) / TICKS
    power = 10.0 ** math.floor(math.log10(rough_s))
    step_s = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough_s)
    for number in range(math.ceil(from_s / step_s), math.floor(until_s / step_s) + 1):
        at_x = x(number * step_s)
        yield f"<line x1={at_x} y1={TOP - 4} x2={at_x} y2={height - 18} stroke='var(--line)'/>"
        yield f"<text x={at_x} y={height - 4} text-anchor=middle>{number * step_s:g} s</text>"


def _by_number(name: str) -> list[tuple[int, str]]:
    """So that agent 10 comes after agent 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def graph(sighting: Sighting) -> str:
    """Who waited for whom when something was found: agents in a circle, arrows from who waits."""
    arrows = [(waiter, other) for waiter, others, _ in sighting.edges for other in others]
    names = list(dict.fromkeys([*(waiter for waiter, _, _ in sighting.edges), *(other for _, other in arrows)]))
    names = names[:NODES_MAX]
    size = 130 + 14 * len(names)
    middle, radius = size / 2, size / 2 - 40
    places = {
        name: (
            middle + radius * math.sin(2 * math.pi * number / len(names)),
            middle - radius * math.cos(2 * math.pi * number / len(names)),
        )
        for number, name in enumerate(names)
    }
    told = "; ".join(text for _, _, text in sighting.edges)
    parts = [f"<svg viewBox='0 0 {size} {size}' width={size} height={size} role=img aria-label=\"{escape(told)}\">"]
    parts += [_arrow(places[a], places[b]) for a, b in dict.fromkeys(arrows) if a in places and b in places and a != b]
    for name, (at_x, at_y) in places.items():
        beside_y = at_y - 13 if at_y <= middle else at_y + 22  # outside the circle, where no arrow is
        parts.append(
            f"<circle cx={at_x:.1f} cy={at_y:.1f} r=9 fill='var(--wait)'/>"
            f"<text x={at_x:.1f} y={beside_y:.1f} text-anchor=middle>{escape(_cut(name))}</text>"
        )
    rows = "".join(f"<br>{escape(text)}" for _, _, text in sighting.edges[:NODES_MAX])
    return "".join(parts) + f"</svg><span class=faint>{rows}</span>"


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> str:
    length = math.dist(start, end) or 1.0
    unit_x, unit_y = (end[0] - start[0]) / length, (end[1] - start[1]) / length
    # Beside the straight line, so that two arrows between the same two agents are two.
    bend_x, bend_y = (start[0] + end[0]) / 2 - unit_y * 14, (start[1] + end[1]) / 2 + unit_x * 14
    tip_x, tip_y = end[0] - unit_x * 12, end[1] - unit_y * 12
    back_x, back_y = tip_x - unit_x * 8, tip_y - unit_y * 8
    wing_x, wing_y = -unit_y * 4, unit_x * 4
    return (
        f"<path d='M{start[0]:.1f} {start[1]:.1f} Q{bend_x:.1f} {bend_y:.1f} {back_x:.1f} {back_y:.1f}' fill=none "
        f"stroke='var(--faint)'/><path d='M{tip_x:.1f} {tip_y:.1f} L{back_x + wing_x:.1f} {back_y + wing_y:.1f} "
        f"L{back_x - wing_x:.1f} {back_y - wing_y:.1f} z' fill='var(--faint)'/>"
    )


def _cut(name: str) -> str:
    return name if len(name) <= _NAME_MAX else name[: _NAME_MAX - 1] + "…"
