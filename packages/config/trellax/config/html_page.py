"""The page around an HTML view: style and behaviour, in one file without outside parts.

Usage: `page("llama2_7b", "<b>Trainer</b>", body, "Only differences")` is the whole document.
"""

from __future__ import annotations

from html import escape

_STYLE = """
:root {
  color-scheme: light dark;
  --bg: #fbfaf7; --panel: #ffffff; --ink: #1e2330; --dim: #858b99; --line: #e4e2db;
  --name: #3d4a66; --class: #7a3ea8; --value: #1d6b43; --accent: #b4540a; --hit: #ffe58a;
  --add: #e3f4e6; --del: #fbe6e4; --mod: #fdf0d5; --missing: #c22f3d; --focus: #3b6fd4;
}
@media (prefers-color-scheme: dark) {
  :root {
    --bg: #14171d; --panel: #1b1f27; --ink: #e2e5ec; --dim: #7d8494; --line: #2c323d;
    --name: #b3c1de; --class: #cfa2ee; --value: #86d3a4; --accent: #f0a35e; --hit: #6b5a12;
    --add: #17331f; --del: #3d1f21; --mod: #3a2f16; --missing: #ff7b86; --focus: #7ea6f5;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--bg); color: var(--ink);
  font: 14px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
header { position: sticky; top: 0; z-index: 2; background: var(--bg);
  border-bottom: 1px solid var(--line); padding: 14px 24px 10px; }
h1 { font-size: 18px; margin: 0 0 2px; font-weight: 650; }
.about { color: var(--dim); margin: 0 0 10px; }
.about code { color: var(--class); }
.bar { display: flex; gap: 8px; align-items: center; flex-wrap: wrap; }
input[type=search] { flex: 1 1 260px; max-width: 460px; padding: 6px 10px; font: inherit;
  color: inherit; background: var(--panel); border: 1px solid var(--line); border-radius: 6px; }
.bar button, .bar label { font: inherit; font-size: 13px; padding: 5px 11px; color: inherit;
  background: var(--panel); border: 1px solid var(--line); border-radius: 6px; cursor: pointer; }
.bar label { display: inline-flex; gap: 6px; align-items: center; }
.bar button:hover, .bar label:hover { border-color: var(--dim); }
:focus-visible { outline: 2px solid var(--focus); outline-offset: -1px; border-radius: 4px; }
#count { color: var(--dim); font-size: 13px; }
main { padding: 14px 24px 60px; font: 13px/1.65 ui-monospace, SFMono-Regular, Menlo, Consolas,
  "DejaVu Sans Mono", monospace; }
.tree { background: var(--panel); border: 1px solid var(--line); border-radius: 8px;
  padding: 8px 6px; overflow-x: auto; }
details > div { margin-left: 11px; padding-left: 9px; border-left: 1px solid var(--line); }
summary, .leaf { display: flex; align-items: baseline; border-radius: 4px; padding: 0 6px;
  min-width: max-content; }
summary { cursor: pointer; list-style: none; }
summary::-webkit-details-marker { display: none; }
summary::before { content: "\\25B8"; color: var(--dim); flex: 0 0 12px; margin-right: 4px;
  text-align: center; transition: transform .1s; }
details[open] > summary::before { transform: rotate(90deg); }
.leaf { padding-left: 22px; }
summary:hover, .leaf:hover { background: color-mix(in srgb, var(--dim) 13%, transparent); }
.name { font: inherit; color: var(--name); background: none; border: 0; padding: 0;
  cursor: copy; text-align: left; }
.name:hover { text-decoration: underline dotted; }
.sep { color: var(--dim); margin-right: .6em; }
.class { color: var(--class); font-weight: 600; }
.value { color: var(--value); white-space: pre; }
.default, .default .name, .default .value { color: var(--dim); }
.changed > .name, .cell.changed .name { font-weight: 650; color: var(--ink); }
.changed > .value::after { content: " \\25CF"; color: var(--accent); font-size: 9px;
  vertical-align: 2px; }
.missing, .default .missing { color: var(--missing); font-weight: 650; }
.was { color: var(--dim); margin-left: 1.2em; opacity: .8; white-space: pre; }
.hit > .name, .hit > .value, .hit > .class, .hit .cell > .name { background: var(--hit); }
.hidden { display: none !important; }
.pair { display: grid; width: 100%; min-width: 0; column-gap: 10px;
  grid-template-columns: calc(50% - var(--depth) * 10.5px - 5px) minmax(0, 1fr); }
.pair .cell + .cell { margin-left: calc(var(--depth) * 21px); }
summary.pair { position: relative; padding-left: 22px; }
summary.pair::before { position: absolute; left: 6px; top: 0; }
.pair .cell { min-width: 0; padding: 0 6px; border-radius: 3px; overflow-wrap: anywhere; }
.pair .value { white-space: pre-wrap; }
.columns { display: grid; grid-template-columns: calc(50% - 5px) 1fr; column-gap: 10px;
  font-weight: 650; padding: 2px 12px 8px 28px; }
.cell.removed { background: var(--del); } .cell.added { background: var(--add); }
.cell.changed, .cell.retyped { background: var(--mod); }
.empty { padding: 8px 24px; color: var(--dim); }
#toast { position: fixed; left: 50%; bottom: 22px; transform: translate(-50%, 20px);
  background: var(--ink); color: var(--bg); padding: 7px 14px; border-radius: 8px; opacity: 0;
  transition: .15s; pointer-events: none; font-size: 13px; }
#toast.on { opacity: 1; transform: translate(-50%, 0); }
@media print { header { position: static; } .bar, #toast { display: none; } }
"""

_SCRIPT = """
const $ = (s) => [...document.querySelectorAll(s)];
const search = document.getElementById("search"), only = document.getElementById("only");
const rows = $("[data-path]"), folds = $("details"), toast = document.getElementById("toast");
const initiallyOpen = folds.map((d) => d.open);
const texts = rows.map((r) => (r.dataset.path + " " + r.textContent).toLowerCase());
const holder = (row) => row.tagName === "SUMMARY" ? row.parentElement : row;
const wanted = (row) => row.classList.contains("changed") || row.classList.contains("differs");
function refresh() {
  const words = search.value.toLowerCase().split(/\\s+/).filter(Boolean);
  const searching = words.length > 0, filtering = searching || only.checked;
  let hits = 0;
  rows.forEach((row) => { holder(row).classList.toggle("hidden", filtering); });
  rows.forEach((row, i) => {
    const found = searching && words.every((w) => texts[i].includes(w));
    const shown = (!searching || found) && (!only.checked || wanted(row));
    row.classList.toggle("hit", found && shown);
    if (!filtering || !shown) return;
    hits += 1;
    for (let e = holder(row); e && e.tagName !== "MAIN"; e = e.parentElement) {
      e.classList.remove("hidden");
      if (e.tagName === "DETAILS" && e !== holder(row)) e.open = true;
    }
  });
  if (!filtering) folds.forEach((d, i) => { d.open = initiallyOpen[i]; });
  document.getElementById("count").textContent = filtering ? hits + " shown" : "";
}
function copy(path) {
  const done = () => {
    toast.textContent = "Copied " + path; toast.classList.add("on");
    setTimeout(() => toast.classList.remove("on"), 1400);
  };
  const byHand = () => {
    const area = document.createElement("textarea");
    area.value = path; document.body.append(area); area.select();
    document.execCommand("copy"); area.remove(); done();
  };
  if (navigator.clipboard && window.isSecureContext) {
    navigator.clipboard.writeText(path).then(done, byHand);
  } else byHand();
}
document.addEventListener("click", (event) => {
  const name = event.target.closest(".name");
  if (!name) return;
  event.preventDefault();
  copy(name.closest("[data-path]").dataset.path || "(root)");
});
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && document.activeElement !== search) {
    event.preventDefault(); search.focus(); search.select();
  } else if (event.key === "Escape" && document.activeElement === search) {
    search.value = ""; refresh();
  }
});
search.addEventListener("input", refresh);
only.addEventListener("change", refresh);
document.getElementById("open").onclick = () => folds.forEach((d) => { d.open = true; });
document.getElementById("close").onclick = () => folds.slice(1).forEach((d) => { d.open = false; });
"""


def page(title: str, about: str, body: str, only: str) -> str:
    """Returns a whole HTML document.

    Args:
        title: the heading, as plain text.
        about: one line of HTML below it.
        body: the tree, as HTML.
        only: what the check box that hides everything else says, as plain text.
    """
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
<p class="about">{about}</p>
<div class="bar">
<input id="search" type="search" placeholder="Search paths and values  ( / )"
 aria-label="Search paths and values">
<label><input id="only" type="checkbox"> {escape(only)}</label>
<button id="open" type="button">Unfold all</button>
<button id="close" type="button">Fold all</button>
<span id="count" role="status"></span>
</div>
</header>
<main>
{body}
</main>
<div id="toast" role="status"></div>
<script>{_SCRIPT}</script>
</body>
</html>
"""
