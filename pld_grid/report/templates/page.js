"use strict";

// The page is whole without this: it adds sorting, filters, and another address for the links to MLflow.

const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const headersOf = (table) => [...table.tHead.rows[0].cells];
const view = () => document.querySelector("input[name=view]:checked")?.value ?? "ours";

// -- sorting ---------------------------------------------------------------------------------------------------------

const words = new Intl.Collator("en", { numeric: true });

/** What a cell sorts by: its unrounded number in the view that is shown, or its text; null where there is none. */
function keyOf(cell) {
  const text = cell.classList.contains("number") ? cell.dataset[view()] ?? "" : cell.textContent.trim();
  if (text === "" || text === "-") return null;
  const number = Number(text);
  return Number.isNaN(number) ? text : number;
}

function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return words.compare(String(a), String(b));
}

/** Puts a table's rows into the order that its headers announce; equal rows keep the order of the report. */
function arrange(table) {
  const headers = headersOf(table);
  const column = headers.findIndex((header) => ["ascending", "descending"].includes(header.ariaSort));
  const body = table.tBodies[0];
  const rows = [...body.rows].sort((a, b) => a.dataset.place - b.dataset.place);
  if (column >= 0) {
    const sign = headers[column].ariaSort === "ascending" ? 1 : -1;
    const keys = new Map(rows.map((row) => [row, keyOf(row.cells[column])]));
    rows.sort((a, b) => {
      const [left, right] = [keys.get(a), keys.get(b)];
      if (left === null || right === null) return (left === null) - (right === null);
      return sign * compare(left, right);
    });
  }
  body.append(...rows);
}

const NEXT = { none: "ascending", ascending: "descending", descending: "none" };

for (const table of all("table.sortable")) {
  [...table.tBodies[0].rows].forEach((row, place) => { row.dataset.place = place; });
  for (const header of headersOf(table)) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.append(...header.childNodes);
    header.append(button);
    header.ariaSort = "none";
    button.addEventListener("click", () => {
      const wanted = NEXT[header.ariaSort];
      for (const other of headersOf(table)) other.ariaSort = "none";
      header.ariaSort = wanted;
      arrange(table);
    });
  }
}

for (const choice of all("input[name=view]")) {
  choice.addEventListener("change", () => all("table.sortable").forEach(arrange));
}

// -- filters ---------------------------------------------------------------------------------------------------------

const said = document.getElementById("said");

function filterRows(wanted) {
  let [shown, total] = [0, 0];
  for (const table of all("table.numbers")) {
    const rows = [...table.tBodies[0].rows, ...(table.tFoot?.rows ?? [])];
    for (const row of rows) {
      const states = row.dataset.states.split(" ");
      const incomplete = !states.includes("finished");
      row.hidden = wanted !== "" && !(wanted === "incomplete" ? incomplete : states.includes(wanted));
    }
    const visible = rows.filter((row) => !row.hidden).length;
    const note = table.closest("section").querySelector(".hidden-rows");
    note.textContent = visible < rows.length ? `${rows.length - visible} of ${rows.length} rows are hidden. ` : "";
    shown += visible;
    total += rows.length;
  }
  said.textContent = wanted === "" ? "" : `${shown} of ${total} rows`;
}

const state = document.getElementById("state");
state?.addEventListener("change", () => filterRows(state.value));

function filterClaims() {
  const wanted = all("select[data-verdict]").map((select) => [select.dataset.verdict, select.value]);
  const rows = all("#claims-table tbody tr");
  for (const row of rows) row.hidden = wanted.some(([of, value]) => value !== "" && row.dataset[of] !== value);
  const shown = rows.filter((row) => !row.hidden).length;
  document.getElementById("claims-said").textContent = `${shown} of ${rows.length} claims`;
}

for (const select of all("select[data-verdict]")) select.addEventListener("change", filterClaims);

// -- MLflow's address ------------------------------------------------------------------------------------------------

const KEY = "pld_grid.mlflow";
const address = document.getElementById("mlflow");

/** A file's page may be refused a memory; then the address holds until the page is closed. */
function remembered() {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return null;
  }
}

function remember(text) {
  try {
    if (text === address.defaultValue) localStorage.removeItem(KEY);
    else localStorage.setItem(KEY, text);
  } catch {
    // As above.
  }
}

/** Points all links at an MLflow; says whether the text is an address that a link may have. */
function point(text) {
  const url = URL.canParse(text) ? new URL(text) : null;
  const valid = url !== null && ["http:", "https:"].includes(url.protocol);
  address.ariaInvalid = valid ? null : "true";
  if (valid) {
    const base = text.replace(/\/+$/, "");
    for (const link of all("a.run")) {
      const href = link.getAttribute("href");
      link.setAttribute("href", base + href.slice(href.indexOf("/#/")));
    }
  }
  return valid;
}

address.addEventListener("change", () => {
  if (address.value.trim() === "") address.value = address.defaultValue;
  const text = address.value.trim();
  const valid = point(text);
  if (valid) remember(text);
  said.textContent = valid ? `Links lead to ${text}` : "An address begins with http:// or https://";
});

const kept = remembered();
if (kept !== null && point(kept)) address.value = kept;
else point(address.value);

// -- what only works with scripts -------------------------------------------------------------------------------------

for (const form of all("form")) form.addEventListener("submit", (event) => event.preventDefault());
for (const hidden of all("form[hidden], .control[hidden]")) hidden.hidden = false;
