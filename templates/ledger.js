"use strict";
/* Everything is in the page and open; this closes it, finds things in it, and opens it again for the printer. */
(() => {
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];
  const items = all("details.item");
  const sections = all("section.signal");
  const tools = document.querySelector("form.tools");
  const openAll = tools.elements.open;
  const texts = new Map();

  const textOf = (item) => {
    if (!texts.has(item)) texts.set(item, item.textContent.toLowerCase());
    return texts.get(item);
  };

  const isLike = (item, words, kind, state, level) => {
    if (kind && item.dataset.kind !== kind) return false;
    if (state) {
      const levels = level ? [level] : ["static", "simulated", "live"];
      if (!levels.some((one) => item.dataset[one] === state)) return false;
    }
    else if (level && item.dataset[level] === "none") return false;
    return words.every((word) => textOf(item).includes(word));
  };

  const filter = () => {
    const { text, kind, state, level } = tools.elements;
    const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const item of items) {
      item.hidden = !isLike(item, words, kind.value, state.value, level.value);
      shown += !item.hidden;
    }
    for (const section of sections) section.hidden = !section.querySelector("details.item:not([hidden])");
    document.querySelector(".nothing").hidden = shown > 0;
    tools.querySelector(".found").textContent =
      shown === items.length ? `${shown} items` : `${shown} of ${items.length} items`;
  };

  const setOpen = (open) => {
    for (const item of items) item.open = open;
    openAll.setAttribute("aria-pressed", String(open));
    openAll.textContent = open ? "Close all" : "Open all";
  };

  const showTarget = () => {
    const target = document.getElementById(location.hash.slice(1));
    if (!target || !target.matches("details.item")) return;
    if (target.hidden) { tools.reset(); filter(); }
    target.open = true;
    target.querySelector("summary").focus({ preventScroll: true });
    target.scrollIntoView();
  };

  for (const part of all("details")) part.open = false;
  tools.hidden = false;
  filter();
  showTarget();

  tools.addEventListener("input", filter);
  tools.addEventListener("submit", (event) => event.preventDefault());
  tools.addEventListener("reset", () => setTimeout(filter));
  openAll.addEventListener("click", () => setOpen(openAll.getAttribute("aria-pressed") !== "true"));
  window.addEventListener("hashchange", showTarget);

  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[href^='#']");
    if (!link) return;
    if (link.dataset.level) {
      tools.reset();
      for (const name of ["kind", "level", "state"]) tools.elements[name].value = link.dataset[name];
      filter();
    } else if (link.hash === location.hash) showTarget();
  });

  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, select, textarea");
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      tools.elements.text.focus();
    }
  });

  let closed = [];
  window.addEventListener("beforeprint", () => {
    closed = all("details:not([open])");
    for (const part of closed) part.open = true;
  });
  window.addEventListener("afterprint", () => {
    for (const part of closed) part.open = false;
  });
})();
