// same reports whether two nodes stand for the same thing, so that one can become as the other.
function same(a, b) {
  return a.nodeType === b.nodeType && a.nodeName === b.nodeName && (a.id ?? "") === (b.id ?? "") &&
    (a.nodeName !== "FORM" || a.getAttribute("action") === b.getAttribute("action")); // else a click could send another form
}

// morph makes a shown part the same as a fresh one, and leaves alone all that is the same: so a button stays under the pointer, the focus stays,
// and open details and places in lists stay as they are.
export function morph(old, fresh) {
  if (!same(old, fresh)) {
    old.replaceWith(fresh);
    return;
  }
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  if (old === document.activeElement && old.matches("input, textarea, select")) return; // it is being filled in
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name) && !(name === "open" && old.nodeName === "DETAILS")) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  const children = [...fresh.childNodes];
  let at = old.firstChild;
  children.forEach((child, i) => {
    while (at && !same(at, child) && !children.slice(i + 1).some((later) => same(at, later))) at = drop(at); // it is gone
    if (at && same(at, child)) {
      const next = at.nextSibling;
      morph(at, child);
      at = next;
    } else {
      old.insertBefore(child, at); // it is new
    }
  });
  while (at) at = drop(at);
}

// drop removes a node, and returns the one behind it.
function drop(node) {
  const next = node.nextSibling;
  node.remove();
  return next;
}
