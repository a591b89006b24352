/**
 * @file The file of a trace: JSON in Chrome's object format, which Perfetto (ui.perfetto.dev) and
 * chrome://tracing open. Made in pieces, so that no text as long as the file is ever held.
 */
import { assert } from "../base/index.ts";
import type { TraceEvent } from "./types.ts";

const pieceLength = 1 << 16;

/**
 * The file's text in pieces of about 64 KiB: `{"traceEvents":[...], ...metadata}`. `metadata` stands
 * beside the events, such as `displayTimeUnit`. Times that are no finite numbers are an `Error`:
 * JSON has none.
 */
export function* writeTrace(
  events: Iterable<TraceEvent>,
  metadata: Readonly<Record<string, unknown>> = {},
): Generator<string, void, undefined> {
  let piece = '{"traceEvents":[\n';
  let separator = "";
  for (const event of events) {
    checkTimes(event);
    piece += separator + JSON.stringify(event);
    separator = ",\n";
    if (piece.length < pieceLength) continue;
    yield piece;
    piece = "";
  }
  const { traceEvents: _, ...rest } = metadata;
  const more = JSON.stringify(rest).slice(1, -1);
  yield `${piece}\n]${more === "" ? "" : `,${more}`}}\n`;
}

function checkTimes(event: TraceEvent): void {
  if (event.ph === "M") return;
  const finite = Number.isFinite(event.ts) && (event.ph !== "X" || Number.isFinite(event.dur));
  assert(finite, () => `times of the event ${event.name}: wanted finite microseconds`);
}
