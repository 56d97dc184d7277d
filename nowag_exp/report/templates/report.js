"use strict";
// A heading's button sorts its table; numbers by what the cell begins with, "-" always last.
for (const table of document.querySelectorAll("table")) {
  const headings = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  const words = new Intl.Collator("en", { numeric: true });
  for (const [column, heading] of headings.entries()) {
    heading.querySelector("button").addEventListener("click", () => {
      const sign = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      const isNumber = heading.hasAttribute("data-number");
      const keyed = [...body.rows].map((row) => [row.cells[column].textContent.trim(), row]);
      keyed.sort(([a], [b]) => {
        if (a === "-" || b === "-") return (a === "-") - (b === "-");
        return sign * (isNumber ? parseFloat(a) - parseFloat(b) : words.compare(a, b));
      });
      body.append(...keyed.map(([, row]) => row));
      for (const other of headings) other.setAttribute("aria-sort", "none");
      heading.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
    });
  }
}
