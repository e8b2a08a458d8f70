// searchAsYouType loads the results of a search while it is typed. The address of the page stays that of the search.
export function searchAsYouType(form, replace) {
  let timer, number = 0;
  form.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(async () => {
      const mine = ++number;
      const query = new URLSearchParams(new FormData(form));
      for (const [name, value] of [...query]) if (value === "") query.delete(name);
      const target = form.getAttribute("action") + "?" + query;
      const answer = await fetch(target, { headers: { Accept: "text/html" } });
      if (!answer.ok || mine !== number) return;
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const fresh = page.getElementById(form.dataset.search);
      if (fresh) replace(document.getElementById(form.dataset.search), fresh);
      history.replaceState(null, "", target);
    }, 200);
  });
}
