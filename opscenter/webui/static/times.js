const format = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

// showTimes shows times in the reader's zone. The exact one stays in the hint.
export function showTimes(root) {
  for (const time of root.querySelectorAll("time[datetime]")) time.textContent = format.format(new Date(time.dateTime));
}

// seconds reads a duration of Go, as 5m0s.
function seconds(text) {
  let sum = 0;
  for (const [, number, unit] of text.matchAll(/([\d.]+)(h|ms|m|s)/g)) sum += number * { h: 3600, m: 60, s: 1, ms: 0.001 }[unit];
  return sum;
}

// countdowns shows how long a change has until it must be confirmed.
export function countdowns() {
  setInterval(() => {
    for (const e of document.querySelectorAll("[data-countdown]")) {
      const left = Math.max(0, Math.round((new Date(e.dataset.countdown).getTime() - Date.now()) / 1000 + seconds(e.dataset.duration)));
      e.textContent = Math.floor(left / 60) + ":" + String(left % 60).padStart(2, "0") + " left.";
    }
  }, 1000);
}
