// What the theme's HTML leaves out for who listens to a page.
document.addEventListener("DOMContentLoaded", () => {
  for (const summary of document.querySelectorAll("details > summary")) {
    if (summary.textContent.trim() === "") {
      const above = summary.closest("li")?.querySelector("a")?.textContent.trim();
      summary.setAttribute("aria-label", `Pages of ${above ?? "this part"}`);
    } else {
      // What is seen names it; another name would hide that.
      summary.removeAttribute("aria-label");
    }
  }
  for (const button of document.querySelectorAll("button.search-button-field")) {
    // It names the keys, too, and the label has to hold what is seen.
    button.removeAttribute("aria-label");
  }
  for (const logo of document.querySelectorAll(".sidebar-primary-item:has(> .navbar-brand)")) {
    logo.setAttribute("role", "navigation");
    logo.setAttribute("aria-label", "First page");
  }
  // The corner of a table.
  for (const cell of document.querySelectorAll("th")) {
    if (cell.textContent.trim() === "") cell.setAttribute("role", "presentation");
  }
  // The lines of a signature are no list of definitions.
  for (const list of document.querySelectorAll("dt.sig dl")) {
    const lines = document.createElement("div");
    lines.className = "sig-lines";
    for (const line of [...list.children]) {
      const plain = document.createElement("div");
      plain.append(...line.childNodes);
      lines.append(plain);
    }
    list.replaceWith(lines);
  }
  // What scrolls by itself has to be reached by keys.
  for (const box of document.querySelectorAll(".scrolling, .pst-scrollable-table-container, div.math")) {
    if (box.scrollWidth > box.clientWidth) box.setAttribute("tabindex", "0");
  }
});
