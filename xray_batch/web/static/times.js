// Times come in UTC and are shown in the reader's own time zone.

const FORMAT = new Intl.DateTimeFormat("sv-SE", { dateStyle: "short", timeStyle: "short" }); // 2026-03-31 14:05

export function showLocalTimes(within) {
  for (const time of within.querySelectorAll("time[datetime]")) {
    time.textContent = FORMAT.format(new Date(time.dateTime));
    time.title = time.dateTime;
  }
}
