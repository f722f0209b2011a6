"""How a report looks, in light and dark, and the few lines by which its marks find each other."""

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5c6672; --rule: #d8dce2; --back: #fff;
  --panel: #f4f6f9; --bar: #3b6fb6; --best: #c2570c; --faint: #9bb4d6; --wrong: #b3261e;
  --second: #3f8f6b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7eb; --soft: #9aa3ad; --rule: #363c44;
  --back: #15181c; --panel: #1d2127; --bar: #7aa7e6; --best: #ffa65c; --faint: #4a678f;
  --wrong: #ff8a80; --second: #6fc3a0; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back);
  max-width: 76rem; margin: 0 auto; padding: 1rem; }
h1, h2 { line-height: 1.25; overflow-wrap: anywhere; margin-bottom: 0.4rem; }
h2 { margin-top: 2.2rem; border-top: 1px solid var(--rule); padding-top: 1rem; font-size: 1.3rem; }
p { overflow-wrap: anywhere; max-width: 46rem; }
code { overflow-wrap: anywhere; font-size: 0.9em; }
.source { color: var(--soft); margin-top: 0; }
.verdict { background: var(--panel); border-left: 4px solid var(--best); padding: 0.3rem 1rem;
  border-radius: 0 6px 6px 0; }
.verdict p { margin: 0.6rem 0; max-width: 60rem; }
.verdict p:first-child { font-size: 1.1rem; font-weight: 600; }
.wide { overflow-x: auto; margin: 0.8rem 0; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(21rem, 100%), 1fr));
  gap: 1rem 2rem; align-items: start; }
figure { margin: 0.4rem 0; max-width: 34rem; }
figcaption { color: var(--soft); font-size: 0.9rem; margin-bottom: 0.3rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.9rem; }
caption { text-align: left; white-space: normal; }
th, td { text-align: right; padding: 0.25rem 0.7rem; border-bottom: 1px solid var(--rule);
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
.words th, .words td { text-align: left; }
.words td:last-child { white-space: normal; min-width: 16rem; }
th { color: var(--soft); font-weight: 600; vertical-align: bottom; }
.wrong { color: var(--wrong); font-weight: 600; }
.legend { display: flex; flex-wrap: wrap; gap: 0.2rem 1.2rem; color: var(--soft);
  font-size: 0.9rem; margin: 0.2rem 0; max-width: none; }
.legend i { display: inline-block; width: 0.9em; height: 0.9em; border-radius: 3px;
  margin-right: 0.35em; vertical-align: -1px; }
.filter { display: block; color: var(--soft); font-size: 0.9rem; }
.filter input { vertical-align: middle; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg.large { min-width: 44rem; overflow: hidden; }
svg.key { display: inline-block; width: 0.9em; height: 0.9em; vertical-align: -1px;
  margin-right: 0.35em; }
svg text { fill: var(--soft); font-size: 11.5px; }
svg text.name { fill: var(--ink); font-size: 12px; }
svg text.mark { paint-order: stroke; stroke: var(--back); stroke-width: 4px;
  stroke-linejoin: round; fill: var(--ink); font-size: 11px; pointer-events: none; }
.rule { stroke: var(--soft); }
.grid { stroke: var(--rule); stroke-width: 0.7; }
circle { stroke: var(--bar); stroke-width: 1.5; fill: var(--bar); }
circle.stopped, circle.running { fill: var(--back); stroke: var(--faint); }
circle.best { fill: var(--best); stroke: var(--best); }
path.crashed { stroke: var(--wrong); stroke-width: 2; fill: none; }
polyline { fill: none; stroke: var(--bar); stroke-width: 1.3; }
.sofar { stroke: var(--best); stroke-width: 2; }
.curve.stopped, .thread.stopped { stroke: var(--faint); }
.curve.crashed, .thread.crashed { stroke: var(--wrong); }
.curve.best, .thread.best { stroke: var(--best); stroke-width: 3; }
.thread { stroke-opacity: 0.75; }
rect { fill: var(--bar); }
rect.span.even { fill-opacity: 0.8; } rect.span.odd { fill-opacity: 0.5; }
rect.span.stopped { fill: var(--faint); }
rect.span.crashed { fill: var(--wrong); }
rect.unsure { fill: var(--faint); } rect.chance { fill: var(--soft); }
.range { stroke: var(--ink); stroke-width: 1.2; }
rect.setup, i.setup { fill: var(--soft); background: var(--soft); }
rect.learning, i.learning { fill: var(--bar); background: var(--bar); }
rect.ranking, i.ranking { fill: var(--second); background: var(--second); }
[data-trial] { cursor: pointer; }
.picked { stroke: var(--best) !important; stroke-width: 4 !important; stroke-opacity: 1; }
[hidden] { display: none; }
#picked { position: sticky; bottom: 0; background: var(--panel); white-space: pre-line;
  padding: 0.4rem 0.8rem; margin: 1rem 0 0; border: 1px solid var(--rule); border-radius: 6px;
  max-width: none; font-size: 0.9rem; }
#picked:empty { display: none; }
@media print { #picked, .filter { display: none; } }
"""

SCRIPT = """
const all = (query) => document.querySelectorAll(query);
const told = document.getElementById("picked");
let now = "";
document.addEventListener("click", (event) => {
  const mark = event.target.closest("[data-trial]");
  const trial = mark && mark.dataset.trial !== now ? mark.dataset.trial : "";
  now = trial;
  for (const other of all("[data-trial]"))
    other.classList.toggle("picked", trial !== "" && other.dataset.trial === trial);
  const words = trial && [...all(`[data-trial="${trial}"] title`)].map((t) => t.textContent);
  told.textContent = words ? words.sort((a, b) => b.length - a.length)[0] : "";
});
const most = document.getElementById("most");
if (most) most.addEventListener("input", () => {
  document.getElementById("shown").textContent = most.value;
  for (const line of all("[data-rank]"))
    line.toggleAttribute("hidden", Number(line.dataset.rank) >= Number(most.value));
});
"""
