"use strict";

// The page is complete without this script, which adds sorting, filters, and another address for the links to MLflow.

const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const headersIn = (table) => [...table.tHead.rows[0].cells];
const view = () => document.querySelector("input[name=view]:checked")?.value ?? "ours";

// -- sorting ----------------------------------------------------------------------------------------------------------

const words = new Intl.Collator("en", { numeric: true });

/** Returns a cell's sort key: its unrounded number in the selected view, or its text; null if there is none. */
function sortKey(cell) {
  const text = cell.classList.contains("number") ? cell.dataset[view()] ?? "" : cell.textContent.trim();
  if (text === "" || text === "-") return null;
  const number = Number(text);
  return Number.isNaN(number) ? text : number;
}

function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return words.compare(String(a), String(b));
}

/** Sorts a table's rows by the header with aria-sort; equal rows keep the order of the report. */
function sortRows(table) {
  const headers = headersIn(table);
  const column = headers.findIndex((header) => ["ascending", "descending"].includes(header.ariaSort));
  const body = table.tBodies[0];
  const rows = [...body.rows].sort((a, b) => a.dataset.place - b.dataset.place);
  if (column >= 0) {
    const sign = headers[column].ariaSort === "ascending" ? 1 : -1;
    const keys = new Map(rows.map((row) => [row, sortKey(row.cells[column])]));
    rows.sort((a, b) => {
      const [left, right] = [keys.get(a), keys.get(b)];
      if (left === null || right === null) return (left === null) - (right === null);
      return sign * compare(left, right);
    });
  }
  body.append(...rows);
}

const NEXT_ORDER = { none: "ascending", ascending: "descending", descending: "none" };

for (const table of all("table.sortable")) {
  [...table.tBodies[0].rows].forEach((row, place) => { row.dataset.place = place; });
  for (const header of headersIn(table)) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.append(...header.childNodes);
    header.append(button);
    header.ariaSort = "none";
    button.addEventListener("click", () => {
      const order = NEXT_ORDER[header.ariaSort];
      for (const other of headersIn(table)) other.ariaSort = "none";
      header.ariaSort = order;
      sortRows(table);
    });
  }
}

for (const choice of all("input[name=view]")) {
  choice.addEventListener("change", () => all("table.sortable").forEach(sortRows));
}

// -- filters ----------------------------------------------------------------------------------------------------------

const statusLine = document.getElementById("status");

function filterRows(state) {
  let [shown, total] = [0, 0];
  for (const table of all("table.numbers")) {
    const rows = [...table.tBodies[0].rows, ...(table.tFoot?.rows ?? [])];
    for (const row of rows) {
      const states = row.dataset.states.split(" ");
      const incomplete = !states.includes("finished");
      row.hidden = state !== "" && !(state === "incomplete" ? incomplete : states.includes(state));
    }
    const visible = rows.filter((row) => !row.hidden).length;
    const note = table.closest("section").querySelector(".hidden-rows");
    note.textContent = visible < rows.length ? `${rows.length - visible} of ${rows.length} rows are hidden. ` : "";
    shown += visible;
    total += rows.length;
  }
  statusLine.textContent = state === "" ? "" : `${shown} of ${total} rows`;
}

const stateSelect = document.getElementById("state");
stateSelect?.addEventListener("change", () => filterRows(stateSelect.value));

function filterClaims() {
  const filters = all("select[data-verdict]").map((select) => [select.dataset.verdict, select.value]);
  const rows = all("#claims-table tbody tr");
  for (const row of rows) row.hidden = filters.some(([side, value]) => value !== "" && row.dataset[side] !== value);
  const shown = rows.filter((row) => !row.hidden).length;
  document.getElementById("claims-status").textContent = `${shown} of ${rows.length} claims`;
}

for (const select of all("select[data-verdict]")) select.addEventListener("change", filterClaims);

// -- MLflow's address -------------------------------------------------------------------------------------------------

const STORAGE_KEY = "pld_grid.mlflow";
const address = document.getElementById("mlflow");

/** Returns the stored address; null if a browser refuses storage to a local file. */
function loadAddress() {
  try {
    return localStorage.getItem(STORAGE_KEY);
  } catch {
    return null;
  }
}

function saveAddress(text) {
  try {
    if (text === address.defaultValue) localStorage.removeItem(STORAGE_KEY);
    else localStorage.setItem(STORAGE_KEY, text);
  } catch {
    // See loadAddress.
  }
}

/** Makes all links lead to an MLflow server; returns whether the text is a valid address. */
function updateLinks(text) {
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
  const valid = updateLinks(text);
  if (valid) saveAddress(text);
  statusLine.textContent = valid ? `Links lead to ${text}` : "An address begins with http:// or https://";
});

const stored = loadAddress();
if (stored !== null && updateLinks(stored)) address.value = stored;
else updateLinks(address.value);

// -- controls that need scripts ---------------------------------------------------------------------------------------

for (const form of all("form")) form.addEventListener("submit", (event) => event.preventDefault());
for (const hidden of all("form[hidden], .control[hidden]")) hidden.hidden = false;
