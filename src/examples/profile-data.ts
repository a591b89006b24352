/**
 * @file A trace recorded, written, read and reported: two ranks that overlap a dispatch with a product,
 * one of them late. Run: node dist/examples/profile-data.js
 */
import { findStragglers, profileTrace, readTrace } from "baleen/profile-data";
import { TraceRecorder, writeTrace } from "baleen/trace";

/** The file of a rank that computes for `computeUs` before it dispatches. */
function recordRank(computeUs: number): Iterable<string> {
  const recorder = new TraceRecorder();
  const kernel = (name: string, stream: number, startUs: number, durationUs: number): void => {
    const lane = { pid: 0, tid: stream, args: { stream } };
    recorder.span({ name, cat: "kernel", ...lane }, startUs, durationUs);
  };
  // All ranks leave the dispatch at 900 us: the later one comes, the less one waits in it.
  kernel("fp8_gemm", 7, 0, computeUs);
  kernel("deep_ep::intranode::dispatch", 20, computeUs, 900 - computeUs);
  kernel("shared_expert_gemm", 7, computeUs, 150);
  return writeTrace(recorder.events);
}

const encoder = new TextEncoder();
const ranks = await Promise.all(
  [500, 700].map(async (computeUs, rank) => {
    const trace = await readTrace(
      Array.from(recordRank(computeUs), (text) => encoder.encode(text)),
    );
    const [profile] = profileTrace(trace);
    return { name: `rank ${rank}`, profile };
  }),
);
for (const { name, profile } of ranks) {
  const { spanUs, communicationUs, overlappedUs, exposedUs } = profile.report;
  console.log(
    `${name}: ${spanUs} us, communication ${communicationUs} us, ` +
      `overlapped ${overlappedUs} us, exposed ${exposedUs} us`,
  );
}
const { ranks: shares } = findStragglers(ranks);
for (const { name, timesLast, causedUs } of shares) {
  console.log(`${name} came last ${timesLast} times, others waited ${causedUs} us for it`);
}
