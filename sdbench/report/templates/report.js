"use strict";
(() => {
  const find = (selector, root = document) => root.querySelector(selector);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const data = JSON.parse(find("#data").textContent);
  const form = find(".filters");
  const inputs = { text: find("#find"), dataset: find("#by-data-set"), network: find("#by-network"), status: find("#by-status") };
  const texts = new Intl.Collator("en", { numeric: true });
  const chosen = () => ({
    text: inputs.text.value.trim().toLowerCase(),
    dataset: inputs.dataset.value,
    network: inputs.network.value,
    status: inputs.status.value,
  });

  // What is missing comes last, whichever way the rest is sorted.
  const order = (value, way) => (a, b) => {
    const x = value(a), y = value(b);
    if (x === null || y === null) return (x === null) - (y === null);
    const by = typeof x === "number" && typeof y === "number" ? x - y
      : (typeof x === "number") !== (typeof y === "number") ? (typeof y === "number") - (typeof x === "number")
      : texts.compare(x, y);
    return way * by;
  };

  // Turns a click on a header into the next way of sorting, and says it.
  const turn = (head, textual) => {
    const now = head.getAttribute("aria-sort");
    const next = now === "none" ? (textual ? "ascending" : "descending") : now === "ascending" ? "descending" : "ascending";
    for (const other of head.parentNode.children) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", next);
    find("#said").value = `sorted by ${head.textContent.trim()}, ${next}`;
    return next === "ascending" ? 1 : -1;
  };

  // A table whose rows are in the page: it shows the first rows that match.
  class Rows {
    constructor(table) {
      this.body = find("tbody", table);
      this.rows = [...this.body.rows];
      this.part = table.closest("[data-dataset]");
      this.words = this.rows.map((row) => `${this.part ? find("h3", this.part).textContent : ""} ${row.textContent}`.toLowerCase());
      this.index = new Map(this.rows.map((row, i) => [row, i]));
      this.filtered = Boolean(this.part) || this.rows.some((row) => row.dataset.status);
      this.limit = data.limit;
      this.more = table.parentNode.nextElementSibling;
      this.more.addEventListener("click", () => { this.limit += data.limit * 5; this.show(chosen()); });
      all("thead th", table).forEach((head, column) => {
        if (find("button", head)) find("button", head).addEventListener("click", () => this.sort(head, column));
      });
    }
    sort(head, column) {
      const way = turn(head, head.classList.contains("left"));
      const values = new Map(this.rows.map((row) => {
        const cell = row.cells[column];
        const value = cell.dataset.value;
        return [row, value !== undefined ? Number(value) : cell.classList.contains("left") ? cell.textContent : null];
      }));
      this.rows.sort(order((row) => values.get(row), way));
      this.body.append(...this.rows);
      this.show(chosen());
    }
    matches(row, want) {
      const dataset = (this.part || row).dataset.dataset, network = (this.part || row).dataset.network;
      return (!want.dataset || dataset === want.dataset) && (!want.network || network === want.network)
        && (!want.status || row.dataset.status.split(" ").includes(want.status))
        && (!want.text || this.words[this.index.get(row)].includes(want.text));
    }
    show(want) {
      let count = 0;
      for (const row of this.rows) {
        const hit = !this.filtered || this.matches(row, want);
        count += hit;
        row.hidden = !hit || count > this.limit;
      }
      this.more.hidden = count <= this.limit;
      this.more.textContent = `Show more of ${count.toLocaleString("en")} rows`;
      return count;
    }
  }

  // The table of all trials: only the rows that are shown exist.
  class Trials {
    constructor(table) {
      this.rows = data.rows;
      this.words = new Map();
      this.limit = data.limit / 2;
      this.more = table.parentNode.nextElementSibling;
      this.more.addEventListener("click", () => { this.limit += data.limit; this.show(chosen()); });
      const line = table.createTHead().insertRow();
      data.columns.forEach(([title, textual], column) => {
        const head = document.createElement("th");
        head.scope = "col";
        head.setAttribute("aria-sort", "none");
        if (textual) head.className = "left";
        const button = document.createElement("button");
        button.type = "button";
        button.textContent = title;
        button.addEventListener("click", () => {
          this.rows = [...this.rows].sort(order((row) => row[column], turn(head, textual)));
          this.show(chosen());
        });
        head.append(button);
        line.append(head);
      });
      this.body = table.createTBody();
    }
    text(row) {
      if (!this.words.has(row)) this.words.set(row, row.join(" ").toLowerCase());
      return this.words.get(row);
    }
    show(want) {
      const found = this.rows.filter((row) => (!want.dataset || row[2] === want.dataset) && (!want.network || row[3] === want.network)
        && (!want.status || row[6] === want.status) && (!want.text || this.text(row).includes(want.text)));
      this.body.replaceChildren(...found.slice(0, this.limit).map((row) => {
        const line = document.createElement("tr");
        row.forEach((value, column) => {
          const cell = line.insertCell();
          if (data.columns[column][1]) cell.className = "left";
          cell.textContent = value === null ? "–" : value;
        });
        return line;
      }));
      this.more.hidden = found.length <= this.limit;
      this.more.textContent = `Show more of ${found.length.toLocaleString("en")} trials`;
      return found.length;
    }
  }

  const tables = all("#leaderboard .board table, .failures, .facts").map((table) => new Rows(table));
  const trials = new Trials(find("#trials table"));

  const show = () => {
    const want = chosen();
    let rows = 0;
    for (const table of tables) {
      const count = table.show(want);
      if (!table.part) continue;
      rows += count;
      table.part.hidden = count === 0 && table.rows.length > 0;
    }
    for (const part of all("#figures [data-dataset]")) {
      part.hidden = Boolean((want.dataset && part.dataset.dataset !== want.dataset) || (want.network && part.dataset.network !== want.network));
    }
    const count = trials.show(want);
    find("#said").value = `${rows.toLocaleString("en")} rows, ${count.toLocaleString("en")} trials shown`;
  };

  let waiting = 0;
  const soon = () => { clearTimeout(waiting); waiting = setTimeout(show, data.rows.length > 2000 ? 150 : 0); };
  // Automation and some assistive technology change a list without the event "input".
  for (const event of ["input", "change"]) form.addEventListener(event, soon);
  form.addEventListener("reset", () => setTimeout(show, 0));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  show();
})();
