import assert from "node:assert/strict";
import { test } from "node:test";
import { figuresOf, renderReport, type Sample } from "./load-report.ts";

/** Three tokens: the first after `start`, then one after `gap` and one after 2 `gap`. */
function sample(start: number, gap: number): Sample {
  return {
    inputTokens: 10,
    outputTokens: 3,
    firstTokenMs: start,
    interTokenMs: [gap, 2 * gap],
    totalMs: start + 3 * gap,
  };
}

test("figures are exact, with percentiles by rank", () => {
  const samples = Array.from({ length: 100 }, (_, index) => sample(index + 1, 2));
  const figures = figuresOf({ samples, failures: ["busy"], durationMs: 2000 });
  assert.deepEqual(figures, {
    completed: 100,
    failed: 1,
    duration: 2,
    total_input_tokens: 1000,
    total_output_tokens: 300,
    request_throughput: 50,
    output_throughput: 150,
    total_token_throughput: 650,
    mean_ttft_ms: 50.5,
    median_ttft_ms: 50,
    p99_ttft_ms: 99,
    mean_tpot_ms: 3,
    median_tpot_ms: 3,
    p99_tpot_ms: 3,
    mean_itl_ms: 3,
    median_itl_ms: 2,
    p99_itl_ms: 4,
    mean_e2el_ms: 56.5,
    median_e2el_ms: 56,
    p99_e2el_ms: 105,
  });
});

test("the table holds the figures, and counts failures by their message", () => {
  const failures = ["busy", "gone", "busy"];
  const text = renderReport({ samples: [sample(5, 1)], failures, durationMs: 100 });
  assert.match(text, /^1 answers in 0\.10 s, 3 failures$/m);
  assert.match(text, /^time to first token +5\.00 +5\.00 +5\.00$/m);
  assert.match(text, /^failed 2 times: busy$/m);
});
