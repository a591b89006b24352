/** @file The search: the Pareto front of throughput and time between tokens, and why the best is best. */
import type { JSX } from "preact";
import type { FrontPoint, SearchReport } from "../../../planner/index.ts";
import { short } from "../format.ts";
import { Section } from "./app.tsx";

const width = 560;
const height = 280;
const margin = { left: 52, right: 16, top: 20, bottom: 36 };

/** The search's answer, or why there is none. */
export function Front({ search }: { search: SearchReport }): JSX.Element {
  if ("refusal" in search) {
    return (
      <Section title="The best use of the nodes">
        <p class="readout">{search.refusal}</p>
      </Section>
    );
  }
  const { front, why, nodes, limits } = search;
  const [best] = front;
  return (
    <Section title={`The best use of ${nodes} nodes`} hint={limits}>
      <div class="front">
        <Scatter front={front} />
        <div>
          <p>
            <b>{short(best.outputPerS)}</b> tokens/s out at <b>{best.tpotMs.toFixed(1)} ms</b> a
            token; prefill {best.prefill}, decode {best.decode}; $
            {best.dollarsPerMillion.toFixed(2)} by million tokens out.
          </p>
          <ul class="why">
            {why.map((line) => (
              <li key={line}>{line}</li>
            ))}
          </ul>
        </div>
      </div>
    </Section>
  );
}

function Scatter({ front }: { front: readonly FrontPoint[] }): JSX.Element {
  const [xMost, yMost] = [
    Math.max(...front.map(({ tpotMs }) => tpotMs)) * 1.05,
    Math.max(...front.map(({ outputPerS }) => outputPerS)) * 1.08,
  ];
  const x = (value: number) => margin.left + (value / xMost) * (width - margin.left - margin.right);
  const y = (value: number) =>
    height - margin.bottom - (value / yMost) * (height - margin.top - margin.bottom);
  return (
    <svg
      class="scatter"
      viewBox={`0 0 ${width} ${height}`}
      role="img"
      aria-label={`Pareto front of ${front.length} plans: tokens per second over time between tokens`}
    >
      {ticks(yMost).map((value) => (
        <g key={value}>
          <line
            class="grid"
            x1={margin.left}
            x2={width - margin.right}
            y1={y(value)}
            y2={y(value)}
          />
          <text x={margin.left - 8} y={y(value) + 4} text-anchor="end">
            {short(value)}
          </text>
        </g>
      ))}
      {ticks(xMost).map((value) => (
        <text key={value} x={x(value)} y={height - 18} text-anchor="middle">
          {short(value)}
        </text>
      ))}
      <text x={width - margin.right} y={height - 3} text-anchor="end">
        ms a token
      </text>
      <text x={margin.left} y={margin.top - 2}>
        tokens/s out
      </text>
      {front.map((point, i) => (
        <circle
          key={`${point.outputPerS}-${point.tpotMs}-${point.ttftMs}`}
          class={i === 0 ? "best" : "plan"}
          cx={x(point.tpotMs)}
          cy={y(point.outputPerS)}
          r={i === 0 ? 7 : 4}
        >
          <title>
            {`${short(point.outputPerS)} tokens/s, ${point.tpotMs.toFixed(1)} ms a token, ` +
              `TTFT ${(point.ttftMs / 1e3).toFixed(2)} s; prefill ${point.prefill}, decode ${point.decode}`}
          </title>
        </circle>
      ))}
    </svg>
  );
}

/** Round numbers from 0 to `most`, four to eight of them. */
function ticks(most: number): number[] {
  const rough = most / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough)!;
  return Array.from({ length: Math.floor(most / step) + 1 }, (_, i) => i * step);
}
