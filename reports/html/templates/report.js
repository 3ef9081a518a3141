/* Filters, sorting and copying. Without this script every claim and every test is on the page, and stays there. */
(() => {
  "use strict";
  const form = document.getElementById("filters");
  const claims = [...document.querySelectorAll("article.claim")];
  const groups = [...document.querySelectorAll("section.group")];

  const apply = () => {
    const verdicts = [...form.querySelectorAll("[name=verdict]:checked")].map((box) => box.value);
    const group = form.elements.group.value;
    for (const claim of claims) {
      const { verdict, group: own } = claim.dataset;
      claim.hidden = (verdicts.length > 0 && !verdicts.includes(verdict)) || (group !== "" && own !== group);
    }
    for (const section of groups) {
      section.hidden = !section.querySelector("article.claim:not([hidden])");
    }
    document.body.classList.toggle("brief", form.elements.brief.checked);
    const shown = claims.filter((claim) => !claim.hidden).length;
    form.querySelector("output").textContent = `${shown} of ${claims.length} claims`;
  };

  const reset = () => {
    form.reset();
    apply();
  };

  // A link to what the filters hide lifts them.
  const reveal = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target && target.closest("[hidden]")) {
      reset();
      target.scrollIntoView();
    }
  };

  if (form) {
    form.hidden = false;
    form.addEventListener("change", apply);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.querySelector("[type=reset]").addEventListener("click", (event) => {
      event.preventDefault();
      reset();
    });
    addEventListener("hashchange", reveal);
    apply();
    reveal();
  }

  // The run's table: outcomes to choose from, headings to sort by.
  const outcomes = document.getElementById("outcomes");
  const table = document.getElementById("results-table");
  const tests = [...table.tBodies[0].rows];
  outcomes.hidden = false;
  outcomes.addEventListener("change", () => {
    const chosen = [...outcomes.querySelectorAll(":checked")].map((box) => box.value);
    for (const test of tests) test.hidden = !chosen.includes(test.dataset.outcome);
  });
  const headings = [...table.tHead.rows[0].cells];
  for (const [column, heading] of headings.entries()) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sortable";
    button.textContent = heading.textContent;
    button.addEventListener("click", () => {
      const direction = heading.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
      const text = (row) => row.cells[column].dataset.order ?? row.cells[column].textContent;
      const sign = direction === "ascending" ? 1 : -1;
      tests.sort((one, other) => sign * text(one).localeCompare(text(other), undefined, { numeric: true }));
      table.tBodies[0].append(...tests);
      for (const other of headings) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", direction);
    });
    heading.replaceChildren(button);
  }

  // Where the browser may write to the clipboard (a local file may), each command gets a button.
  if (navigator.clipboard) {
    for (const code of document.querySelectorAll(".repeat code")) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = "Copy";
      button.addEventListener("click", async () => {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
        setTimeout(() => (button.textContent = "Copy"), 2000);
      });
      code.after(button);
    }
  }
})();
