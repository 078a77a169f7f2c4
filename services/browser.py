"""What runs in the browser of whoever opens the page: its look and its script, as they are sent.

Python's text and no files of their own, because a Bento contains Python alone. The script knows no model: it reads the
fields that `services.page` has written, sends one row to `/v1/predict`, and shows what comes. It sends nothing anywhere
else and keeps nothing: a key lives as long as its field. Where one is needed to see the page, it asks for it first.
"""

from models.pages.look import LOOK

STYLE = (
    LOOK
    + """
main { display: grid; gap: 1.25rem; grid-template-columns: minmax(0, 1fr); }
.field { margin-bottom: 1rem; }
label { display: block; font-weight: 600; margin-bottom: .25rem; }
label span { font-weight: 400; color: var(--quiet); }
input, select, textarea {
  width: 100%; min-height: 2.75rem; padding: .5rem .75rem; font: inherit; color: inherit; background: var(--sheet);
  border: 1px solid var(--edge); border-radius: .5rem;
}
[aria-invalid=true] { border-color: var(--wrong); background: var(--wrong-ground); }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
.error { font-size: .875rem; margin-top: .25rem; color: var(--wrong); font-weight: 600; }
.buttons { display: flex; flex-wrap: wrap; gap: .75rem; }
button {
  min-height: 2.75rem; padding: .5rem 1.25rem; font: inherit; font-weight: 600; cursor: pointer; border-radius: .5rem;
  border: 1px solid var(--accent); background: var(--accent); color: var(--on-accent);
}
button[type=reset] { background: none; color: var(--accent); }
form[aria-busy=true] button[type=submit] { cursor: progress; }
.alert {
  margin-bottom: 1rem; padding: .75rem 1rem; border-left: 4px solid var(--wrong); background: var(--wrong-ground);
}
.value { font-size: 2.5rem; font-weight: 700; line-height: 1.2; }
.interval { font-size: 1.125rem; font-weight: 600; }
.value span { font-size: 1.25rem; font-weight: 400; color: var(--quiet); }
.scale { position: relative; height: .75rem; margin: 1rem 0 .25rem; background: var(--line); border-radius: .375rem; }
.scale i { position: absolute; top: 0; bottom: 0; background: var(--band); border: 1px solid var(--accent);
  border-radius: .375rem; min-width: 2px; }
.scale b { position: absolute; top: -.25rem; bottom: -.25rem; width: 4px; margin-left: -2px; background: var(--accent);
  border-radius: 2px; }
.ends { display: flex; justify-content: space-between; font-size: .875rem; color: var(--quiet); margin-bottom: 1rem; }
th { width: 45%; }
pre { white-space: pre-wrap; background: var(--ground); border-radius: .5rem; padding: .75rem; margin: .5rem 0 0; }
#answer { min-height: 8rem; }
@media (min-width: 52rem) {
  main { grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); align-items: start; }
  .card { grid-column: 1 / -1; }
  .tables { columns: 2; column-gap: 2.5rem; }
}
"""
)

SCRIPT = r"""
"use strict";
let about, target, error, version, form, fields, key, alertBox, answer;

const withSeconds = (text) => (text.length === 16 ? `${text}:00` : text);
const number = (text) => (text !== "" && Number.isFinite(Number(text)) ? String(Number(text)) : JSON.stringify(text));
const integer = (text) => (/^-?(0|[1-9]\d*)$/.test(text) ? text : JSON.stringify(text));
const json = (text) => {
  try { JSON.parse(text); } catch { return JSON.stringify(text); }
  return text;
};
const literals = {
  number: (text) => number(text.trim()),
  integer: (text) => integer(text.trim()),
  text: (text) => JSON.stringify(text),
  image: (text) => json(text),
  local: (text) => JSON.stringify(withSeconds(text)),
  instant: (text) => JSON.stringify(`${withSeconds(text)}Z`),
};

function requested() {
  const columns = fields.map(({ name, value, dataset }) =>
    `${JSON.stringify(name)}: ${value === "" ? "null" : literals[dataset.kind](value)}`);
  return `{"rows": [{${columns.join(", ")}}]}`;
}

function make(tag, text, className = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  made.className = className;
  return made;
}

function shown(value, step = Math.abs(value)) {
  const decimals = step > 0 ? Math.min(12, Math.max(0, 1 - Math.floor(Math.log10(step)))) : 2;
  return value.toLocaleString("en", { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
}

function step(value) {
  if (error.kind === "mean") return error.size;
  return error.kind === "interval" ? error.half_widths[error.edges.filter((edge) => edge <= value).length] : 0;
}

function interval(value) {
  const inside = value >= target.minimum && value <= target.maximum;
  const [least, most] = inside ? [target.minimum, target.maximum] : [-Infinity, Infinity];
  return [Math.max(least, value - step(value)), Math.min(most, value + step(value))];
}

function scale(value, from, to) {
  const [least, most] = [Math.min(target.minimum, from), Math.max(target.maximum, to)];
  const place = (at) => `${(100 * (at - least)) / (most - least)}%`;
  const drawn = make("div", "", "scale");
  drawn.ariaHidden = "true";
  const [band, mark] = [make("i", ""), make("b", "")];
  band.style.left = place(from);
  band.style.width = `${(100 * (to - from)) / (most - least)}%`;
  mark.style.left = place(value);
  drawn.append(band, mark);
  const ends = make("div", "", "ends");
  ends.ariaHidden = "true";
  ends.append(make("span", least.toLocaleString("en")), make("span", most.toLocaleString("en")));
  return [drawn, ends];
}

function howSure(value, answeredBy) {
  if (answeredBy !== version) {
    return [make("p", `Given by ${answeredBy}; the card here is of ${version}. Load the page again for its interval.`)];
  }
  if (error.kind === "none") return [make("p", "The card says nothing of how far off answers are.")];
  if (error.kind === "mean") {
    return [make("p", `No interval: the card has the mean error alone, ${shown(error.size, error.size)} ${target.unit} `
      + "on rows the model had not seen; single answers are further off, or less.")];
  }
  const [from, to] = interval(value);
  const text = `${shown(from, step(value))} to ${shown(to, step(value))} ${target.unit}`;
  return [
    make("p", text, "interval"),
    ...scale(value, from, to),
    make("p", `Such intervals held ${shown(100 * error.held, 10)} % of rows the model had not seen.`, "hint"),
  ];
}

function howLikely(probabilities) {
  const ranked = probabilities.map((share, place) => [share, target.values[place]]).sort((a, b) => b[0] - a[0]);
  const lines = ranked.slice(0, 5).map(([share, value]) => {
    const drawn = make("div", "", "scale");
    drawn.ariaHidden = "true";
    const band = make("i", "");
    band.style.width = `${100 * share}%`;
    drawn.append(band);
    return [make("p", `${value}: ${(100 * share).toFixed(1)} %`, "share"), drawn];
  });
  const rest = ranked.length - lines.length;
  return [...lines.flat(), ...(rest > 0 ? [make("p", `${rest} other values are less likely.`, "hint")] : [])];
}

function showAnswer(body, told) {
  const { id, value, probabilities } = told.predictions[0];
  const line = probabilities ? make("p", String(value), "value")
    : make("p", shown(value, step(value) || Math.abs(value)), "value");
  if (!probabilities) line.append(make("span", ` ${target.unit}`));
  const details = document.createElement("details");
  details.append(make("summary", "What was sent and answered"), make("pre", `POST /v1/predict\n${body}\n\n`
    + JSON.stringify(told, null, 2)));
  const record = make("p", "Answered by ", "hint");
  record.append(make("code", told.version), " under the id ", make("code", id), ".");
  const more = probabilities ? howLikely(probabilities) : howSure(value, told.version);
  answer.replaceChildren(line, ...more, record, details);
  answer.scrollIntoView({ block: "nearest" });
}

function clear() {
  if (alertBox) alertBox.hidden = true;
  for (const field of [...fields, key]) {
    field.removeAttribute("aria-invalid");
    document.getElementById(`${field.id}-error`).hidden = true;
  }
}

function alertOf(text) {
  alertBox.textContent = text;
  alertBox.hidden = false;
}

function atField(field, rule) {
  const place = document.getElementById(`${field.id}-error`);
  place.textContent = rule;
  place.hidden = false;
  field.setAttribute("aria-invalid", "true");
}

function showError(status, fault) {
  answer.replaceChildren(make("p", "Not answered.", "quiet"));
  if (status === 401) {
    const given = key.value !== "";
    document.getElementById("key-field").hidden = false;
    atField(key, given ? "This key is not accepted." : "This service wants an API key.");
    key.focus();
    return;
  }
  const elsewhere = [];
  for (const { field: name, rule } of fault.violations ?? []) {
    const field = fields.find((one) => one.name === name);
    if (field) atField(field, rule);
    else elsewhere.push(`${name}: ${rule}`);
  }
  const first = fields.find((one) => one.ariaInvalid === "true");
  if (first) first.focus();
  if (elsewhere.length || !first) alertOf(elsewhere.join("; ") || fault.message);
}

async function ask() {
  const body = requested();
  const headers = { "content-type": "application/json" };
  if (key.value) headers.authorization = `Bearer ${key.value}`;
  const response = await fetch("v1/predict", { method: "POST", headers, body });
  const text = await response.text();
  let told;
  try {
    told = JSON.parse(text);
  } catch {
    told = { error: { message: `The service answered ${response.status}.` } };
  }
  clear();
  if (response.ok) showAnswer(body, told);
  else showError(response.status, told.error ?? { message: `The service answered ${response.status}.` });
}

async function unlock() {
  const headers = { authorization: `Bearer ${key.value}` };
  const response = await fetch("", { headers });
  if (!response.ok) {
    atField(key, response.status === 401 ? "This key is not accepted." : `The service answered ${response.status}.`);
    key.focus();
    return;
  }
  const given = key.value;
  const shown = new DOMParser().parseFromString(await response.text(), "text/html");
  document.body.replaceWith(document.adoptNode(shown.body));
  start();
  key.value = given;
  (fields[0] ?? form).focus();
}

function start() {
  about = document.getElementById("about");
  if (about) ({ target, error, version } = JSON.parse(about.textContent));
  form = document.querySelector("form");
  fields = [...form.querySelectorAll("[data-kind]")];
  key = document.getElementById("key");
  alertBox = document.getElementById("alert");
  answer = document.getElementById("answer");
  form.addEventListener("submit", send);
  form.addEventListener("reset", clear);
}

async function send(event) {
  event.preventDefault();
  if (form.ariaBusy === "true") return;
  form.ariaBusy = "true";
  try {
    await (about ? ask() : unlock());
  } catch (failure) {
    clear();
    if (about) alertOf(`The service cannot be reached: ${failure.message}`);
    else atField(key, `The service cannot be reached: ${failure.message}`);
  } finally {
    form.ariaBusy = "false";
  }
}

start();
"""
