/** @file Numbers as the page shows them. */

/** A count or rate in at most four characters: `7`, `8.4`, `182`, `12.3k`. */
export function short(value: number): string {
  if (value >= 1e6) return `${trim(value / 1e6)}M`;
  if (value >= 1e4) return `${trim(value / 1e3)}k`;
  return value >= 100 || Number.isInteger(value) ? String(Math.round(value)) : trim(value);
}

/** A share from 0 to 1 as a percentage; a dash for what has no value yet. */
export function percent(share: number): string {
  if (!Number.isFinite(share)) return "–";
  return `${share > 0 && share < 0.1 ? (share * 100).toFixed(1) : Math.round(share * 100)} %`;
}

/** A duration in milliseconds or seconds. */
export function duration(ms: number): string {
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(ms < 10_000 ? 2 : 1)} s`;
}

function trim(value: number): string {
  return value.toFixed(1).replace(/\.0$/, "");
}
