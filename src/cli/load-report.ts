/** @file What a load measured, as a table or as JSON with the keys of other engines' benchmarks. */

/** One answer's times, from its request's start. */
export interface Sample {
  readonly inputTokens: number;
  readonly outputTokens: number;
  readonly firstTokenMs: number;
  /** Between two events each. */
  readonly interTokenMs: readonly number[];
  readonly totalMs: number;
}

/** A whole load. */
export interface LoadResult {
  readonly samples: readonly Sample[];
  /** Messages of requests that failed. */
  readonly failures: readonly string[];
  readonly durationMs: number;
}

/** The value that `share` of the sorted `values` are not above; NaN where there are none. */
function percentile(sorted: readonly number[], share: number): number {
  if (sorted.length === 0) return Number.NaN;
  return sorted[Math.min(sorted.length - 1, Math.ceil(share * sorted.length) - 1)];
}

interface Series {
  readonly name: string;
  readonly key: string;
  readonly values: readonly number[];
}

function seriesOf(samples: readonly Sample[]): Series[] {
  const series = (name: string, key: string, values: number[]): Series => ({
    name,
    key,
    values: values.sort((x, y) => x - y),
  });
  const decoded = samples.filter(({ outputTokens }) => outputTokens > 1);
  return [
    series(
      "time to first token",
      "ttft_ms",
      samples.map((sample) => sample.firstTokenMs),
    ),
    series(
      "time per output token",
      "tpot_ms",
      decoded.map((one) => (one.totalMs - one.firstTokenMs) / (one.outputTokens - 1)),
    ),
    series(
      "inter-token latency",
      "itl_ms",
      samples.flatMap((sample) => sample.interTokenMs),
    ),
    series(
      "whole answer",
      "e2el_ms",
      samples.map((sample) => sample.totalMs),
    ),
  ];
}

/** The figures by key: `median_ttft_ms`, `p99_itl_ms`, `output_throughput` and so on. */
export function figuresOf({ samples, failures, durationMs }: LoadResult): Record<string, number> {
  const input = samples.reduce((sum, sample) => sum + sample.inputTokens, 0);
  const output = samples.reduce((sum, sample) => sum + sample.outputTokens, 0);
  const seconds = durationMs / 1000;
  const figures: Record<string, number> = {
    completed: samples.length,
    failed: failures.length,
    duration: seconds,
    total_input_tokens: input,
    total_output_tokens: output,
    request_throughput: samples.length / seconds,
    output_throughput: output / seconds,
    total_token_throughput: (input + output) / seconds,
  };
  for (const { key, values } of seriesOf(samples)) {
    figures[`mean_${key}`] = values.reduce((sum, value) => sum + value, 0) / values.length;
    figures[`median_${key}`] = percentile(values, 0.5);
    figures[`p99_${key}`] = percentile(values, 0.99);
  }
  return figures;
}

/** The figures for people. */
export function renderReport(result: LoadResult): string {
  const figures = figuresOf(result);
  const fixed = (value: number): string => value.toFixed(2).padStart(10);
  const lines = [
    `${figures.completed} answers in ${figures.duration.toFixed(2)} s, ${figures.failed} failures`,
    `${figures.total_input_tokens} prompt tokens, ${figures.total_output_tokens} generated`,
    `${figures.output_throughput.toFixed(1)} tokens/s generated, ` +
      `${figures.total_token_throughput.toFixed(1)} tokens/s in all, ` +
      `${figures.request_throughput.toFixed(2)} answers/s`,
    "",
    `${"milliseconds".padEnd(22)}${["mean", "p50", "p99"].map((s) => s.padStart(10)).join("")}`,
  ];
  for (const { name, key } of seriesOf(result.samples)) {
    const values = [figures[`mean_${key}`], figures[`median_${key}`], figures[`p99_${key}`]];
    lines.push(`${name.padEnd(22)}${values.map(fixed).join("")}`);
  }
  const kinds = new Map<string, number>();
  for (const failure of result.failures) kinds.set(failure, (kinds.get(failure) ?? 0) + 1);
  for (const [failure, times] of kinds) lines.push(`failed ${times} times: ${failure}`);
  return lines.join("\n");
}
