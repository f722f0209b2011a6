// The service's page: asks the service's own interface and shows what it says. Everything that
// comes from the service is put on the page as text, never as markup.

const $ = (id) => document.getElementById(id);
const SHOWN = 360; // height of a crop in the picture of what matched
const WORDS = {
  match: "match", review: "for review", no_match: "no match", uncalibrated: "not calibrated",
};

let token = ""; // in memory alone
let models = [];
let explained = null;

class Refused extends Error {}

async function ask(path, options = {}) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  let answer;
  try {
    answer = await fetch(path, { ...options, headers, credentials: "omit", cache: "no-store" });
  } catch {
    throw new Refused("The service does not answer. Is it still running?");
  }
  const body = await answer.json().catch(() => null);
  if (answer.ok && body !== null) return body;
  if (answer.status === 401) {
    $("token").focus();
    throw new Refused(`${sentence(body, answer)} Enter a token under Access.`);
  }
  throw new Refused(sentence(body, answer));
}

function sentence(body, answer) {
  const said = typeof body?.error === "string" ? body.error : `the service answered ${answer.status}`;
  const wait = answer.headers.get("Retry-After");
  const again = wait ? ` Try again in ${wait} s.` : "";
  return `${said[0].toUpperCase()}${said.slice(1).replace(/[.]?$/, ".")}${again}`;
}

function element(name, text = "", classes = "") {
  const made = document.createElement(name);
  made.textContent = text;
  if (classes) made.className = classes;
  return made;
}

function tell(error) {
  if (!(error instanceof Refused)) throw error;
  $("alert").textContent = error.message;
  $("alert").hidden = false;
  $("alert").scrollIntoView({ block: "nearest" });
}

const quiet = () => { $("alert").hidden = true; };
const number = (value) => value.toPrecision(4);

// What is served

async function showServed() {
  quiet();
  ({ models } = await ask("v1/models"));
  const rows = models.map((model) => row([
    model.name, model.method, model.fingerprint, model.input.join(" × "),
    model.loaded ? "loaded" : model.reason || (model.on_demand ? "loaded when asked" : "loading"),
    thresholds(model.calibration),
  ]));
  $("models").tBodies[0].replaceChildren(...rows);
  for (const select of document.querySelectorAll("select.model")) {
    const chosen = select.value;
    select.replaceChildren(...models.map(({ name }) => new Option(name, name)));
    if (models.some(({ name }) => name === chosen)) select.value = chosen;
  }
  showRates();
  await showGalleries();
}

function row(cells) {
  const made = document.createElement("tr");
  made.append(...cells.map((cell) => element("td", String(cell ?? ""))));
  return made;
}

function thresholds(calibration) {
  if (!calibration) return "none: scores are not calibrated (rayreid calibrate)";
  const known = calibration.pairs.filter((one) => "threshold" in one);
  const told = known.map((one) =>
    `${one.false_accept_rate}: above ${number(one.threshold)}`).join("; ");
  return `${told || "too few pairs"} (${calibration.people} people of ${calibration.source})`;
}

function showRates() {
  const model = models.find(({ name }) => name === $("compare-model").value);
  const pairs = model?.calibration?.pairs ?? [];
  const options = pairs.map((one) => {
    const enough = "threshold" in one;
    const option = new Option(
      `${one.false_accept_rate}${enough ? "" : " (too few pairs)"}`, one.false_accept_rate);
    option.disabled = !enough;
    option.selected = one.false_accept_rate === model.calibration.default_false_accept_rate;
    return option;
  });
  $("rate").replaceChildren(...options.length ? options : [new Option("not calibrated", "")]);
  $("rate").disabled = !options.length;
}

async function showGalleries() {
  const note = $("no-galleries");
  let galleries = [];
  try {
    ({ galleries } = await ask("v1/galleries?limit=100"));
    note.textContent = galleries.length ? "" : "No galleries are enrolled yet.";
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    note.textContent = `Galleries are not shown: ${error.message}`;
  }
  note.hidden = !note.textContent;
  $("listed").hidden = !galleries.length;
  $("listed").tBodies[0].replaceChildren(...galleries.map((gallery) => row([
    gallery.name, gallery.model, gallery.identities, gallery.samples,
  ])));
  $("galleries").replaceChildren(...galleries.map(({ name }) => new Option(name, name)));
  if (galleries.length && !$("gallery").value) $("gallery").value = galleries[0].name;
}

// Dropping and choosing crops

for (const drop of document.querySelectorAll(".drop")) {
  const input = drop.querySelector("input");
  const shown = drop.querySelector("img");
  const over = (on) => (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    drop.classList.toggle("over", on);
  };
  drop.addEventListener("dragover", over(true));
  drop.addEventListener("dragleave", over(false));
  drop.addEventListener("drop", (event) => {
    over(false)(event);
    const files = new DataTransfer();
    for (const file of [...event.dataTransfer.files].slice(0, input.multiple ? 32 : 1)) {
      files.items.add(file);
    }
    if (!files.files.length) return;
    input.files = files.files;
    input.dispatchEvent(new Event("change"));
  });
  input.addEventListener("change", () => {
    quiet();
    if (shown.src) URL.revokeObjectURL(shown.src);
    const [file] = input.files;
    shown.hidden = !file;
    drop.querySelector(".hint").hidden = Boolean(file);
    if (!file) return;
    shown.src = URL.createObjectURL(file);
    const others = input.files.length > 1 ? ` and ${input.files.length - 1} more` : "";
    shown.alt = `${file.name}${others}`;
  });
}

function form(files, request) {
  const data = new FormData();
  for (const file of files) data.append("images", file);
  data.append("request", JSON.stringify(request));
  return { method: "POST", body: data };
}

function submitted(id, work) {
  $(id).addEventListener("submit", async (event) => {
    event.preventDefault();
    quiet();
    const button = $(id).querySelector("button");
    button.disabled = true;
    try {
      await work();
    } catch (error) {
      tell(error);
    } finally {
      button.disabled = false;
    }
  });
}

function verdict(decision, score) {
  const line = element("p", "", "verdict");
  if (score !== undefined) line.append(element("span", `score ${number(score)}`, "score"));
  line.append(element("span", WORDS[decision] ?? decision, `decision ${decision}`));
  return line;
}

// Comparing two crops

submitted("compare", async () => {
  const files = [$("first").files[0], $("second").files[0]];
  const model = $("compare-model").value;
  $("compared").replaceChildren();
  $("explained").hidden = true;
  const rate = $("rate").value ? { false_accept_rate: Number($("rate").value) } : {};
  const said = await ask("v1/match/pairs", form(files, { model, pairs: [[0, 1]], ...rate }));
  const by = said.thresholds;
  const told = [verdict(said.decisions[0], said.scores[0])];
  if (by.match !== null) {
    const review = by.review === null ? "" : `; for review above ${number(by.review)}`;
    const bounds = by.rate_bounds
      ? ` (95 %: ${by.rate_bounds.map((bound) => bound.toPrecision(2)).join(" to ")})` : "";
    told.push(element("p", `A match scores above ${number(by.match)}${review}. Of pairs of two `
      + `people a share of ${by.false_accept_rate}${bounds} scores higher.`, "soft"));
  } else {
    told.push(element("p", `No decision: ${by.reason}.`, "soft"));
  }
  told.push(element("p", `Model ${said.model}, weights ${said.fingerprint}, request `
    + `${said.request_id}.`, "soft"));
  $("compared").replaceChildren(...told);
  const answer = await ask("v1/explain/pair", form(files, { model }));
  const crops = await Promise.all(files.map((file) => createImageBitmap(file)));
  const { input } = models.find(({ name }) => name === said.model);
  explained = { ...answer.explanation, crops, aspect: input[1] / input[0] };
  showExplained();
});

function showExplained() {
  const { grid, matches, score, says, matched } = explained;
  $("explained").hidden = false;
  $("says").textContent = `${says[0].toUpperCase()}${says.slice(1)}. `
    + (matches.length ? `The ${matches.length} strongest matches add ${number(matched)}.` : "");
  $("overlay").setAttribute("aria-label",
    `Both crops with the regions that make their score of ${number(score)}: `
    + `${strongest(explained.first)} of the first and ${strongest(explained.second)} of the `
    + "second raise it most.");
  const place = ([line, column]) => `${region(line, grid[0])}, column ${column + 1}`;
  $("matches").replaceChildren(...matches.map((match) => element("li",
    `${place(match.first)} with ${place(match.second)}: adds ${number(match.adds)}`
    + ` (${match.parts.join(", ")})`)));
  draw();
}

function region(line, lines) {
  return ["head", "shoulders", "trunk", "hips", "legs", "feet"][Math.floor(line * 6 / lines)];
}

function strongest(shares) {
  const sums = shares.map((line) => line.reduce((sum, share) => sum + share, 0));
  return `the ${region(sums.indexOf(Math.max(...sums)), sums.length)}`;
}

function draw() {
  const canvas = $("overlay");
  const scale = Math.min(2, window.devicePixelRatio || 1);
  const width = Math.round(SHOWN * explained.aspect);
  const gap = Math.round(width / 3);
  canvas.width = (2 * width + gap) * scale;
  canvas.height = SHOWN * scale;
  canvas.style.width = `${2 * width + gap}px`;
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  const all = [...explained.first, ...explained.second].flat().map(Math.abs);
  const most = Math.max(...all) || 1;
  [explained.first, explained.second].forEach((shares, side) => {
    const left = side * (width + gap);
    pen.filter = $("shares").checked ? "grayscale(60%)" : "none";
    pen.drawImage(explained.crops[side], left, 0, width, SHOWN);
    pen.filter = "none";
    if ($("shares").checked) pen.drawImage(heat(shares, most), left, 0, width, SHOWN);
  });
  if (!$("lines").checked) return;
  const [rows, columns] = explained.grid;
  const strongest = explained.matches[0]?.adds ?? 1;
  for (const match of [...explained.matches].reverse()) {
    const ends = [match.first, match.second].map(([line, column], side) => [
      side * (width + gap) + (column + 0.5) * width / columns, (line + 0.5) * SHOWN / rows]);
    const share = match.adds / strongest;
    pen.fillStyle = `rgba(12, 148, 96, ${0.5 + 0.5 * share})`;
    // White beneath, so that a line is seen on any crop.
    for (const [style, width] of [["rgba(255, 255, 255, 0.7)", 2], [pen.fillStyle, 0]]) {
      pen.strokeStyle = style;
      pen.lineWidth = 1 + 2 * share + width;
      pen.beginPath();
      pen.moveTo(...ends[0]);
      pen.lineTo(...ends[1]);
      pen.stroke();
    }
    for (const end of ends) {
      pen.beginPath();
      pen.arc(...end, 3.5, 0, 2 * Math.PI);
      pen.fill();
    }
  }
}

function heat(shares, most) {
  const made = document.createElement("canvas");
  made.height = shares.length;
  made.width = shares[0].length;
  const image = made.getContext("2d").createImageData(made.width, made.height);
  shares.flat().forEach((share, i) => {
    const colour = share > 0 ? [12, 148, 96] : [214, 84, 48];
    image.data.set([...colour, 255 * 0.7 * Math.abs(share) / most], 4 * i);
  });
  made.getContext("2d").putImageData(image, 0, 0);
  return made;
}

// Searching a gallery

submitted("search", async () => {
  const files = [...$("query").files];
  $("found").replaceChildren();
  const said = await ask("v1/match/search", form(files, {
    gallery: $("gallery").value,
    queries: [files.map((_, i) => i)],
    top_k: Number($("top").value) || 5,
  }));
  const [result] = said.results;
  const told = [verdict(result.decision, result.matches[0]?.score)];
  if (!result.matches.length) told.push(element("p", "Nobody is enrolled who could be compared."));
  const list = document.createElement("table");
  list.append(element("caption", `Most alike in ${$("gallery").value}`), head(
    ["Person", "Score", "Decision", "Sample", "Camera", "Time"]));
  const body = document.createElement("tbody");
  body.append(...result.matches.map((match) => row([
    match.identity, number(match.score), WORDS[match.decision] ?? match.decision, match.sample,
    match.camera, match.time && new Date(match.time).toLocaleString()])));
  list.append(body);
  const wide = element("div", "", "wide"); // on a phone the table scrolls, not the page
  wide.append(list);
  if (result.matches.length) told.push(wide);
  const by = result.thresholds;
  const people = `${said.enrolled.identities} people (${said.enrolled.samples} crops)`;
  told.push(element("p", by.match === null ? `No decision: ${by.reason}.`
    : `A match scores above ${number(by.match)}: among ${people}, a share of `
      + `${by.false_positive_identification_rate} of searches for somebody who is not enrolled `
      + "finds one.", "soft"));
  told.push(element("p", `Snapshot ${said.snapshot}, request ${said.request_id}.`, "soft"));
  $("found").replaceChildren(...told);
});

function head(titles) {
  const made = document.createElement("thead");
  const line = document.createElement("tr");
  for (const title of titles) {
    const cell = element("th", title);
    cell.scope = "col";
    line.append(cell);
  }
  made.append(line);
  return made;
}

// Beginning

submitted("token-form", async () => {
  token = $("token").value.trim();
  $("token").value = "";
  await showServed();
  $("token-note").textContent = token ? "The token is in use until the page is closed."
    : "No token is in use.";
});
$("compare-model").addEventListener("change", showRates);
for (const id of ["shares", "lines"]) {
  $(id).addEventListener("change", () => explained && draw());
}
showServed().catch(tell);
