"use strict";

// The theme: the system's, until the button says otherwise.
const root = document.documentElement, theme = document.getElementById("theme");
const systemIsDark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (root.dataset.theme || (systemIsDark.matches ? "dark" : "light")) === "dark";
const nameTheme = () => { theme.textContent = isDark() ? "Light" : "Dark"; };
theme.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; nameTheme(); });
systemIsDark.addEventListener("change", nameTheme);
theme.hidden = false;
nameTheme();

// Tables: a click on a column's name sorts by it, the next one the other way; what is empty stays last.
const valueOf = (row, column, numeric) => {
  const cell = row.cells[column], text = cell.dataset.v ?? cell.textContent.trim();
  return numeric ? (text === "" ? null : Number(text.replace("\u2212", "-"))) : text || null;
};
const sort = (header) => {
  const table = header.closest("table"), body = table.tBodies[0], column = header.cellIndex;
  const numeric = !header.classList.contains("t");
  const before = header.getAttribute("aria-sort");
  const direction = before ? (before === "ascending" ? -1 : 1) : numeric ? -1 : 1;
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
  const keyed = Array.from(body.rows, (row) => [valueOf(row, column, numeric), row]);
  keyed.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return direction * (numeric ? a - b : a.localeCompare(b, undefined, { numeric: true }));
  });
  body.append(...keyed.map(([, row]) => row));
};
for (const header of document.querySelectorAll("table.sorts thead th")) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = header.textContent;
  button.addEventListener("click", () => sort(header));
  header.replaceChildren(button);
}

// Choices: of several options one is shown.
document.querySelectorAll(".choice").forEach((choice, number) => {
  const options = Array.from(choice.children);
  const field = document.createElement("fieldset"), legend = document.createElement("legend");
  field.className = "choose";
  legend.textContent = choice.dataset.label;
  field.append(legend);
  options.forEach((option, place) => {
    const label = document.createElement("label"), input = document.createElement("input");
    const text = document.createElement("span");
    Object.assign(input, { type: "radio", name: `choice-${number}`, checked: place === 0 });
    text.textContent = option.dataset.option;
    input.addEventListener("change", () => options.forEach((other) => { other.hidden = other !== option; }));
    label.append(input, text);
    field.append(label);
    option.hidden = place > 0;
    option.querySelector("h3.chosen").hidden = true;
  });
  if (options.length > 1) choice.prepend(field);
});
