"""One start as a picture: a bar per step, on a scale of milliseconds; for light and dark pages."""

import math
from typing import Final
from xml.sax.saxutils import escape

from bench.ledger import StartLedger

_WIDTH: Final = 860
_LEFT: Final = 150  # where the scale begins; the steps' names stand before it
_RIGHT: Final = 90  # room for a figure behind the longest bar
_TOP: Final = 70
_ROW: Final = 26
_BAR: Final = 16
_TICKS: Final = 8  # at most

_STYLE: Final = """
  text { font: 13px system-ui, sans-serif; fill: #24292f; }
  .title { font-size: 16px; font-weight: 600; }
  .quiet { fill: #656d76; font-size: 12px; }
  .number { font-variant-numeric: tabular-nums; }
  .step { fill: #2f6fdb; }
  .tick { stroke: #656d76; stroke-opacity: 0.3; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .quiet { fill: #9198a1; }
    .step { fill: #6ca4f8; }
    .tick { stroke: #9198a1; }
  }
"""


def draw(ledger: StartLedger, title: str, note: str) -> str:
    """Return an SVG of a start: a bar per step where it began, as long as it took, with its ms."""
    bottom = _TOP + _ROW * len(ledger.steps)
    scale = (_WIDTH - _LEFT - _RIGHT) / ledger.total_ms
    height = bottom + 52
    size = f'viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{_STYLE}</style>",
        _text(12, 26, title, "title"),
        _text(12, 47, note, "quiet"),
    ]
    tick = tick_ms(ledger.total_ms)
    for number in range(math.floor(ledger.total_ms / tick) + 1):
        x = _LEFT + number * tick * scale
        lines.append(f'<path class="tick" d="M{x:.1f} {_TOP - 6}V{bottom + 4}"/>')
        lines.append(_text(x, bottom + 20, f"{number * tick}", "quiet number", anchor="middle"))
    for row, step in enumerate(ledger.steps):
        y = _TOP + _ROW * row
        x = _LEFT + step.begin_ms * scale
        width = max(1.5, step.took_ms * scale)
        lines.append(_text(_LEFT - 10, y + 13, step.name, anchor="end"))
        lines.append(
            f'<rect class="step" x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_BAR}" rx="2"/>'
        )
        figure = f"{step.took_ms:.1f}" if step.took_ms < 10 else f"{step.took_ms:.0f}"
        lines.append(_text(x + width + 6, y + 13, f"{figure} ms", "number"))
    legend = "milliseconds since the shim was started; a bar's length is what its step took"
    lines.append(_text(_LEFT, bottom + 40, legend, "quiet"))
    return "\n".join([*lines, "</svg>", ""])


def tick_ms(total_ms: float) -> int:
    """Return the distance of the scale's marks: 1, 2 or 5 times a power of ten, at most 8 marks."""
    power = 1
    while True:
        for factor in (1, 2, 5):
            if total_ms / (factor * power) <= _TICKS:
                return factor * power
        power *= 10


def _text(x: float, y: float, words: str, kind: str = "", *, anchor: str = "start") -> str:
    attributes = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}"{attributes}>{escape(words)}</text>'
