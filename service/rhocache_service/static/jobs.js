import { ended, show } from "/static/show.js";

const rows = document.querySelectorAll("[data-job]");
const SECONDS = 2;

async function look() {
  const answer = await fetch("/v1/jobs?limit=100");
  if (!answer.ok) return;
  const found = new Map((await answer.json()).data.map((job) => [job.id, job]));
  for (const row of rows) {
    const job = found.get(row.dataset.job);
    if (job) show(row, job);
  }
  if ([...found.values()].every(ended)) clearInterval(timer);
}

const timer = setInterval(() => look().catch(() => {}), SECONDS * 1000);
