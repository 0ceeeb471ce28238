// Tables that a click on a heading sorts: words by the alphabet, numbers by size, empty cells last. Folded ones, which
// are long, have a field that leaves out the rows without its words.

/** The number that a cell begins with ("1,234", "12.3% (10 to 15)", "+1.5", "<0.1%"), or null. */
const numberIn = (text) => {
  const found = /^[<>]?([+\-−]?[\d,]*\.?\d+(?:e[+-]?\d+)?)/i.exec(text);
  return found ? Number(found[1].replaceAll(",", "").replace("−", "-")) : null;
};

const inOrder = (words) => (a, b) => {
  if (words) return a.localeCompare(b, undefined, { numeric: true });
  return numberIn(a) - numberIn(b);
};

const sortRows = (table, column, descending) => {
  const words = table.tHead.rows[0].cells[column].classList.contains("words");
  const text = (row) => row.cells[column].textContent.trim();
  const empty = (row) => (words ? text(row) === "" : numberIn(text(row)) == null);
  const rows = [...table.tBodies[0].rows];
  const order = inOrder(words);
  const full = rows.filter((row) => !empty(row)).sort((a, b) => order(text(a), text(b)) * (descending ? -1 : 1));
  table.tBodies[0].append(...full, ...rows.filter(empty));
};

/** First click: words rise, numbers fall; the next one turns it over. */
const onHeading = (table, heading, column) => {
  const was = heading.getAttribute("aria-sort");
  const descending = was ? was === "ascending" : !heading.classList.contains("words");
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
  sortRows(table, column, descending);
};

const makeSortable = (table) => {
  if (table.tBodies[0].rows.length < 2) return;
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    const button = element("button", { type: "button" }, ...heading.childNodes);
    button.addEventListener("click", () => onHeading(table, heading, column));
    heading.replaceChildren(button);
  });
};

const makeSearchable = (box) => {
  const rows = [...box.querySelector("tbody").rows];
  const field = element("input", { type: "search", placeholder: "Search", "aria-label": `Search in ${box.querySelector("summary").textContent}` });
  const count = element("span", { class: "soft", role: "status" });
  field.addEventListener("input", () => {
    const wanted = field.value.toLowerCase();
    for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
    count.textContent = wanted && ` ${rows.filter((row) => !row.hidden).length} of ${rows.length}`;
  });
  box.querySelector(".wide").before(element("p", { class: "find" }, field, count));
};

document.querySelectorAll(".data table").forEach(makeSortable);
document.querySelectorAll("details.data").forEach(makeSearchable);
