// Updates relative times such as "2 minutes ago" while a page is open.

const UNITS = [[86400, "day"], [3600, "hour"], [60, "minute"]];

function ago(seconds) {
  for (const [size, name] of UNITS) {
    const n = Math.floor(seconds / size);
    if (n >= 1) return `${n} ${name}${n === 1 ? "" : "s"} ago`;
  }
  return "just now";
}

export function updateTimes() {
  setInterval(() => {
    for (const time of document.querySelectorAll("time[data-ago]"))
      time.textContent = ago((Date.now() - Date.parse(time.dateTime)) / 1000);
  }, 30_000);
}
