// Returns the faults of a page for people who hear it or use the keyboard alone, after WCAG 2.2 AA: names, headings, tables, contrast, focus.
(() => {
  const problems = [];
  const say = (e, text) => problems.push(text + ": " + e.outerHTML.slice(0, 160));
  const shown = (e) => e.checkVisibility({ visibilityProperty: true }) && !e.closest("[hidden]");
  const nameOf = (e) => {
    const by = e.getAttribute("aria-labelledby");
    if (by) return by.split(" ").map((id) => document.getElementById(id)?.textContent ?? "").join(" ").trim();
    return (e.getAttribute("aria-label") ?? ([...(e.labels ?? [])].map((l) => l.textContent).join(" ").trim() || e.textContent || e.title || "")).trim();
  };

  if (!document.documentElement.lang) problems.push("the page has no language");
  if (!document.title) problems.push("the page has no title");
  if (document.querySelectorAll("main").length !== 1) problems.push("the page has not one main part");
  if (document.querySelectorAll("h1").length !== 1) problems.push("the page has not one h1");
  const ids = new Set();
  for (const e of document.querySelectorAll("[id]")) {
    if (ids.has(e.id)) say(e, "an id is there twice");
    ids.add(e.id);
  }
  for (const e of document.querySelectorAll("a[href], button, input:not([type=hidden]), select, textarea, progress, summary, [role=region], [role=group], section")) {
    if (shown(e) && !nameOf(e)) say(e, "it has no name");
  }
  for (const e of document.querySelectorAll("[aria-labelledby], [aria-describedby]")) {
    for (const id of ((e.getAttribute("aria-labelledby") ?? "") + " " + (e.getAttribute("aria-describedby") ?? "")).trim().split(/\s+/)) {
      if (!document.getElementById(id)) say(e, "it refers to " + id + ", which is missing");
    }
  }
  for (const e of document.querySelectorAll("time")) {
    if (!/UTC$/.test(e.title) || /UTC/.test(e.textContent)) say(e, "it is not in the reader's zone, or has no exact time");
  }
  let level = 0;
  for (const e of document.querySelectorAll("h1, h2, h3, h4")) {
    if (!shown(e)) continue;
    const own = Number(e.tagName[1]);
    if (own > level + 1) say(e, "a heading skips a level");
    level = own;
  }
  for (const table of document.querySelectorAll("table")) {
    if (!table.querySelector("th[scope]")) say(table, "the table has no headings");
  }
  for (const scroll of document.querySelectorAll(".scroll")) {
    if (scroll.tabIndex < 0) say(scroll, "the keyboard can't scroll it");
  }

  // Contrast, of each text against the first opaque background behind it.
  const rgb = (text) => (text.match(/[\d.]+/g) ?? []).map(Number);
  const luminance = ([r, g, b]) => {
    const part = (c) => ((c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const c = rgb(getComputedStyle(e).backgroundColor);
      if (c.length === 3 || c[3] === 1) return c;
    }
    return [255, 255, 255];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const seen = new Set();
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || seen.has(e) || !shown(e) || e.closest("script, noscript, option, .skip")) continue;
    seen.add(e);
    const style = getComputedStyle(e);
    const [a, b] = [luminance(rgb(style.color)), luminance(behind(e))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && Number(style.fontWeight) >= 700);
    if (ratio < (large ? 3 : 4.5)) say(e, "the contrast is " + ratio.toFixed(2));
  }

  // Focus: the order of the keyboard is that of the page, and each stop shows that it has the focus.
  for (const e of document.querySelectorAll("[tabindex]")) if (e.tabIndex > 0) say(e, "it changes the order of the keyboard");
  for (const e of document.querySelectorAll("header a, main a, main button, main input:not([type=hidden]), main select, main textarea, main summary")) {
    if (!shown(e) || e.disabled || e.tabIndex < 0) continue;
    e.focus({ focusVisible: true, preventScroll: true });
    if (document.activeElement !== e) { say(e, "it does not take the focus"); continue; }
    const style = getComputedStyle(e);
    if (style.outlineStyle === "none" || parseFloat(style.outlineWidth) < 2) say(e, "it does not show the focus");
    const box = e.getBoundingClientRect();
    if (e.matches("button, select") && Math.min(box.width, box.height) < 24) say(e, "it is too small to hit");
  }
  document.activeElement?.blur();
  return problems;
})()
