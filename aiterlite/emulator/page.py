"""A run as one self-contained HTML page: estimate, findings, timeline, counters. Nothing is loaded from elsewhere."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

from aiterlite.emulator import counters as tables
from aiterlite.emulator import grouping, timeline
from aiterlite.emulator.observe import Finding
from aiterlite.target import Persona

# A colour for each kind of event: what issues, then what is waited for.
_COLORS = (
    *("#1b6ca8", "#8fb8d8", "#3a7d44", "#e3a008", "#6c4f9c", "#b59bd6", "#bbbbbb"),
    *("#f2d6d9", "#9fce9f", "#e8b4b8", "#d1495b", "#e98a5b", "#555555", "#eeeeee"),
)

_STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 1.5em; color: #222; background: #fff; max-width: 1400px }
pre { background: #f5f5f5; padding: .8em; overflow-x: auto; white-space: pre-wrap }
canvas { width: 100%; border: 1px solid #ccc; display: block; cursor: grab }
.key span { display: inline-block; margin: 0 1em .3em 0 } .key i { display: inline-block; width: 1em; height: 1em;
vertical-align: -.15em; margin-right: .35em } #tip { position: fixed; background: #222; color: #fff; padding: .3em .6em;
font: 12px monospace; display: none; pointer-events: none; max-width: 60em }
"""

_SCRIPT = """
const tip = document.getElementById("tip"), left = 190, high = 16;
for (const data of DATA) {
  const canvas = document.getElementById(data.id), pen = canvas.getContext("2d"), byRow = data.rows.map(() => []);
  for (const e of data.events) byRow[e[0]].push(e);
  let from = 0, to = data.cycles || 1;
  const width = () => canvas.clientWidth - left, x = cycle => left + (cycle - from) / (to - from) * width();
  function draw() {
    const scale = window.devicePixelRatio || 1, tall = high * (data.rows.length + 1);
    canvas.width = canvas.clientWidth * scale; canvas.height = tall * scale; canvas.style.height = tall + "px";
    pen.setTransform(scale, 0, 0, scale, 0, 0); pen.font = "11px sans-serif"; pen.textBaseline = "middle";
    data.rows.forEach((name, row) => {
      const y = row * high; let last = -1;
      pen.fillStyle = row % 2 ? "#fafafa" : "#fff"; pen.fillRect(0, y, canvas.clientWidth, high);
      for (const [, kind, at, cycles] of byRow[row]) {
        if (at + cycles < from || at > to) continue;
        const a = Math.max(x(at), left), b = Math.max(Math.min(x(at + cycles), left + width()), a + .6);
        if (b < last + .3) continue;
        last = b; pen.fillStyle = data.colors[kind]; pen.fillRect(a, y + 2, b - a, high - 4);
      }
      pen.fillStyle = "#333"; pen.fillText(name, 4, y + high / 2);
    });
    pen.fillStyle = "#333";
    for (let i = 0; i <= 6; i++) {
      const cycle = from + (to - from) * i / 6;
      pen.textAlign = i == 6 ? "right" : "left";
      pen.fillText(Math.round(cycle).toLocaleString() + " cycles", x(cycle), data.rows.length * high + high / 2);
    }
    pen.textAlign = "left";
  }
  const cycleAt = event => from + (event.offsetX - left) / width() * (to - from);
  canvas.addEventListener("wheel", event => {
    event.preventDefault();
    const c = cycleAt(event), zoom = event.deltaY > 0 ? 1.25 : .8;
    from = Math.max(0, c - (c - from) * zoom); to = Math.min(data.cycles, c + (to - c) * zoom);
    if (to - from < 16) to = from + 16;
    draw();
  }, { passive: false });
  let drag = null;
  canvas.addEventListener("mousedown", event => { drag = [event.clientX, from, to]; });
  window.addEventListener("mouseup", () => { drag = null; });
  canvas.addEventListener("mousemove", event => {
    if (drag) {
      let by = (drag[0] - event.clientX) / width() * (drag[2] - drag[1]);
      by = Math.max(-drag[1], Math.min(by, data.cycles - drag[2]));
      from = drag[1] + by; to = drag[2] + by; draw();
    }
    const cycle = cycleAt(event), row = Math.floor(event.offsetY / high);
    const found = (byRow[row] || []).find(e => e[2] <= cycle && cycle < e[2] + e[3]);
    tip.style.display = found ? "block" : "none";
    if (!found) return;
    tip.textContent = data.kinds[found[1]] + ", cycle " + found[2].toLocaleString() + ", " + found[3].toLocaleString() +
      " cycles: " + data.texts[found[4]] + " (pc 0x" + found[4].toString(16) + ")";
    tip.style.left = Math.min(event.clientX + 12, window.innerWidth - 500) + "px";
    tip.style.top = event.clientY + 14 + "px";
  });
  canvas.addEventListener("mouseleave", () => { tip.style.display = "none"; });
  window.addEventListener("resize", draw);
  draw();
}
document.body.dataset.drawn = DATA.length;
"""


def page(
    title: str,
    persona: Persona,
    launches: Sequence[Mapping[str, Any]],
    findings: Sequence[Finding] | None = None,
    estimate: str = "",
) -> str:
    """The page of a run. `launches` are the library's reports, with counters and timelines where those were asked for;
    `findings` is None where nothing was watched for."""
    parts = [f"<h1>{html.escape(title)}</h1>", f"<p>Run in an emulator as on {html.escape(str(persona))}.</p>"]
    if estimate:
        parts.append(f"<h2>Estimate</h2><p>{html.escape(estimate)}</p>")
    parts.append("<h2>Findings</h2>")
    if findings is None:
        parts.append("<p>Nothing was watched for: <code>--sanitize</code> does.</p>")
    elif not findings:
        parts.append("<p>The sanitizers found nothing.</p>")
    else:
        text = "\n".join([grouping.summary(findings), *grouping.lines(findings)])
        parts.append(f"<pre>{html.escape(text)}</pre>")
    shown = [launch for launch in launches if launch.get("timeline")]
    if shown:
        parts += ["<h2>Timeline</h2>", f"<p>This is {timeline.LABEL}. Wheel: zoom; drag: move.</p>", _key()]
    data = []
    for number, launch in enumerate(shown):
        told = launch["timeline"]
        name = f"timeline{number}"
        text = "\n".join(timeline.lines(told, persona))
        parts += [
            f"<h3>{html.escape(launch['kernel'])}</h3><pre>{html.escape(text)}</pre>",
            f'<canvas id="{name}"></canvas>',
        ]
        data.append(
            {
                "id": name,
                "rows": timeline.row_names(told),
                "kinds": timeline.KINDS,
                "colors": _COLORS,
                **{key: told[key] for key in ("cycles", "events", "texts")},
            }
        )
    counted = [launch for launch in launches if launch.get("counters")]
    if counted:
        parts.append("<h2>Counters and floors</h2>")
    for launch in counted:
        text = tables.to_text({"kernel": launch["kernel"], **launch["counters"]}, persona)
        parts.append(f"<pre>{html.escape(text)}</pre>")
    # No text of a kernel ends the script.
    embedded = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n" + "\n".join(parts) + f'\n<div id="tip"></div>\n'
        f"<script>const DATA = {embedded};{_SCRIPT}</script>\n</body></html>\n"
    )


def _key() -> str:
    spans = "".join(
        f'<span><i style="background:{color}"></i>{html.escape(kind)}</span>'
        for color, kind in zip(_COLORS, timeline.KINDS, strict=True)
    )
    return f'<p class="key">{spans}</p>'
