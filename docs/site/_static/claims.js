// Makes the table of claims filterable and sortable. Without this script the table is whole.
"use strict";
(() => {
  const table = document.getElementById("claims-table");
  const box = document.getElementById("claims-filter");
  const count = document.getElementById("claims-count");
  if (!table || !box) return;
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const names = heads.map((cell) => cell.textContent);
  const rows = [...body.rows].map((row) => ({
    row,
    words: row.textContent.toLowerCase(),
    cells: [...row.cells].map((cell) => cell.textContent.trim()),
  }));
  const asked = new URLSearchParams(location.search);
  const controls = {};

  function labelled(name, control) {
    const label = document.createElement("label");
    label.textContent = name;
    label.append(control);
    box.append(label);
    control.value = asked.get(name) ?? "";
    control.addEventListener("input", apply);
    controls[name] = control;
  }

  for (const name of ["kind", "experiment", "text", "size", "verdict"]) {
    const at = names.indexOf(name);
    const select = document.createElement("select");
    select.add(new Option("all", ""));
    for (const value of [...new Set(rows.map((r) => r.cells[at]))].sort()) {
      if (value) select.add(new Option(value, value));
    }
    labelled(name, select);
  }
  const search = document.createElement("input");
  search.type = "search";
  search.placeholder = "words of the claim";
  labelled("search", search);
  const reset = document.createElement("button");
  reset.type = "button";
  reset.textContent = "show all";
  reset.addEventListener("click", () => {
    for (const control of Object.values(controls)) control.value = "";
    apply();
  });
  box.append(reset);
  box.hidden = false;

  function apply() {
    const kept = new URLSearchParams();
    for (const [name, control] of Object.entries(controls)) {
      if (control.value) kept.set(name, control.value);
    }
    const words = controls.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const { row, cells, words: text } of rows) {
      const fits = Object.entries(controls).every(
        ([name, c]) => name === "search" || !c.value || cells[names.indexOf(name)] === c.value);
      row.hidden = !(fits && words.every((word) => text.includes(word)));
      shown += row.hidden ? 0 : 1;
    }
    count.textContent = `${shown} of ${rows.length} rows`;
    const query = kept.toString();
    try {
      history.replaceState(null, "", query ? `?${query}` : location.pathname);
    } catch { /* a page opened as a file keeps its address */ }
  }

  heads.forEach((head, at) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    button.title = `sort by ${head.textContent}`;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = ({ row, cells }) => row.cells[at].dataset.sort ?? cells[at];
      rows.sort((a, b) => {
        const [x, y] = [key(a), key(b)];
        if (x === "" || y === "") return (x === "") - (y === ""); // empty cells last
        const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
        return down ? -order : order;
      });
      body.append(...rows.map(({ row }) => row));
    });
  });
  apply();
})();
